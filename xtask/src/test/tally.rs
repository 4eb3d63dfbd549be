//! What a test program printed → how many passed, failed and were skipped. Pure.

use std::fmt;
use std::ops::AddAssign;

/// How a test that lacks a privilege begins its only line of output.
const SKIPPED: &str = "skipped: ";
/// What is recorded elsewhere is no part of a clone: a test of it that finds none lacks nothing that can be installed.
const EXCUSED: &str = "skipped: no recorded responses";

/// Counts of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
    /// Those of the skipped that may be, everywhere.
    pub(super) excused: u64,
}

impl Tally {
    /// Reads the whole output; `has_succeeded` is what the exit code says.
    pub(super) fn read(lines: &[String], has_succeeded: bool) -> Self {
        let results = lines.iter().filter_map(|line| line.trim().strip_prefix("test result: "));
        let mut tally = Self::default();
        let mut has_result = false;
        for result in results {
            has_result = true;
            tally += Self {
                passed: count(result, "passed"),
                failed: count(result, "failed"),
                skipped: count(result, "ignored"),
                excused: 0,
            };
        }
        // A skipped test returns early, so its runner takes it for a passed one.
        let that_begin = |with: &str| lines.iter().filter(|line| line.trim_start().starts_with(with)).count() as u64;
        let skipped = that_begin(SKIPPED);
        tally.excused = that_begin(EXCUSED);
        tally.skipped += skipped.min(tally.passed);
        tally.passed = tally.passed.saturating_sub(skipped);
        match (has_succeeded, has_result) {
            // A program without the usual runner is one test.
            (true, false) => tally.passed += 1,
            // It died before it could count.
            (false, _) if tally.failed == 0 => tally.failed += 1,
            (true, true) | (false, _) => {}
        }
        tally
    }

    /// So many of those that failed have passed since.
    pub(super) fn forgive(&mut self, count: u64) {
        let count = count.min(self.failed);
        self.failed -= count;
        self.passed += count;
    }

    pub(super) fn total(self) -> u64 {
        self.passed + self.failed + self.skipped
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.excused += other.excused;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The number before `word` in `ok. 3 passed; 0 failed; …`.
fn count(result: &str, word: &str) -> u64 {
    result
        .split([';', '.'])
        .filter_map(|part| part.trim().strip_suffix(word))
        .find_map(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, has_succeeded: bool, expected: &str) {
        let lines: Vec<String> = output.lines().map(str::to_owned).collect();
        assert_eq!(Tally::read(&lines, has_succeeded).to_string(), expected, "{output}");
    }

    #[test]
    fn sums_all_results() {
        check(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
             test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 7 filtered out\n",
            false,
            "5 passed, 4 failed, 1 skipped",
        );
    }

    #[test]
    fn a_skipped_test_has_not_passed() {
        check(
            "---- cut stdout ----\nskipped: needs root\n---- deny stdout ----\nskipped: needs root\n\
             test result: ok. 3 passed; 0 failed; 0 ignored;\n",
            true,
            "1 passed, 0 failed, 2 skipped",
        );
    }

    #[test]
    fn what_is_recorded_elsewhere_may_be_missing() {
        let lines = ["skipped: no recorded responses in /x", "skipped: cut needs root", "test result: ok. 3 passed;"];
        let tally = Tally::read(&lines.map(str::to_owned), true);
        assert_eq!((tally.passed, tally.skipped, tally.excused), (1, 2, 1));
    }

    #[test]
    fn a_crash_is_a_failure() {
        check("running 3 tests\n", false, "0 passed, 1 failed, 0 skipped");
        check("test result: ok. 3 passed; 0 failed; 0 ignored;\n", false, "3 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_program_without_a_runner_is_one_test() {
        check("fine\n", true, "1 passed, 0 failed, 0 skipped");
    }
}
