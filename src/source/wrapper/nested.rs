//! **P** Whether a command gives another shell a text of several commands, in which a failing one could go unseen.
//!
//! `set -e` does not reach the shell of `su postgres -c 'pg_dump a; pg_dump b'`, which tells the last one's exit code alone.
//! Looked at is what a shell is known to run: the text after the `-c` of a shell, of `su` or `runuser`, and the words of
//! `eval`. SQL after `psql -c` is none. An expansion is a word of unknown value, and what stands in it or in a here-document
//! is not looked at: nothing is refused but what a shell runs, and not everything that could fail unseen is found.

/// Programs that take shell text after `-c`.
const SHELLS: [&str; 7] = ["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh"];
/// Programs that hand the text after their `-c` to a shell.
const RUNNERS: [&str; 2] = ["su", "runuser"];
/// Nobody writes shells within shells deeper than that to dump a database.
const DEPTH: usize = 8;

/// Whether a failing command could go unseen in text for another shell.
pub fn gives_several(command: &str) -> bool {
    looked_into(command, DEPTH)
}

fn looked_into(command: &str, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return true };
    simple_commands(command).iter().filter_map(|simple| text_for_a_shell(&simple.words)).any(|given| {
        let several = !given.strict && is_several(&given.text);
        several || looked_into(&given.text, depth)
    })
}

/// A text that a shell runs, and whether that shell ends where a part of it fails.
struct Given {
    text: String,
    strict: bool,
}

fn text_for_a_shell(words: &[String]) -> Option<Given> {
    let name = |word: &String| word.rsplit('/').next().unwrap_or_default().to_owned();
    let at = words.iter().position(|word| {
        let name = name(word);
        name == "eval" || SHELLS.contains(&&*name) || RUNNERS.contains(&&*name)
    })?;
    let (name, arguments) = (name(&words[at]), &words[at + 1..]);
    if name == "eval" {
        return Some(Given { text: arguments.join(" "), strict: false });
    }
    let is_shell = SHELLS.contains(&&*name);
    let mut strict = false;
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        if let Some(text) = word.strip_prefix("--command=").filter(|_| !is_shell) {
            return Some(Given { text: text.to_owned(), strict });
        }
        match word.strip_prefix('-') {
            // What follows are arguments of a script, or of a program that is run without a shell.
            Some("-") => return None,
            Some("-command") if !is_shell => return rest.next().map(|text| Given { text: text.clone(), strict }),
            Some(long) if long.starts_with('-') => {}
            Some(flags) => {
                strict |= is_shell && flags.contains('e');
                if is_shell && flags.ends_with('o') {
                    strict |= rest.next().is_some_and(|option| option == "errexit");
                } else if flags.contains('c') {
                    return rest.next().map(|text| Given { text: text.clone(), strict });
                }
            }
            // `sh script`; but `su postgres -c …`.
            None if is_shell => return None,
            None => {}
        }
    }
    None
}

/// Whether a command of the text could fail and be followed by another one all the same.
fn is_several(text: &str) -> bool {
    let commands = simple_commands(text);
    let begins = commands.first().map_or(&[][..], |first| &first.words);
    let errexit = |word: &String| word == "errexit" || word.strip_prefix('-').is_some_and(|flags| flags.contains('e'));
    if begins.first().is_some_and(|first| first == "set") && begins.iter().any(errexit) {
        return false;
    }
    commands.iter().rev().skip(1).any(|before| before.goes_on)
}

/// Words without their quotes, up to what ends a simple command.
#[derive(Debug, Default)]
struct Simple {
    words: Vec<String>,
    /// Whether what follows runs whatever comes of this: after `;`, `&` and at a line's end, but not after `&&`, `||`, `|`.
    goes_on: bool,
}

/// The simple commands of a text, without those that have no word.
fn simple_commands(text: &str) -> Vec<Simple> {
    let mut reader = Reader { text: text.chars().collect(), ..Reader::default() };
    reader.read();
    reader.commands
}

#[derive(Default)]
struct Reader {
    text: Vec<char>,
    at: usize,
    word: Option<String>,
    words: Vec<String>,
    commands: Vec<Simple>,
    /// A parenthesis was closed, and what ends it has not come yet.
    closed: bool,
    /// Ends of the here-documents that begin after this line, and whether tabs before them do not count.
    documents: Vec<(String, bool)>,
}

impl Reader {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn push(&mut self, character: char) {
        self.word.get_or_insert_default().push(character);
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    fn end_command(&mut self, goes_on: bool) {
        self.end_word();
        if !self.words.is_empty() {
            self.commands.push(Simple { words: std::mem::take(&mut self.words), goes_on });
            self.closed = false;
        } else if let Some(last) = self.commands.last_mut().filter(|_| self.closed) {
            last.goes_on |= goes_on; // `(a); b`
        }
    }

