//! **P** Finds the lines of ours in a stream of somebody else's bytes.
//!
//! A line of ours is `\n<nonce> <text>\n`. The nonce has 128 random bits, so that no data holds it. What could be the
//! beginning of such a line is held back until it is known; everything else passes through without being copied.

use bytes::Bytes;
use memchr::memmem::Finder;

/// What a stream consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Somebody else's bytes.
    Data(Bytes),
    /// The text of a line of ours, without nonce and line ends.
    Line(Vec<u8>),
}

/// Splits one stream. Works across any chunk boundaries.
pub(super) struct Marked {
    finder: Finder<'static>,
    /// How many bytes of the mark the stream ends with; they are held back. The mark begins with the only `\n` in it, so
    /// that a match which breaks off cannot hide the beginning of another.
    matched: usize,
    /// The line that is being read, once its mark is complete.
    line: Option<Vec<u8>>,
    /// Longest line, in bytes.
    limit: usize,
}

impl Marked {
    /// A splitter for lines with this nonce, of at most `limit` bytes; longer ones are cut.
    pub(super) fn new(nonce: &str, limit: usize) -> Self {
        let mark = format!("\n{nonce} ").into_bytes();
        Self { finder: Finder::new(&mark).into_owned(), matched: 0, line: None, limit }
    }

