//! **P** What `tar` printed while it packed somebody's files, and what that makes of its exit code.
//!
//! The three kinds mean different things by the same code. GNU tar ends with 1 when files changed under its hands and with 2
//! when something could not be read; busybox's and libarchive's tar end with 1 whatever it was. So the lines decide, and the
//! code only says whether there must be some. A line that nobody knows counts as a file that could not be read: what is
//! taken for harmless is a short list. `LC_ALL=C` keeps the words English.
//!
//! libarchive's tar ends its walk at the first file that it cannot open, also at one that went away after it was listed,
//! and closes the archive in good order: what comes after is not in it, and no line says so. So "No such file" is harmless
//! only from a tar that is known to go on.
//!
//! A code of 0 hides nothing either (`--ignore-failed-read` makes one out of a 2): what a tar then says was not read, was not.
//! There only lines count that begin with a tar's name, since what a hook has left running prints to the same stream.
//!
//! Standard error can be cut short like any stream of an exec. The wrapper says when tar has ended ([`TarWords::end`]); a
//! tar that did not end with 0 and whose last words were not seen is believed nothing.
//!
//! A file that grows, or is written over, while it is read is noticed by GNU tar alone. For the others the wrapper compares
//! names, sizes and times of all files before and after ([`TarWords::changed`]); where it has no tool for that it says that
//! it is blind.

/// How many names of each sort are kept.
const NAMED_LIMIT: usize = 5;
/// Longest line, in bytes. Of a longer one the end is lost, which tells it apart: it counts as a file that was not read.
const LINE_LIMIT: usize = 8192;

/// Ends of lines that tell of a file that changed.
const CHANGED: [&str; 3] =
    [": file changed as we read it", "; padding with zeros", "file may have grown while being archived."];
/// Ends of lines that tell of files that went away, and that tar went on. libarchive's names all of those between two that
/// it packs in one line, and adds the system's words.
const VANISHED: [&str; 2] =
    [": File removed before we read it", ": File removed before we read it: No such file or directory"];
/// The same of a tar that is known to go on ([`Kind::goes_on`]).
const NO_SUCH_FILE: &str = ": No such file or directory";
/// Ends of lines that tell of nothing that a backup lacks: sockets exist only while a process listens.
const HARMLESS: [&str; 6] = [
    ": socket ignored",
    ": pax format cannot archive sockets",
    ": tar format cannot archive socket",
    ": Exiting with failure status due to previous errors",
    ": error exit delayed from previous errors",
    ": Error exit delayed from previous errors.",
];

/// What tars begin their lines with.
const TARS: [&str; 2] = ["tar: ", "bsdtar: "];

/// A number of files, and some of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// How many.
    pub count: u64,
    /// What tar said of them, at most five lines.
    pub lines: Vec<String>,
    /// How many it said more of.
    pub more: u64,
}

impl Files {
    fn add(&mut self, count: usize, line: &str) {
        self.count += count as u64;
        if self.lines.len() < NAMED_LIMIT {
            self.lines.push(crate::error::cut(line, 150).to_owned());
        } else {
            self.more += count as u64;
        }
    }
}

/// Which tar it is, as the wrapper found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    Gnu,
    Busybox,
    Libarchive,
    #[default]
    Other,
}

impl Kind {
    fn parse(word: &str) -> Self {
        match word {
            "gnu" => Self::Gnu,
            "busybox" => Self::Busybox,
            "bsd" => Self::Libarchive,
            _ => Self::Other,
        }
    }

    /// Whether it is known to go on after a file that it cannot open.
    const fn goes_on(self) -> bool {
        matches!(self, Self::Gnu | Self::Busybox)
    }
}

/// Where a tar is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// It has not begun: what is printed is somebody else's.
    #[default]
    Before,
    /// It is at work.
    Talking,
    /// Its last words were seen.
    Ended,
}

/// The words of one tar.
#[derive(Clone, Debug, Default)]
pub struct TarWords {
    kind: Kind,
    stage: Stage,
    line: Vec<u8>,
    unread: Files,
    /// Those of `unread` that nobody but a tar says.
    surely_unread: Files,
    changed: Files,
    /// Something changed, as names, sizes and times of all files say.
    differs: bool,
    /// This tar cannot tell that a file changed, and there is no tool that could.
    blind: bool,
}

