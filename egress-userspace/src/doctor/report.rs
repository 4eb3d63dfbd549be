//! What was looked at and how it is.

use serde::Serialize;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Holds,
    /// Works, though not as well as it could.
    Warning,
    /// Not as it should be.
    Failed,
    /// Could not be looked at, or is not on this host.
    NotChecked,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it belongs to: host, files, gate …
    pub area: &'static str,
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found; what to do about it where something is wrong.
    pub says: String,
}

/// What whoever waits hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// What is done next, and may take seconds: `running curl`.
    Begins(String),
    /// A check has been made.
    Made(Check),
}

/// Everything that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which it was.
    pub checks: Vec<Check>,
}

impl Report {
    /// Is nothing wrong?
    #[must_use]
    pub fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.verdict != Verdict::Failed)
    }

    /// How many checks ended so.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }
}

/// Checks of one area.
pub(super) struct Area<'a> {
    name: &'static str,
    note: &'a mut dyn FnMut(Heard),
}

impl<'a> Area<'a> {
    pub(super) fn new(name: &'static str, note: &'a mut dyn FnMut(Heard)) -> Self {
        Self { name, note }
    }

    /// What comes next takes a while.
    pub(super) fn begin(&mut self, what: impl Into<String>) {
        (self.note)(Heard::Begins(what.into()));
    }

    pub(super) fn check(&mut self, name: impl Into<String>, verdict: Verdict, says: impl Into<String>) {
        (self.note)(Heard::Made(Check { area: self.name, name: name.into(), verdict, says: says.into() }));
    }

    /// `Ok` is what was found, `Err` what is wrong and what to do.
    pub(super) fn result(&mut self, name: impl Into<String>, result: Result<String, String>) {
        match result {
            Ok(says) => self.check(name, Verdict::Holds, says),
            Err(says) => self.check(name, Verdict::Failed, says),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(verdicts: &[Verdict], holds: bool) {
        let mut report = Report::default();
        let mut begun = 0;
        let mut note = |heard| match heard {
            Heard::Begins(_) => begun += 1,
            Heard::Made(check) => report.checks.push(check),
        };
        let mut area = Area::new("host", &mut note);
        area.begin("looking");
        verdicts.iter().for_each(|verdict| area.check("a", *verdict, "b"));
        assert_eq!((begun, report.checks.len()), (1, verdicts.len()));
        assert_eq!(report.holds(), holds, "{verdicts:?}");
        assert_eq!(
            report.count(Verdict::Warning),
            verdicts.iter().filter(|verdict| **verdict == Verdict::Warning).count()
        );
    }

    #[test]
    fn only_what_failed_breaks_it() {
        check(&[], true);
        check(&[Verdict::Holds, Verdict::Warning, Verdict::NotChecked], true);
        check(&[Verdict::Holds, Verdict::Failed], false);
    }
}