    fn read(&mut self) {
        while let Some(character) = self.peek(0) {
            let next = self.peek(1);
            match character {
                '\\' => {
                    // A line that goes on in the next one.
                    if let Some(escaped) = next.filter(|next| *next != '\n') {
                        self.push(escaped);
                    }
                    self.at += 2;
                }
                '\'' => self.single_quoted(),
                '"' => self.double_quoted(),
                '$' | '`' => self.expansion(),
                '#' if self.word.is_none() => {
                    while self.peek(0).is_some_and(|character| character != '\n') {
                        self.at += 1;
                    }
                }
                '\n' => {
                    self.at += 1;
                    self.end_command(true);
                    self.skip_documents();
                }
                '<' | '>' => self.redirection(),
                '&' if next == Some('>') => {
                    self.at += 2;
                    self.end_word();
                }
                '&' | '|' | ';' | '(' | ')' => {
                    self.at += 1;
                    let joined = matches!(character, '|' | '(' | ')') || (character == '&' && next == Some('&'));
                    if character != ';' && next == Some(character) {
                        self.at += 1;
                    }
                    self.end_command(!joined);
                    self.closed = character == ')';
                }
                ' ' | '\t' | '\r' => {
                    self.at += 1;
                    self.end_word();
                }
                other => {
                    self.at += 1;
                    self.push(other);
                }
            }
        }
        self.end_command(false);
    }

    fn single_quoted(&mut self) {
        self.word.get_or_insert_default();
        self.at += 1;
        while let Some(character) = self.peek(0) {
            self.at += 1;
            if character == '\'' {
                return;
            }
            self.push(character);
        }
    }

    fn double_quoted(&mut self) {
        self.word.get_or_insert_default();
        self.at += 1;
        while let Some(character) = self.peek(0) {
            match (character, self.peek(1)) {
                ('"', _) => {
                    self.at += 1;
                    return;
                }
                ('\\', Some('\n')) => self.at += 2,
                ('\\', Some(escaped @ ('"' | '\\' | '$' | '`'))) => {
                    self.push(escaped);
                    self.at += 2;
                }
                ('$' | '`', _) => self.expansion(),
                _ => {
                    self.push(character);
                    self.at += 1;
                }
            }
        }
    }

    /// `$(…)`, `${…}` and `` `…` `` are stepped over, with a `$` for their value; any other `$` is itself.
    fn expansion(&mut self) {
        self.push('$');
        let (open, close) = match (self.peek(0), self.peek(1)) {
            (Some('`'), _) => (None, '`'),
            (_, Some('(')) => (Some('('), ')'),
            (_, Some('{')) => (Some('{'), '}'),
            _ => {
                self.at += 1;
                return;
            }
        };
        self.at += if open.is_some() { 2 } else { 1 };
        let (mut depth, mut quote) = (1_usize, None);
        while let Some(character) = self.peek(0) {
            self.at += 1;
            match character {
                '\\' if quote != Some('\'') => self.at += 1,
                _ if quote == Some(character) => quote = None,
                _ if quote.is_some() => {}
                '\'' | '"' => quote = Some(character),
                _ if character == close => {
                    depth -= 1;
                    if depth == 0 {
                        return;
                    }
                }
                _ if Some(character) == open => depth += 1,
                _ => {}
            }
        }
    }

    fn redirection(&mut self) {
        self.end_word();
        let document = self.peek(0) == Some('<') && self.peek(1) == Some('<') && self.peek(2) != Some('<');
        while matches!(self.peek(0), Some('<' | '>' | '&' | '|')) {
            self.at += 1;
        }
        if !document {
            return;
        }
        let tabs = self.peek(0) == Some('-');
        self.at += usize::from(tabs);
        while matches!(self.peek(0), Some(' ' | '\t')) {
            self.at += 1;
        }
        let mut end = String::new();
        while let Some(character) = self.peek(0).filter(|character| !" \t\n;&|()<>".contains(*character)) {
            self.at += 1;
            if !matches!(character, '\'' | '"' | '\\') {
                end.push(character);
            }
        }
        self.documents.push((end, tabs));
    }

