//! **P** What passed and what failed, counted over all suites.

use std::fmt::Write as _;
use std::process::ExitStatus;
use std::time::Duration;

/// The line with which libtest ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestResult {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Reads `test result: ok. 12 passed; 0 failed; 0 ignored; …`; any other line is `None`.
pub fn libtest(line: &str) -> Option<TestResult> {
    // A test that prints without a line end may stand before it.
    let (_, counts) = line.split_once("test result: ")?.1.split_once(". ")?;
    let mut result = TestResult { passed: 0, failed: 0, ignored: 0 };
    let mut found = 0;
    for count in counts.split(';') {
        let mut words = count.split_whitespace();
        let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
        let field = match what {
            "passed" => &mut result.passed,
            "failed" => &mut result.failed,
            "ignored" => &mut result.ignored,
            _ => continue,
        };
        *field = number.parse().ok()?;
        found += 1;
    }
    (found == 3).then_some(result)
}

struct Line {
    name: String,
    passed: u64,
    failed: u64,
    time: Duration,
    remark: String,
}

/// The count.
#[derive(Default)]
pub struct Tally {
    lines: Vec<Line>,
    /// Tests that ran, checks apart.
    tests: u64,
}

impl Tally {
    /// A check that is good or not.
    pub fn check(&mut self, name: &str, good: bool, time: Duration) {
        self.add(name, u64::from(good), u64::from(!good), time, "");
    }

    /// A suite that ended with `status`, after it said `results`.
    pub fn suite(&mut self, name: &str, results: &[TestResult], status: ExitStatus, time: Duration) {
        let passed = results.iter().map(|result| result.passed).sum();
        let ignored: u64 = results.iter().map(|result| result.ignored).sum();
        let mut failed = results.iter().map(|result| result.failed).sum();
        let mut remark = String::new();
        if ignored > 0 {
            // A test that is skipped is not green.
            failed += ignored;
            remark = format!("{ignored} ignored");
        }
        if results.is_empty() || (!status.success() && failed == 0) {
            failed += 1;
            remark = format!("ended with {status}");
        }
        self.tests += passed + failed;
        self.add(name, passed, failed, time, &remark);
    }

    /// All that another one has counted, after what this one has.
    pub fn append(&mut self, mut other: Tally) {
        self.lines.append(&mut other.lines);
        self.tests += other.tests;
    }

    /// Something that could not be done at all.
    pub fn broken(&mut self, name: &str, why: &str) {
        self.add(name, 0, 1, Duration::ZERO, why);
    }

    /// A remark in the list that counts neither way.
    pub fn remark(&mut self, name: &str, remark: &str) {
        self.add(name, 0, 0, Duration::ZERO, remark);
    }

    fn add(&mut self, name: &str, passed: u64, failed: u64, time: Duration, remark: &str) {
        self.lines.push(Line { name: name.to_owned(), passed, failed, time, remark: remark.to_owned() });
    }

    /// Nothing failed, and something ran: no tests at all is no success.
    pub fn good(&self) -> bool {
        self.tests > 0 && self.failed() == 0
    }

    fn failed(&self) -> u64 {
        self.lines.iter().map(|line| line.failed).sum()
    }

    /// A line for each suite, and the sum as the last one.
    pub fn text(&self) -> String {
        let mut text = "\n".to_owned();
        for line in &self.lines {
            let mark = if line.failed > 0 { '✗' } else { '✓' };
            let _ = writeln!(
                text,
                "{mark} {:<44} {:>5} passed {:>4} failed {:>7.1} s  {}",
                line.name,
                line.passed,
                line.failed,
                line.time.as_secs_f64(),
                line.remark
            );
        }
        let passed: u64 = self.lines.iter().map(|line| line.passed).sum();
        // What no test ran for is a failure, and is counted as one.
        let failed = self.failed() + u64::from(self.tests == 0);
        if self.tests == 0 {
            text.push_str("no test ran\n");
        }
        let _ = writeln!(text, "{passed} passed, {failed} failed");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{Tally, TestResult, libtest};
    use proptest::prelude::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::Duration;

    proptest! {
        #[test]
        fn the_line_is_read_as_libtest_writes_it(passed in 0..9999_u64, failed in 0..9999_u64, ignored in 0..9999_u64) {
            let word = if failed == 0 { "ok" } else { "FAILED" };
            let line = format!("test result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; \
                0 filtered out; finished in 1.02s");
            prop_assert_eq!(libtest(&line), Some(TestResult { passed, failed, ignored }));
        }

        #[test]
        fn no_other_line_counts_or_panics(line in "\\PC{0,80}") {
            prop_assume!(!line.contains("test result: "));
            prop_assert_eq!(libtest(&line), None);
        }
    }

    fn tally(results: &[TestResult], code: i32) -> Tally {
        let mut tally = Tally::default();
        // An exit code stands in the second byte of what wait(2) returns.
        tally.suite("suite", results, ExitStatus::from_raw(code << 8), Duration::ZERO);
        tally
    }

    #[test]
    fn what_must_not_be_green_is_not() {
        let good = TestResult { passed: 2, failed: 0, ignored: 0 };
        assert!(tally(&[good], 0).good());
        assert!(!tally(&[TestResult { failed: 1, ..good }], 101).good());
        assert!(!tally(&[TestResult { ignored: 1, ..good }], 0).good(), "an ignored test");
        assert!(!tally(&[good], 101).good(), "good words and a bad exit code");
        assert!(!tally(&[], 0).good(), "a suite that said nothing");
        assert!(!tally(&[TestResult { passed: 0, ..good }], 0).good(), "no test at all");
        assert!(!Tally::default().good());
        let mut checked = Tally::default();
        checked.check("format", true, Duration::ZERO);
        assert!(!checked.good(), "checks are no tests");
        assert!(checked.text().ends_with("\n1 passed, 1 failed\n"));
    }

    #[test]
    fn what_another_one_counted_counts_and_spoils() {
        let good = TestResult { passed: 2, failed: 0, ignored: 0 };
        let mut sum = Tally::default();
        sum.append(tally(&[good], 0));
        assert!(sum.good());
        sum.append(tally(&[TestResult { failed: 1, ..good }], 101));
        assert!(!sum.good());
        assert!(sum.text().ends_with("\n4 passed, 1 failed\n"));
    }

    #[test]
    fn the_last_line_is_the_sum() {
        let mut tally = tally(&[TestResult { passed: 3, failed: 1, ignored: 0 }], 101);
        tally.check("format", false, Duration::ZERO);
        tally.remark("advisories", "not run");
        assert_eq!(tally.text().lines().last(), Some("3 passed, 2 failed"));
    }
}