    /// Takes the next bytes and gives what is known of them, in order.
    pub(super) fn push(&mut self, mut chunk: Bytes) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while !chunk.is_empty() {
            if self.line.is_some() {
                self.continue_line(&mut chunk, &mut pieces);
            } else if self.matched > 0 {
                self.continue_mark(&mut chunk, &mut pieces);
            } else {
                self.search(&mut chunk, &mut pieces);
            }
        }
        pieces
    }

    /// What is held back, when the stream has ended: data after all, for a line that never ended is none.
    pub(super) fn rest(&mut self) -> Bytes {
        let mut held = self.finder.needle()[..self.matched].to_vec();
        self.matched = 0;
        held.extend(self.line.take().unwrap_or_default());
        held.into()
    }

    fn continue_line(&mut self, chunk: &mut Bytes, pieces: &mut Vec<Piece>) {
        let end = memchr::memchr(b'\n', chunk);
        let part = chunk.split_to(end.unwrap_or(chunk.len()));
        let line = self.line.get_or_insert_default();
        let room = self.limit.saturating_sub(line.len());
        line.extend_from_slice(&part[..part.len().min(room)]);
        if end.is_some() {
            let _ = chunk.split_to(1);
            self.matched = 0;
            pieces.push(Piece::Line(self.line.take().unwrap_or_default()));
        }
    }

    fn continue_mark(&mut self, chunk: &mut Bytes, pieces: &mut Vec<Piece>) {
        let wanted = &self.finder.needle()[self.matched..];
        let same = wanted.iter().zip(chunk.iter()).take_while(|(a, b)| a == b).count();
        if same == wanted.len() {
            self.matched = self.finder.needle().len();
            self.line = Some(Vec::new());
            let _ = chunk.split_to(same);
        } else if same == chunk.len() {
            self.matched += same;
            chunk.clear();
        } else {
            // Not a mark. What matched of it in this chunk holds no `\n`, so it can be given out with what is held.
            let mut held = self.finder.needle()[..self.matched].to_vec();
            held.extend_from_slice(&chunk.split_to(same));
            self.matched = 0;
            pieces.push(Piece::Data(held.into()));
        }
    }

    fn search(&mut self, chunk: &mut Bytes, pieces: &mut Vec<Piece>) {
        let mark = self.finder.needle();
        let (data, matched) = if let Some(at) = self.finder.find(chunk) {
            (at, mark.len())
        } else {
            let longest = mark.len().min(chunk.len());
            // The mark has one `\n`, at its beginning: only the last `\n` of the tail can begin one.
            let tail = chunk.len() - longest;
            match memchr::memrchr(b'\n', &chunk[tail..]) {
                Some(at) if mark.starts_with(&chunk[tail + at..]) => (tail + at, longest - at),
                _ => (chunk.len(), 0),
            }
        };
        if data > 0 {
            pieces.push(Piece::Data(chunk.split_to(data)));
        }
        let _ = chunk.split_to(matched);
        self.matched = matched;
        if matched == mark.len() {
            self.line = Some(Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONCE: &str = "00112233445566778899aabbccddeeff";

    fn feed(chunks: impl IntoIterator<Item = Vec<u8>>) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut marked = Marked::new(NONCE, 64);
        let (mut data, mut lines) = (Vec::new(), Vec::new());
        for chunk in chunks {
            for piece in marked.push(chunk.into()) {
                match piece {
                    Piece::Data(bytes) => data.extend_from_slice(&bytes),
                    Piece::Line(line) => lines.push(line),
                }
            }
        }
        data.extend_from_slice(&marked.rest());
        (data, lines)
    }

    fn cut(whole: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        let mut rest = whole;
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (head, tail) = rest.split_at((*size).min(rest.len()));
            chunks.push(head.to_vec());
            rest = tail;
        }
        chunks
    }

    /// Bytes that look like a mark as often as can be.
    fn teasing() -> impl Strategy<Value = Vec<u8>> {
        let mark = format!("\n{NONCE} ");
        let part = prop_oneof![
            (0..mark.len()).prop_map(move |n| mark.as_bytes()[..n].to_vec()),
            Just(b"\n".to_vec()),
            Just(NONCE.as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..40),
        ];
        proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn data_and_lines_come_apart_at_any_cut(
            parts in proptest::collection::vec((teasing(), "[a-z]{1,8} [0-9]{1,3}"), 0..4),
            last in teasing(),
            sizes in proptest::collection::vec(1_usize..50, 1..20),
        ) {
            let mut whole = Vec::new();
            let mut expected = Vec::new();
            for (data, line) in &parts {
                whole.extend_from_slice(data);
                expected.extend_from_slice(data);
                whole.extend_from_slice(format!("\n{NONCE} {line}\n").as_bytes());
            }
            whole.extend_from_slice(&last);
            expected.extend_from_slice(&last);
            // Random pieces can build a whole mark by themselves; then the input is not what was meant.
            let mark = format!("\n{NONCE} ");
            let marks = whole.windows(mark.len()).filter(|w| *w == mark.as_bytes()).count();
            prop_assume!(marks == parts.len());
            let (data, lines) = feed(cut(&whole, &sizes));
            prop_assert_eq!(data, expected);
            let expected_lines: Vec<Vec<u8>> = parts.into_iter().map(|(_, line)| line.into_bytes()).collect();
            prop_assert_eq!(lines, expected_lines);
        }
    }

    #[test]
    fn nothing_is_held_back_but_a_possible_mark() {
        let mut marked = Marked::new(NONCE, 64);
        assert_eq!(marked.push(Bytes::from_static(b"abc\n0012")), [Piece::Data(Bytes::from_static(b"abc\n0012"))]);
        assert_eq!(marked.push(Bytes::from_static(b"abc\n0011")), [Piece::Data(Bytes::from_static(b"abc"))]);
        assert_eq!(
            marked.push(Bytes::from_static(b"x\n")),
            [Piece::Data(Bytes::from_static(b"\n0011")), Piece::Data(Bytes::from_static(b"x"))]
        );
        assert_eq!(marked.rest(), Bytes::from_static(b"\n"));
    }

    #[test]
    fn a_long_line_is_cut_and_ends_all_the_same() {
        let long = format!("\n{NONCE} {}\nafter", "x".repeat(500));
        let (data, lines) = feed([long.into_bytes()]);
        assert_eq!(data, b"after");
        assert_eq!(lines, [vec![b'x'; 64]]);
    }
}