    fn skip_documents(&mut self) {
        for (end, tabs) in std::mem::take(&mut self.documents) {
            while self.at < self.text.len() {
                let rest = &self.text[self.at..];
                let length = rest.iter().position(|character| *character == '\n').unwrap_or(rest.len());
                let line: String = rest[..length].iter().collect();
                self.at += length + 1;
                if (if tabs { line.trim_start_matches('\t') } else { &line }) == end {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn several_commands_for_another_shell_are_seen() {
        for command in [
            "su postgres -c 'pg_dump a; pg_dump b'",
            "su postgres -c \"pg_dump a\npg_dump b\"",
            "su - postgres -s /bin/sh -c 'pg_dump a; pg_dump b'",
            "runuser -u postgres --command='pg_dump a; pg_dump b'",
            "su postgres --command 'pg_dump a; pg_dump b'",
            "/bin/sh -c 'pg_dump a & pg_dump b; wait'",
            "bash -o pipefail -c 'a; b'",
            "sudo -u postgres sh -c 'a; b'",
            "busybox sh -c 'a; b'",
            "bash -c \"su x -c 'a; b'\"",
            "bash -c \"su x -c \\\"a; b\\\"\"",
            "eval 'a; b'",
            "sh -c '(a); b'",
            "sh -c 'for d in a b; do pg_dump $d; done'",
            "sh -c 'a && b; c'",
            // What is set for us does not reach it, nor does what stands after the first of them.
            "set -euo pipefail\nsu postgres -c 'pg_dump a; pg_dump b'",
            "sh -c 'pg_dump a; set -e; pg_dump b'",
            // Behind expansions, too.
            "P=$(cat /p)\nsu postgres -c 'a; b'",
            "bash -c \"pg_dump ${A}; pg_dump ${B}\"",
            "su postgres -c 'pg_dump a; pg_dump b'; echo $(date)",
            "echo `date '+%s'`; sh -c 'a; b'",
            "cat <<E\nit's\nE\nsh -c 'a; b'",
            "su mysql -c 'mysql -e x; mysqldump y'",
        ] {
            assert!(gives_several(command), "{command}");
        }
    }

    #[test]
    fn one_command_or_what_no_shell_runs_is_not_refused() {
        for command in [
            "pg_dump a; pg_dump b",
            "su postgres -c 'pg_dump a'; su postgres -c 'pg_dump b'",
            "su postgres -c 'pg_dump a && pg_dump b'",
            "su postgres -c 'pg_dump a &&\n pg_dump b'",
            "su postgres -c 'pg_dump a || exit 3'",
            "su postgres -c 'pg_dump a;'",
            "su postgres -c '\npg_dump a # all; of it\n'",
            "su postgres -c 'pg_dump a > x 2>&1'",
            "su postgres -c 'pg_dump a &> /dev/null'",
            "su postgres -c 'pg_dump \\\n a'",
            "su postgres -c \"psql -c 'select 1; select 2'\"",
            "su postgres -c \"psql -c \\\"CHECKPOINT;\\\"\"",
            "su postgres -c 'psql -c '\\''select 1; select 2'\\'''",
            "su postgres -c 'psql <<SQL\nselect 1;\nselect 2;\nSQL'",
            "su postgres -c psql <<SQL\nselect 1;\nselect 2;\nSQL",
            "sudo -u postgres psql -c \"select 1; select 2\"",
            "runuser -u postgres -- psql -c \"SELECT a\n FROM b\"",
            "psql -c 'select 1; select 2'",
            "su postgres -c 'set -e; pg_dump a; pg_dump b'",
            "su postgres -c 'set -o errexit\npg_dump a; pg_dump b'",
            "bash -euo pipefail -c 'pg_dump a; pg_dump b'",
            "sh -ec 'pg_dump a; pg_dump b'",
            "sh -o errexit -c 'pg_dump a; pg_dump b'",
            "sh /script.sh -c 'a; b'",
            "echo 'sh -c a; b'",
            "",
        ] {
            assert!(!gives_several(command), "{command}");
        }
        // Nobody's dump; and nobody's stack.
        assert!(gives_several(&"eval ".repeat(10_000)));
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(command in "[a-c|'\"\\\\$(){}`<>#\n;& -]{0,60}") {
            prop_assert!(!gives_several(&command), "no shell is named: {}", command);
            let _ = gives_several(&format!("sh -c {command}"));
            let _ = gives_several(&format!("eval {command}"));
        }

        /// Between words of any quoting.
        #[test]
        fn what_goes_on_after_a_failure_is_seen(
            words in proptest::collection::vec("[a-z]{1,4}|'[a-z;&| ]{1,4}'|\\$\\(x; y\\)|\\$\\{x\\}|\\\\;", 2..5),
            ends in "[;\n&]", quiet in any::<bool>(),
        ) {
            let text = format!("x {} {ends} y", words.join(" "));
            let quoted = format!("'{}'", text.replace('\'', "'\\''"));
            let flags = if quiet { "-ec" } else { "-c" };
            prop_assert_eq!(gives_several(&format!("su me -c {quoted}")), true, "{}", quoted);
            prop_assert_eq!(gives_several(&format!("sh {flags} {quoted}")), !quiet, "{}", quoted);
            let joined = format!("'{}'", text.replace(&format!(" {ends} y"), " && y").replace('\'', "'\\''"));
            prop_assert_eq!(gives_several(&format!("su me -c {joined}")), false, "{}", joined);
        }
    }
}
