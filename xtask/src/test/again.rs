//! Tests that failed beside others are run once more, each by itself: one that passes then met a busy machine. It is named,
//! so that somebody looks for its cause; for people at their desks a failure stays one.

use super::suite::Suite;

/// With more failures than this something is broken, and running it again would only take time.
const AGAIN_MAX: usize = 5;

/// The names of tests that failed, by what the usual runner prints; none unless they are all that failed.
pub(super) fn failed(output: &[String], failures: u64) -> Vec<String> {
    let name = |line: &String| {
        let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(name.to_owned())
    };
    let names: Vec<String> = output.iter().filter_map(name).collect();
    if names.len() as u64 == failures { names } else { Vec::new() }
}

/// Runs them again; tells how many have passed.
pub(super) fn run(failed: &[(&Suite, String)]) -> anyhow::Result<u64> {
    if failed.len() > AGAIN_MAX {
        return Ok(0);
    }
    let mut passed = 0;
    for (suite, test) in failed {
        let verdict = suite.run_one(test)?;
        let has_passed = verdict.tally.failed == 0 && verdict.tally.passed == 1;
        passed += u64::from(has_passed);
        let outcome = if has_passed { "FLAKY: passed when run by itself" } else { "failed again" };
        println!("   {} {test}: {outcome}  ({:.1} s)", suite.name, verdict.took.as_secs_f32());
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &[&str], failures: u64, expected: &[&str]) {
        let output: Vec<String> = output.iter().map(|line| (*line).to_owned()).collect();
        assert_eq!(failed(&output, failures), expected, "{output:?}");
    }

    #[test]
    fn failed_tests_are_known_by_name() {
        let lines =
            ["test cut::at_once ... ok", "test cut::later ... FAILED", "test result: FAILED. 1 passed; 1 failed"];
        check(&lines, 1, &["cut::later"]);
    }

    #[test]
    fn a_failure_without_a_name_cannot_be_tried_again() {
        check(&["test cut::later ... FAILED"], 2, &[]);
        check(&["running 3 tests"], 1, &[]);
    }
}
