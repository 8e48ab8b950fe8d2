//! **P** Whether a shell command has a pipe whose first part could fail unseen.
//!
//! The answer may be too careful, never too bold: what cannot be told for certain is a pipe. The text is walked only as
//! far as its quoting is beyond doubt (plain words, `'…'`, `"…"`, `\x`, comments, here-documents). At the first `$(`,
//! `` ` ``, `${`, `$'` or quote without an end, every single `|` in the whole text counts, wherever it stands.

/// What pipes a command has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipes {
    /// None.
    None,
    /// At least one, where `set -o pipefail` sees the exit codes of all its parts.
    Direct,
    /// One inside text that is given to another shell (`su postgres -c 'pg_dump | gzip'`), where our `pipefail` does not reach.
    Nested,
}

/// Programs that take shell text as an argument or on standard input.
const SHELLS: [&str; 14] =
    ["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "busybox", "su", "runuser", "sudo", "ssh", "script", "eval"];

/// Looks for pipes in a shell command.
pub fn pipes(command: &str) -> Pipes {
    if !command.contains('|') {
        return Pipes::None;
    }
    let seen = Walk::new(command).run();
    // Somebody who has thought of it is believed: `bash -o pipefail -c '…'`.
    let nested = names_a_shell(command) && !command.contains("pipefail");
    match seen {
        Ok(Seen { quoted: true, .. }) if nested => Pipes::Nested,
        Ok(Seen { direct: true, .. }) => Pipes::Direct,
        Ok(_) => Pipes::None,
        Err(Doubt) if !single_bar(command) => Pipes::None,
        Err(Doubt) if nested => Pipes::Nested,
        Err(Doubt) => Pipes::Direct,
    }
}

fn names_a_shell(command: &str) -> bool {
    command
        .split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/')))
        .any(|word| SHELLS.contains(&word.rsplit('/').next().unwrap_or(word)))
}

/// Whether there is a `|` that is not half of a `||`.
fn single_bar(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'|' {
            at += 1;
            continue;
        }
        let run = bytes[at..].iter().take_while(|b| **b == b'|').count();
        let before = at.checked_sub(1).map(|i| bytes[i]);
        if run != 2 || matches!(before, Some(b'\\' | b'>')) {
            return true;
        }
        at += run;
    }
    false
}

/// What was met on the way.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    direct: bool,
    quoted: bool,
}

/// The quoting cannot be told for certain.
#[derive(Clone, Copy, Debug)]
struct Doubt;

struct HereDocument {
    end: String,
    /// `<<-`: tabs before each line do not count.
    tabs: bool,
    /// An unquoted delimiter: `$(…)` in the body runs.
    expands: bool,
}

struct Walk<'a> {
    text: &'a str,
    at: usize,
    seen: Seen,
    waiting: Vec<HereDocument>,
}

