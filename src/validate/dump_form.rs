//! **P** Where a dump's bytes come from, when nobody said so (`output: Auto`).
//!
//! A command that writes into the backup directory, and one that writes to standard output, are told apart by their text
//! alone, once, so that the same command is always read in the same way: it is the directory form if the text holds the
//! directory as a whole path, or the name of the variable that holds it.

use super::DumpForm;

/// The variable that holds the directory's path in the command's environment.
pub(super) const DIRECTORY_VARIABLE: &str = "UBO_BACKUP_DIR";

/// The form of a dump whose `output` is `Auto`. `directory` is an absolute path without a slash at its end.
pub fn dump_form(command: &str, directory: &str) -> DumpForm {
    if command.contains(DIRECTORY_VARIABLE) || names_path(command, directory) {
        DumpForm::Directory(directory.to_owned())
    } else {
        DumpForm::Stdout
    }
}

/// Whether `text` holds `path` as a whole path: not as the end of a longer one, nor as the beginning of a longer name.
fn names_path(text: &str, path: &str) -> bool {
    text.match_indices(path).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let after = text[start + path.len()..].chars().next();
        before.is_none_or(|c| !continues_path(c)) && after.is_none_or(ends_path)
    })
}

/// Characters after which `/backup` is not a path of its own: those of names, and those in which an expansion or a pattern
/// ends (`${HOME}/backup`, `$(pwd)/backup`, `*/backup`), and the colon of `host:/backup`.
fn continues_path(c: char) -> bool {
    c.is_alphanumeric() || "_-.~+%:/}])*?$\\".contains(c)
}

/// Characters before which a path is whole: what lies below it, a quote, or the end of the word.
fn ends_path(c: char) -> bool {
    c.is_whitespace() || "/'\"`;&|)".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_directory(command: &str) -> bool {
        dump_form(command, "/backup") == DumpForm::Directory("/backup".into())
    }

    #[test]
    fn the_directory_as_a_whole_path() {
        for command in [
            "pg_dumpall > /backup/dump.sql",
            "pg_dumpall >/backup/dump.sql",
            "pg_dump -f '/backup/x y.sql' app",
            "pg_dump --file=\"/backup/app.sql\"",
            "cd /backup && pg_dumpall > dump.sql",
            "cd /backup; pg_dumpall > dump.sql",
            "(cd /backup)",
            "cd /backup",
            "cd /backup\npg_dumpall > dump.sql",
            "pg_basebackup -D \"$UBO_BACKUP_DIR\"",
            "ls /mnt/backup; pg_dumpall > /backup/dump.sql",
            "curl -o x -F f=@/backup/x",
        ] {
            assert!(is_directory(command), "{command}");
        }
    }

    #[test]
    fn not_the_directory() {
        for command in [
            "pg_dumpall",
            "mysqldump --all-databases",
            "cat /var/backup/dump.sql",
            "cat /mnt/backup",
            "cat /backups/dump.sql",
            "cat /backup.sql",
            "cat /backup-old/x",
            "cat ~/backup/x",
            "cat $HOME/backup/x",
            "cat ${HOME}/backup/x",
            "cat $(pwd)/backup/x",
            "cat ../backup/x",
            "cat */backup/x",
            "rsync host:/backup/ -",
            "cat ä/backup/x",
            "",
        ] {
            assert!(!is_directory(command), "{command}");
        }
    }

    #[test]
    fn the_directory_may_be_another_one() {
        assert_eq!(dump_form("dump > /var/dumps/x", "/var/dumps"), DumpForm::Directory("/var/dumps".into()));
        assert_eq!(dump_form("dump > /backup/x", "/var/dumps"), DumpForm::Stdout);
    }

    proptest! {
        // Against the rule as it is written in words, on texts made of the pieces that matter.
        #[test]
        fn as_the_rule_says(pieces in prop::collection::vec(
            prop_oneof![
                Just("/backup"), Just("/"), Just("backup"), Just(" "), Just("\n"), Just("'"), Just("\""), Just("`"),
                Just(";"), Just("&"), Just("|"), Just(")"), Just("("), Just(">"), Just("="), Just("x"), Just("."),
                Just("-"), Just("}"), Just("*"), Just("ü"), Just(","), Just("$"), Just(":"), Just("@"), Just("\\"),
            ], 0..12))
        {
            let text = pieces.concat();
            let chars: Vec<char> = text.chars().collect();
            let word: Vec<char> = "/backup".chars().collect();
            let mut expected = false;
            for at in 0..chars.len() {
                if !chars[at..].starts_with(&word) { continue; }
                let name_before = at > 0 && {
                    let c = chars[at - 1];
                    !(c.is_whitespace() || ['\'', '"', '`', ';', '&', '|', '(', '>', '=', ',', '@'].contains(&c))
                };
                let ends = chars.get(at + word.len()).is_none_or(|c| {
                    ['/', '\'', '"', '`', ' ', '\n', ';', '&', '|', ')'].contains(c)
                });
                expected |= !name_before && ends;
            }
            prop_assert_eq!(is_directory(&text), expected, "{:?}", text);
        }

        #[test]
        fn nothing_panics(text in ".{0,60}", directory in "/[a-zä/]{1,8}") {
            let _ = dump_form(&text, &directory);
        }

        #[test]
        fn the_variable_alone_is_enough(before in "[a-z $\"{]{0,9}", after in "[a-z }/\"]{0,9}") {
            let command = format!("{before}UBO_BACKUP_DIR{after}");
            prop_assert!(is_directory(&command), "{}", command);
        }
    }
}