/// What became of the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Could not be read; or nobody knows what was wrong.
    pub unread: Option<String>,
    /// Changed or vanished while they were read.
    pub changed: Option<String>,
    /// Nobody can tell whether files changed (others than those that are told).
    pub blind: bool,
}

impl TarWords {
    /// Tar begins, of the kind that the wrapper calls so: what comes from now on is its.
    pub fn begin(&mut self, kind: &str) {
        self.kind = Kind::parse(kind);
        self.stage = Stage::Talking;
    }

    /// Tar has ended, and all that it printed has been taken.
    pub fn end(&mut self) {
        self.next_line();
        self.stage = Stage::Ended;
    }

    /// Files are not as they were before.
    pub fn changed(&mut self) {
        self.differs = true;
    }

    /// It cannot be told whether files changed.
    pub fn blind(&mut self) {
        self.blind = true;
    }

    /// Takes what was printed. Before [`TarWords::begin`] and after [`TarWords::end`] it is somebody else's.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while self.stage == Stage::Talking && !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            let room = LINE_LIMIT.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            let Some(end) = end else { return };
            self.next_line();
            bytes = &bytes[end + 1..];
        }
    }

    fn next_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        let ends = |ends: &[&str]| ends.iter().any(|end| line.ends_with(end));
        if line.is_empty() || ends(&HARMLESS) {
            return;
        }
        if ends(&VANISHED) {
            self.changed.add(line.matches(" ./").count().max(1), line);
        } else if ends(&CHANGED) || (self.kind.goes_on() && ends(&[NO_SUCH_FILE])) {
            self.changed.add(1, line);
        } else {
            self.unread.add(1, line);
            if TARS.iter().any(|name| line.starts_with(name)) {
                self.surely_unread.add(1, line);
            }
        }
    }

    /// Whether tar's last words were seen.
    pub const fn ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    /// What they say of a tar that ended with `code`.
    pub fn told(&self, code: i32) -> Told {
        let listed = |files: &Files| {
            let more = if files.more > 0 { format!(" and {} more", files.more) } else { String::new() };
            format!("{}{more}", files.lines.join("; "))
        };
        let unread = if code == 0 {
            let some = self.surely_unread.count > 0;
            some.then(|| format!("tar could not read everything (exit code 0): {}", listed(&self.surely_unread)))
        } else if !self.ended() {
            Some(format!("tar ended with exit code {code}, and what it printed was cut short"))
        } else if self.unread.count > 0 {
            let rest = match self.kind {
                Kind::Libarchive => {
                    ". libarchive's tar gives up at the first file that it cannot open: what comes after it is missing, too (of \
                     target.exclude only a folder's whole path keeps it from opening files)"
                }
                _ => "",
            };
            Some(format!("tar could not read everything (exit code {code}): {}{rest}", listed(&self.unread)))
        } else if self.changed.count == 0 {
            Some(format!("tar ended with exit code {code} and did not say why"))
        } else {
            None
        };
        let changed = if self.changed.count > 0 {
            let count = self.changed.count;
            Some(format!("{count} files changed or vanished while they were read: {}", listed(&self.changed)))
        } else if self.differs {
            Some("files changed while they were read; the tar of this container cannot tell which".to_owned())
        } else {
            None
        };
        Told { unread, changed, blind: self.blind || !self.ended() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> TarWords {
        words_of("gnu", text)
    }

    fn words_of(kind: &str, text: &str) -> TarWords {
        let mut words = TarWords::default();
        words.take(b"somebody else's: Permission denied\n");
        words.begin(kind);
        words.take(text.as_bytes());
        words.end();
        words.take(b"somebody else's: Permission denied\n");
        words
    }

    #[test]
    fn lines_of_each_tar() {
        for (code, text, unread, changed) in [
            (0, "tar: ./s: socket ignored\n", false, false),
            (0, "NOTICE: a session says something\n", false, false),
            (0, "tar: ./b: Warning: Cannot open: Permission denied\n", true, false),
            (0, "bsdtar: ./b: Couldn't open: Permission denied\n", true, false),
            (1, "tar: ./a: file changed as we read it\n", false, true),
            (1, "tar: ./a: File removed before we read it\n", false, true),
            (1, "tar: ./a: File shrank by 4096 bytes; padding with zeros\n", false, true),
            (
                2,
                "tar: ./b: Cannot open: Permission denied\ntar: Exiting with failure status due to previous errors\n",
                true,
                false,
            ),
            (2, "tar: ./b: Cannot stat: No such file or directory\n", false, true),
            (
                2,
                "tar: ./a: file changed as we read it\ntar: ./b: Read error at byte 0: Input/output error\n",
                true,
                true,
            ),
            (
                1,
                "tar: can't open './b': Permission denied\ntar: error exit delayed from previous errors\n",
                true,
                false,
            ),
            (1, "tar: ./e: Permission denied\n", true, false),
            (1, "tar: can't open './gone': No such file or directory\n", false, true),
            (
                1,
                "bsdtar: Can't open `b': Permission denied\nbsdtar: Error exit delayed from previous errors.\n",
                true,
                false,
            ),
            (1, "tar: something new", true, false),
            (1, "", true, false),
            // A name with a line end in it does not hide what is wrong with the file.
            (1, "tar: can't open './x\ny': Permission denied\n", true, false),
        ] {
            let told = words(text).told(code);
            assert_eq!((told.unread.is_some(), told.changed.is_some()), (unread, changed), "{code} {text}: {told:?}");
        }
    }

    #[test]
    fn a_tar_that_gives_up_at_a_file_that_went_away_has_not_read_the_rest() {
        // What bsdtar 3.6.2 says of a file that goes between its listing and its opening, and of one that goes before.
        let given_up =
            "tar: Can't open `b': No such file or directory\ntar: Error exit delayed from previous errors.\n";
        let went_on = "tar: ./b ./c d ./e: File removed before we read it: No such file or directory\n";
        for (kind, line, unread) in [
            ("gnu", given_up, false),
            ("busybox", given_up, false),
            ("bsd", given_up, true),
            ("other", given_up, true),
            ("bsd", went_on, false),
            ("other", went_on, false),
        ] {
            let told = words_of(kind, line).told(1);
            assert_eq!((told.unread.is_some(), told.changed.is_some()), (unread, !unread), "{kind}: {told:?}");
        }
        // It ends with 0 then, and names all in one line.
        let told = words_of("bsd", went_on).told(0);
        let changed = told.changed.unwrap();
        assert!(told.unread.is_none() && changed.starts_with("3 files changed or vanished"), "{changed}");
        assert!(changed.ends_with(": tar: ./b ./c d ./e: File removed before we read it: No such file or directory"));
        let told = words_of("bsd", given_up).told(1).unread.unwrap();
        assert!(told.contains("what comes after it is missing"), "{told}");
    }

    #[test]
    fn words_that_were_cut_short_are_not_believed() {
        let mut words = TarWords::default();
        words.begin("gnu");
        words.take(b"tar: ./a: file changed as we read it\n");
        assert!(words.told(1).unread.unwrap().contains("cut short"));
        assert!(words.told(0).unread.is_none() && words.told(0).blind);
    }

    #[test]
    fn some_are_named_and_all_are_counted() {
        let many = ["0", "1", "2", "3", "4", "5", "6"]
            .map(|n| format!("tar: ./{n}: Cannot open: Permission denied\n"))
            .concat();
        let told = words(&many).told(2).unread.unwrap();
        assert!(told.contains("./4:") && !told.contains("./5:") && told.ends_with("and 2 more"), "{told}");
        let mut differs = words("");
        differs.changed();
        differs.blind();
        let told = differs.told(0);
        assert!(told.changed.is_some() && told.blind && told.unread.is_none());
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(text in "(tar: [a-z]{1,5}: (socket ignored|Permission denied|file changed as we read it)\n){0,6}", size in 1_usize..40) {
            let mut pieces = TarWords::default();
            pieces.begin("gnu");
            for piece in text.as_bytes().chunks(size) {
                pieces.take(piece);
            }
            pieces.end();
            prop_assert_eq!(pieces.told(1), words(&text).told(1));
        }
    }
}
