//! **P** Keeps the values of a Secret out of what is written down of a command's output.
//!
//! A database's pod may have the destination's keys in its environment, and a command that fails may print them: then
//! they must not stand in the operator's log, which other people read. Only what the attempt itself knows can be found.

use memchr::memmem::Finder;
use std::fmt;

/// Shorter values are settings and flags; hiding each `true` would make the log unreadable and protect nothing.
const SHORTEST: usize = 8;

/// What stands in a value's place.
const INSTEAD: &[u8] = b"[hidden]";

/// Values that nobody may read.
#[derive(Clone, Default)]
pub struct Hidden(Vec<Finder<'static>>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

impl Hidden {
    /// The values of a Secret. Of one with several lines (a key in PEM) each line is hidden by itself, since a program
    /// may print them in another form.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let lines = values.into_iter().flat_map(str::lines).map(str::trim);
        let mut lines: Vec<&str> = lines.filter(|line| line.len() >= SHORTEST).collect();
        // The longest first: one value may be a part of another.
        lines.sort_by_key(|line| std::cmp::Reverse(line.len()));
        lines.dedup();
        Self(lines.into_iter().map(|line| Finder::new(line).into_owned()).collect())
    }

    /// The text without them.
    pub fn hide(&self, text: Vec<u8>) -> Vec<u8> {
        self.0.iter().fold(text, |text, value| {
            let mut kept = Vec::new();
            let mut from = 0;
            for at in value.find_iter(&text) {
                kept.extend_from_slice(&text[from..at]);
                kept.extend_from_slice(INSTEAD);
                from = at + value.needle().len();
            }
            if from == 0 {
                return text;
            }
            kept.extend_from_slice(&text[from..]);
            kept
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hide(values: &[&str], text: &str) -> String {
        String::from_utf8(Hidden::new(values.iter().copied()).hide(text.into())).unwrap()
    }

    #[test]
    fn values_are_hidden_and_nothing_else() {
        assert_eq!(hide(&["p4ssw0rd!"], "user=me password=p4ssw0rd! host=db"), "user=me password=[hidden] host=db");
        assert_eq!(hide(&["p4ssw0rd!"], "p4ssw0rd!p4ssw0rd!"), "[hidden][hidden]");
        assert_eq!(hide(&["true", ""], "true enough"), "true enough");
        // A value that is a part of another does not leave the rest of that in sight.
        assert_eq!(hide(&["12345678", "1234567890"], "1234567890 12345678"), "[hidden] [hidden]");
        assert_eq!(hide(&["first line\n  second line\n"], "second line, first line"), "[hidden], [hidden]");
        assert_eq!(format!("{:?}", Hidden::new(["p4ssw0rd!"])), "Hidden");
    }

    proptest! {
        #[test]
        fn no_value_is_left(values in proptest::collection::vec("[a-c]{8,12}", 1..4), parts in proptest::collection::vec("[a-d ]{0,12}", 0..6)) {
            let text = parts.iter().zip(values.iter().cycle()).flat_map(|(part, value)| [part.as_str(), value]).collect::<String>();
            let hidden = Hidden::new(values.iter().map(String::as_str)).hide(text.into_bytes());
            for value in &values {
                prop_assert!(memchr::memmem::find(&hidden, value.as_bytes()).is_none());
            }
        }
    }
}
