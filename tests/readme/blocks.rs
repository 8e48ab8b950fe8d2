//! Reading the README as data: its fenced blocks, each with the mark that says what a test does with it, and its tables.
//!
//! The mark stands behind the language, where code hosts ignore it:
//!
//! | block | what happens with it |
//! |---|---|
//! | `sh local` | run by `tests/readme.rs`, in order, in one folder |
//! | `sh cluster`, `sh image` | run by `tests/cluster/tests/readme.rs` on a real cluster, in order, in one folder |
//! | `sh rig` | read by the rig's own command line; what the commands do is `tests/cluster/tests/example.rs` and all the others |
//! | `text output` | what the block before it printed, numbers apart |
//! | `text header` | the first line of what the block before it printed |
//! | `yaml manifests/…` | byte for byte this file |
//! | `yaml dry-run` | accepted by a real API server, and by the operator's validation |
//! | `json` | parsed |
//! | `mermaid` | a picture |

#![allow(dead_code, unreachable_pub, reason = "part of each test binary, which uses a part of it")]

/// Everything that may stand behind the opening fence.
const MARKS: [&str; 9] =
    ["sh local", "sh cluster", "sh image", "sh rig", "text output", "text header", "yaml dry-run", "json", "mermaid"];

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The line of its opening fence, from 1.
    pub line: usize,
    /// Language and mark.
    pub mark: String,
    /// What stands in it, each line with its end.
    pub text: String,
}

/// All blocks, in order; an error names the line of a fence that is not closed, or of a block without a mark.
pub fn blocks(readme: &str) -> Result<Vec<Block>, String> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in readme.lines().enumerate() {
        match (open.take(), line.trim_start().strip_prefix("```")) {
            (None, Some(info)) => {
                let mark = info.trim().to_owned();
                if !MARKS.contains(&mark.as_str()) && !mark.starts_with("yaml manifests/") {
                    return Err(format!("line {}: nobody checks a block that is marked {mark:?}", number + 1));
                }
                open = Some(Block { line: number + 1, mark, text: String::new() });
            }
            (Some(block), Some("")) => found.push(block),
            (Some(mut block), _) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    match open {
        Some(block) => Err(format!("line {}: the block is not closed", block.line)),
        None => Ok(found),
    }
}

/// A text with everything taken out that differs from one day to the next: words with a digit in them become `#`, and
/// spaces become one.
pub fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut word = String::new();
    for character in text.chars().chain(['\n']) {
        if character.is_ascii_alphanumeric() {
            word.push(character);
            continue;
        }
        if word.contains(|c: char| c.is_ascii_digit()) {
            plain.push('#');
        } else {
            plain.push_str(&word);
        }
        word.clear();
        plain.push(character);
    }
    let lines: Vec<String> = plain.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    lines.join("\n").trim().to_owned()
}

/// Compares what a block printed with the `text` block behind it, if there is one.
pub fn compare(expected: Option<&Block>, printed: &str) -> Result<(), String> {
    let Some(expected) = expected else { return Ok(()) };
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let (is, should) = match expected.mark.as_str() {
        "text output" => (plain(printed), plain(&expected.text)),
        "text header" => (first(&plain(printed)), first(&plain(&expected.text))),
        _ => return Ok(()),
    };
    if is == should {
        return Ok(());
    }
    Err(format!("line {}: the README shows\n{}\nand this was printed\n{printed}", expected.line, expected.text))
}

/// The rows of the table whose header begins with `first`: the cells of each, without backticks.
pub fn table(readme: &str, first: &str) -> Vec<Vec<String>> {
    let start = format!("| {first} |");
    let rows = readme.lines().skip_while(|line| !line.starts_with(&start)).skip(2).take_while(|l| l.starts_with('|'));
    rows.map(|row| {
        let row = row.trim().trim_matches('|');
        row.split(" | ").map(|cell| cell.trim().replace('`', "")).collect()
    })
    .collect()
}
