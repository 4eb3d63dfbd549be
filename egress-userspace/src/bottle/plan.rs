//! Privileged sequences as data: steps, each with its undo, and the one interpreter that runs them.
//!
//! Knows nothing of what the steps do. Two rules are asked of a step: it either happens or leaves nothing behind, and its
//! undo succeeds when there is nothing to undo, so that a plan can be taken back twice or after a crash halfway.

use std::io;

/// One thing done to the host that can be undone.
pub(super) trait Step {
    /// What it does, as the object of "… failed".
    fn name(&self) -> &'static str;
    /// Does it.
    fn carry_out(&self) -> io::Result<()>;
    /// Undoes it; fine when it was never done.
    fn undo(&self) -> io::Result<()>;
}

/// A step that failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// Its name.
    pub(super) step: &'static str,
    /// What the system says.
    pub(super) source: io::Error,
}

/// Carries out the steps in order. When one fails, those before it are undone, last first, and the error names it.
/// The failed step is not undone: what stood in its way may belong to somebody else.
pub(super) fn carry_out(steps: &[impl Step]) -> Result<(), Failure> {
    for (position, step) in steps.iter().enumerate() {
        let Err(source) = step.carry_out() else { continue };
        let (done, _) = steps.split_at(position);
        if let Err(left) = take_back(done) {
            tracing::warn!(step = left.step, error = %left.source, "could not be undone after a failure");
        }
        return Err(Failure { step: step.name(), source });
    }
    Ok(())
}

/// Undoes all steps, last first. A failing undo does not stop the others; the first failure is returned.
pub(super) fn take_back(steps: &[impl Step]) -> Result<(), Failure> {
    let mut first = None;
    for step in steps.iter().rev() {
        if let Err(source) = step.undo() {
            first.get_or_insert(Failure { step: step.name(), source });
        }
    }
    first.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const NAMES: [&str; 4] = ["a", "b", "c", "d"];

    struct Recorded<'log> {
        name: &'static str,
        fails: bool,
        undo_fails: bool,
        log: &'log RefCell<Vec<String>>,
    }

    impl Step for Recorded<'_> {
        fn name(&self) -> &'static str {
            self.name
        }

        fn carry_out(&self) -> io::Result<()> {
            self.log.borrow_mut().push(format!("+{}", self.name));
            if self.fails { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
        }

        fn undo(&self) -> io::Result<()> {
            self.log.borrow_mut().push(format!("-{}", self.name));
            if self.undo_fails { Err(io::ErrorKind::ResourceBusy.into()) } else { Ok(()) }
        }
    }

    fn steps<'log>(log: &'log RefCell<Vec<String>>, fails: Option<usize>, undo_fails: &[usize]) -> Vec<Recorded<'log>> {
        let step = |(position, name)| Recorded {
            name,
            fails: fails == Some(position),
            undo_fails: undo_fails.contains(&position),
            log,
        };
        NAMES.into_iter().enumerate().map(step).collect()
    }

    #[test]
    fn a_failure_at_any_position_undoes_exactly_what_came_before() {
        for position in 0..NAMES.len() {
            let log = RefCell::default();
            let failure = carry_out(&steps(&log, Some(position), &[])).unwrap_err();
            assert_eq!(failure.step, NAMES[position]);
            assert_eq!(failure.source.kind(), io::ErrorKind::PermissionDenied);
            let done = NAMES[..=position].iter().map(|name| format!("+{name}"));
            let undone = NAMES[..position].iter().rev().map(|name| format!("-{name}"));
            assert_eq!(log.into_inner(), done.chain(undone).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_finished_plan_can_be_taken_back_twice() {
        let log = RefCell::default();
        let steps = steps(&log, None, &[]);
        carry_out(&steps).unwrap();
        take_back(&steps).unwrap();
        take_back(&steps).unwrap();
        assert_eq!(log.borrow().concat(), "+a+b+c+d-d-c-b-a-d-c-b-a");
    }

    #[test]
    fn an_undo_that_fails_does_not_keep_the_others_from_running() {
        let log = RefCell::default();
        let failure = take_back(&steps(&log, None, &[1, 2])).unwrap_err();
        assert_eq!(failure.step, "c");
        assert_eq!(log.into_inner().concat(), "-d-c-b-a");
    }

    #[test]
    fn the_step_that_failed_is_named_even_when_undoing_fails_too() {
        let log = RefCell::default();
        let failure = carry_out(&steps(&log, Some(3), &[0])).unwrap_err();
        assert_eq!(failure.step, "d");
    }
}