impl<'a> Walk<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0, seen: Seen::default(), waiting: Vec::new() }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn run(mut self) -> Result<Seen, Doubt> {
        // Whether a `#` here begins a comment, and whether the last byte was an unquoted `>`.
        let (mut word_starts, mut after_greater) = (true, false);
        while let Some(byte) = self.peek(0) {
            let was_greater = std::mem::take(&mut after_greater);
            let starts = std::mem::take(&mut word_starts);
            match byte {
                b'\\' => self.at += 2,
                b'\'' => self.single_quoted()?,
                b'"' => self.double_quoted()?,
                b'`' => return Err(Doubt),
                b'$' if matches!(self.peek(1), Some(b'(' | b'{' | b'\'' | b'"')) => return Err(Doubt),
                b'#' if starts => self.comment(),
                // After any other operator a `#` is left alone, which can only make us see too many pipes … unless a
                // quote in that comment opens what never was one.
                b'#' if self.at > 0
                    && matches!(self.text.as_bytes()[self.at - 1], b'(' | b')' | b'<' | b'>' | b'|') =>
                {
                    return Err(Doubt);
                }
                b'<' if self.peek(1) == Some(b'<') => self.here_document()?,
                b'|' => {
                    if was_greater {
                        self.at += 1;
                    } else if self.peek(1) == Some(b'|') {
                        self.at += 2;
                        self.seen.direct |= self.peek(0) == Some(b'|');
                    } else {
                        self.seen.direct = true;
                        self.at += 1;
                    }
                }
                b'\n' => {
                    self.at += 1;
                    self.here_bodies()?;
                    word_starts = true;
                }
                b' ' | b'\t' | b';' | b'&' => {
                    self.at += 1;
                    word_starts = true;
                }
                other => {
                    self.at += 1;
                    after_greater = other == b'>';
                }
            }
        }
        if self.waiting.is_empty() { Ok(self.seen) } else { Err(Doubt) }
    }

    fn single_quoted(&mut self) -> Result<(), Doubt> {
        let inside = &self.text[self.at + 1..];
        let end = inside.find('\'').ok_or(Doubt)?;
        self.seen.quoted |= single_bar(&inside[..end]);
        self.at += end + 2;
        Ok(())
    }

    fn double_quoted(&mut self) -> Result<(), Doubt> {
        let start = self.at + 1;
        self.at = start;
        loop {
            match self.peek(0).ok_or(Doubt)? {
                b'"' => break,
                b'\\' => self.at += 2,
                b'`' => return Err(Doubt),
                b'$' if matches!(self.peek(1), Some(b'(' | b'{')) => return Err(Doubt),
                _ => self.at += 1,
            }
        }
        let inside = self.text.get(start..self.at).ok_or(Doubt)?;
        self.seen.quoted |= single_bar(inside);
        self.at += 1;
        Ok(())
    }

    fn comment(&mut self) {
        self.at += self.text[self.at..].find('\n').unwrap_or(self.text.len() - self.at);
    }

    /// `<<word`; its body begins after the line. `<<<` is a word on standard input and has no body.
    fn here_document(&mut self) -> Result<(), Doubt> {
        // `((1<<2))` shifts.
        if self.text.contains("((") {
            return Err(Doubt);
        }
        self.at += 2;
        if self.peek(0) == Some(b'<') {
            self.at += 1;
            return Ok(());
        }
        let tabs = self.peek(0) == Some(b'-');
        self.at += usize::from(tabs);
        while matches!(self.peek(0), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        let quote = self.peek(0).filter(|b| matches!(b, b'\'' | b'"'));
        self.at += usize::from(quote.is_some());
        let rest = &self.text[self.at..];
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = rest.find(|c| !plain(c)).unwrap_or(rest.len());
        let after = rest.as_bytes().get(end).copied();
        let closed = match quote {
            Some(quote) => after == Some(quote),
            None => matches!(after, None | Some(b' ' | b'\t' | b'\n' | b';' | b'|' | b'&' | b')' | b'<' | b'>')),
        };
        if end == 0 || !closed {
            return Err(Doubt);
        }
        self.waiting.push(HereDocument { end: rest[..end].to_owned(), tabs, expands: quote.is_none() });
        self.at += end + usize::from(quote.is_some());
        Ok(())
    }

    fn here_bodies(&mut self) -> Result<(), Doubt> {
        for document in std::mem::take(&mut self.waiting) {
            loop {
                let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty()).ok_or(Doubt)?;
                let line = rest.split('\n').next().unwrap_or(rest);
                self.at = (self.at + line.len() + 1).min(self.text.len());
                let bare = if document.tabs { line.trim_start_matches('\t') } else { line };
                if bare == document.end {
                    break;
                }
                // A line that ends in `\` is joined with the next one, also where that is the end.
                if document.expands && (line.contains('`') || line.contains("$(") || line.ends_with('\\')) {
                    return Err(Doubt);
                }
                self.seen.quoted |= single_bar(line);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_cases_that_people_write() {
        for (command, expected) in [
            ("pg_dumpall > /backup/dump.sql", Pipes::None),
            ("pg_dump app || exit 7", Pipes::None),
            ("pg_dump app >| /backup/a", Pipes::None),
            ("psql -c \"select a || b from t\"", Pipes::None),
            ("psql -c 'select 1 | 2'", Pipes::None),
            ("echo a\\|b", Pipes::None),
            ("pg_dumpall # | gzip, we compress", Pipes::None),
            ("psql <<'SQL'\nselect 'it''s' | 1;\nSQL\n", Pipes::None),
            ("psql <<SQL\nselect 1 | 2;\nSQL", Pipes::None),
            ("cat <<-\tEOF\n\tone | two\n\tEOF\n", Pipes::None),
            ("x=$(date) && pg_dump \"$x\" || exit 1", Pipes::None),
            ("pg_dump | gzip", Pipes::Direct),
            ("pg_dump |& gzip", Pipes::Direct),
            ("pg_dump\\\n| gzip", Pipes::Direct),
            ("echo '#' | cat", Pipes::Direct),
            ("echo a#b | cat", Pipes::Direct),
            ("echo \\\\| cat", Pipes::Direct),
            ("echo \\'| cat", Pipes::Direct),
            ("echo \\|| cat", Pipes::Direct),
            ("echo \\>| cat", Pipes::Direct),
            ("cat <<'A' | gzip\nx\nA\n", Pipes::Direct),
            ("cat <<A\nit's\nA\nfalse | cat # it's", Pipes::Direct),
            ("# it's\nfalse | cat", Pipes::Direct),
            ("echo \"$(false | cat)\"", Pipes::Direct),
            ("echo `false | cat`", Pipes::Direct),
            ("echo \"${x:-it's}\"; false | cat; echo 'x'", Pipes::Direct),
            ("echo $((1<<2))\nfalse | cat\n2", Pipes::Direct),
            ("(( x = 1<<A ))\nfalse | cat\nA", Pipes::Direct),
            ("echo $'\\'' | cat '", Pipes::Direct),
            ("cat <<A\\\nB\nx\nA\nfalse | cat\nAB\n", Pipes::Direct),
            ("su postgres -c 'pg_dumpall | gzip'", Pipes::Nested),
            ("/bin/sh -c \"false | cat\"", Pipes::Nested),
            ("sh <<'E'\nfalse | cat\nE\n", Pipes::Nested),
            ("bash -o pipefail -c 'false | cat'", Pipes::None),
            ("su postgres -c 'a || b'", Pipes::None),
            ("eval 'false | cat' | gzip", Pipes::Nested),
        ] {
            assert_eq!(pipes(command), expected, "{command}");
        }
    }

    /// One word without a pipe in it, in any quoting that a shell knows.
    fn word() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z]{1,5}",
            "'[a-z |\"#$`\\\\<]{0,6}'",
            "\"[a-z |'#<]{0,6}\"",
            "\\\\[|'\"#$`<> ]",
            Just("$(echo it\\'s)".to_owned()),
            Just("${x:-a}".to_owned()),
            "[a-z]{1,3}#[a-z]{1,3}",
        ]
    }

    fn simple() -> impl Strategy<Value = String> {
        let redirect = prop_oneof![Just(String::new()), Just(" >| out".to_owned()), Just(" <in".to_owned())];
        (proptest::collection::vec(word(), 1..5), redirect)
            .prop_map(|(words, redirect)| format!("x {}{redirect}", words.join(" ")))
    }

    fn line() -> impl Strategy<Value = String> {
        (simple(), prop_oneof![Just(""), Just(" # it's a | comment"), Just(" || true"), Just(";")], any::<bool>())
            .prop_map(
                |(command, end, here)| {
                    if here { format!("{command} <<'E'{end}\nit's | \"\nE\n") } else { format!("{command}{end}\n") }
                },
            )
    }

    proptest! {
        /// Wherever a pipe stands between lines of any quoting, it is seen.
        #[test]
        fn no_pipe_is_missed(
            before in proptest::collection::vec(line(), 0..4),
            left in simple(),
            right in simple(),
            bar in prop_oneof![Just("|"), Just(" |"), Just("| "), Just("|& "), Just("|\n")],
            after in proptest::collection::vec(line(), 0..4),
        ) {
            let command = format!("{}{left}{bar}{right}\n{}", before.concat(), after.concat());
            // `>| out|x` is as plain; `>|` alone before our bar is not.
            prop_assert_ne!(pipes(&command), Pipes::None, "{}", command);
        }

        #[test]
        fn any_text_has_an_answer(command in "[a-z|'\"\\\\$(){}`<>#\n -]{0,60}") {
            let seen = pipes(&command);
            prop_assert!(seen == Pipes::None || command.contains('|'));
        }
    }
}
