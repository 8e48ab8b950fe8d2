//! Every path that a file names, with its line.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A path as it is written, `use` trees taken apart: `["crate", "error", "Failure"]`. A glob ends in `*`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
}

/// The paths of two segments or more outside of tests. The error is one of lexing.
pub(crate) fn named(text: &str) -> Result<Vec<Named>, String> {
    let tokens: TokenStream = text.parse().map_err(|error: proc_macro2::LexError| error.to_string())?;
    let mut found = Vec::new();
    walk(tokens, &mut found);
    Ok(found)
}

fn walk(tokens: TokenStream, found: &mut Vec<Named>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if let Some(after) = after_test_item(&tokens, at) {
            at = after;
        } else if let Some(after) = path(&tokens, at, &[], found) {
            at = after;
        } else {
            if let TokenTree::Group(group) = &tokens[at] {
                walk(group.stream(), found);
            }
            at += 1;
        }
    }
}

/// If `#[cfg(test)]` stands here: where the item that it belongs to is over.
fn after_test_item(tokens: &[TokenTree], at: usize) -> Option<usize> {
    let [TokenTree::Punct(hash), TokenTree::Group(attribute), ..] = &tokens[at..] else { return None };
    let text: String = attribute.stream().to_string().chars().filter(|c| !c.is_whitespace()).collect();
    if hash.as_char() != '#' || text != "cfg(test)" {
        return None;
    }
    let ends = |token: &TokenTree| match token {
        TokenTree::Punct(punct) => punct.as_char() == ';',
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        _ => false,
    };
    // A `use` tree has braces too; there only the semicolon ends it.
    let is_use = tokens[at + 2..].iter().take(4).any(|token| matches!(token, TokenTree::Ident(word) if word == "use"));
    let semicolon = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ';');
    let end = tokens[at + 2..].iter().position(|token| if is_use { semicolon(token) } else { ends(token) });
    Some(end.map_or(tokens.len(), |end| at + 2 + end + 1))
}

/// Reads one path that begins here, below `before`; gives where it ends.
fn path(tokens: &[TokenTree], at: usize, before: &[String], found: &mut Vec<Named>) -> Option<usize> {
    let TokenTree::Ident(first) = tokens.get(at)? else { return None };
    let line = first.span().start().line;
    let mut segments = before.to_vec();
    segments.push(first.to_string());
    let mut at = at + 1;
    while is_double_colon(tokens, at) {
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(next)) => {
                segments.push(next.to_string());
                at += 3;
            }
            Some(TokenTree::Punct(star)) if star.as_char() == '*' => {
                segments.push("*".into());
                at += 3;
                break;
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                branches(group, &segments, found);
                return Some(at + 3);
            }
            // `::<…>` and the like: the path is over as far as modules go.
            _ => break,
        }
    }
    if segments.len() > 1 {
        found.push(Named { segments, line });
    }
    Some(at)
}

/// The branches of a `use` tree.
fn branches(group: &Group, before: &[String], found: &mut Vec<Named>) {
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if let Some(after) = path(&tokens, at, before, found) {
            at = after;
            // `as name` names nothing.
            if matches!(tokens.get(at), Some(TokenTree::Ident(word)) if word == "as") {
                at += 2;
            }
        } else {
            if matches!(&tokens[at], TokenTree::Punct(punct) if punct.as_char() == '*') {
                let segments = before.iter().cloned().chain(["*".to_owned()]).collect();
                found.push(Named { segments, line: tokens[at].span().start().line });
            }
            at += 1;
        }
    }
}

fn is_double_colon(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    colon(at) && colon(at + 1)
}
