//! From a crossed budget to a cut gate: when is it time?
//!
//! Pure. The response that crosses drains first (at most `drain`), then the bottle may hear why (until a moment after the
//! first readable refusal has been delivered, at most `last_word`), then the gate is cut. Both bounds may be zero.

use std::time::Duration;

use crate::domain::{CutCause, Refusal};

/// The two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// How long the response that crosses may take to reach the client.
    pub(super) drain: Duration,
    /// How long the bottle may take to hear why.
    pub(super) last_word: Duration,
}

/// How long after one refusal others are heard. Agents ask in more than one request: Gemini CLI goes on after a small model
/// was refused to it, Claude Code names a session beside its work. Each that meets silence keeps its agent for minutes.
const ECHO: Duration = Duration::from_secs(1);
/// A bottle that starts on a spent budget asks for model lists and settings before anyone there works: times `last_word`.
const STARTING_FACTOR: u32 = 5;

/// A moment: time since the controller started.
pub(super) type Moment = Duration;

/// Where a bottle is on its way from open to cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Budgets decide.
    Open,
    /// A budget is gone; the response that crossed it is still on its way.
    Draining { until: Moment, refusal: Refusal },
    /// The bottle is to hear why.
    LastWord { until: Moment, refusal: Refusal },
    /// The gate is cut.
    Cut(CutCause),
}

impl Stage {
    /// A budget was crossed by a response that is on its way to the client.
    pub(super) fn crossed(self, refusal: Refusal, bounds: Bounds, now: Moment) -> Self {
        match self {
            Self::Open => Self::Draining { until: now + bounds.drain, refusal }.due(bounds, now),
            Self::Draining { .. } | Self::LastWord { .. } | Self::Cut(_) => self,
        }
    }

    /// A request was refused because the budget is gone already; nothing drains. `is_work`: it would have spent.
    pub(super) fn exhausted(self, refusal: Refusal, is_work: bool, bounds: Bounds, now: Moment) -> Self {
        match self {
            Self::Open => {
                let patience =
                    if is_work { bounds.last_word } else { bounds.last_word.saturating_mul(STARTING_FACTOR) };
                Self::LastWord { until: now.saturating_add(patience), refusal }.due(bounds, now)
            }
            Self::Draining { .. } | Self::LastWord { .. } | Self::Cut(_) => self,
        }
    }

    /// The response that crossed has reached the client.
    pub(super) fn delivered(self, bounds: Bounds, now: Moment) -> Self {
        match self {
            Self::Draining { refusal, .. } => {
                Self::LastWord { until: now + bounds.last_word, refusal }.due(bounds, now)
            }
            Self::Open | Self::LastWord { .. } | Self::Cut(_) => self,
        }
    }

    /// A readable refusal has reached the client.
    pub(super) fn refusal_delivered(self, now: Moment) -> Self {
        match self {
            Self::LastWord { until, refusal } => Self::LastWord { until: until.min(now + ECHO), refusal },
            Self::Open | Self::Draining { .. } | Self::Cut(_) => self,
        }
    }

    /// The budget allows something again.
    pub(super) fn relieved(self) -> Self {
        match self {
            Self::Draining { .. } | Self::LastWord { .. } => Self::Open,
            Self::Open | Self::Cut(_) => self,
        }
    }

    /// Time has passed.
    pub(super) fn due(self, bounds: Bounds, now: Moment) -> Self {
        match self {
            Self::Draining { until, refusal } if until <= now => {
                Self::LastWord { until: until + bounds.last_word, refusal }.due(bounds, now)
            }
            Self::LastWord { until, .. } if until <= now => Self::Cut(CutCause::Budget),
            Self::Open | Self::Draining { .. } | Self::LastWord { .. } | Self::Cut(_) => self,
        }
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self {
            Self::Draining { until, .. } | Self::LastWord { until, .. } => Some(*until),
            Self::Open | Self::Cut(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RefusalReason;

    const BOUNDS: Bounds = Bounds { drain: Duration::from_secs(1), last_word: Duration::from_secs(2) };
    const NONE: Bounds = Bounds { drain: Duration::ZERO, last_word: Duration::ZERO };
    const CUT: Stage = Stage::Cut(CutCause::Budget);

    fn at(millis: u64) -> Moment {
        Duration::from_millis(millis)
    }

    fn refusal() -> Refusal {
        Refusal {
            reason: RefusalReason::BudgetExhausted,
            message: "gone".to_owned(),
            scope: None,
            budget: None,
            used: None,
            rule: None,
        }
    }

    #[test]
    fn a_silent_bottle_is_cut_when_both_bounds_have_passed() {
        let stage = Stage::Open.crossed(refusal(), BOUNDS, at(0));
        assert_eq!(stage.deadline(), Some(at(1_000)));
        let stage = stage.due(BOUNDS, at(999)).due(BOUNDS, at(1_000));
        assert_eq!(stage.deadline(), Some(at(3_000)));
        assert_eq!(stage.due(BOUNDS, at(3_000)), CUT);
    }

    #[test]
    fn a_late_look_does_not_lengthen_the_bounds() {
        let stage = Stage::Open.crossed(refusal(), BOUNDS, at(0));
        assert_eq!(stage.due(BOUNDS, at(3_000)), CUT);
    }

    #[test]
    fn a_bottle_that_has_heard_why_is_cut_a_moment_later() {
        let stage = Stage::Open.crossed(refusal(), BOUNDS, at(0)).delivered(BOUNDS, at(10));
        assert_eq!(stage.deadline(), Some(at(2_010)));
        // Whoever is refused meanwhile hears it, too, and does not win time.
        let stage = stage.refusal_delivered(at(20)).refusal_delivered(at(900));
        assert_eq!(stage.deadline(), Some(at(1_020)));
        assert_eq!(stage.due(BOUNDS, at(1_020)), CUT);
    }

    #[test]
    fn hearing_why_does_not_lengthen_the_last_word() {
        let stage = Stage::Open.exhausted(refusal(), true, BOUNDS, at(0)).refusal_delivered(at(1_900));
        assert_eq!(stage.deadline(), Some(at(2_000)));
    }

    #[test]
    fn the_crossing_response_is_not_cut_short_by_a_refusal() {
        let stage = Stage::Open.crossed(refusal(), BOUNDS, at(0)).refusal_delivered(at(5));
        assert_eq!(stage.deadline(), Some(at(1_000)));
    }

    #[test]
    fn a_refused_request_starts_the_last_word() {
        let stage = Stage::Open.exhausted(refusal(), true, BOUNDS, at(5));
        assert_eq!(stage.deadline(), Some(at(2_005)));
        let starting = Stage::Open.exhausted(refusal(), false, BOUNDS, at(5));
        assert_eq!(starting.deadline(), Some(at(10_005)));
        assert_eq!(starting.refusal_delivered(at(500)).deadline(), Some(at(1_500)));
    }

    #[test]
    fn a_relief_before_the_cut_spares_it() {
        assert_eq!(Stage::Open.crossed(refusal(), BOUNDS, at(0)).relieved(), Stage::Open);
        assert_eq!(Stage::Open.exhausted(refusal(), true, BOUNDS, at(0)).relieved(), Stage::Open);
        assert_eq!(CUT.relieved(), CUT);
    }

    #[test]
    fn bounds_of_zero_cut_at_the_crossing() {
        assert_eq!(Stage::Open.crossed(refusal(), NONE, at(7)), CUT);
        assert_eq!(Stage::Open.exhausted(refusal(), true, NONE, at(7)), CUT);
        assert_eq!(Stage::Open.exhausted(refusal(), false, NONE, at(7)), CUT);
    }

    #[test]
    fn an_operators_cut_is_not_overwritten() {
        let cut = Stage::Cut(CutCause::Operator);
        assert_eq!(cut.clone().crossed(refusal(), BOUNDS, at(0)), cut);
        assert_eq!(cut.clone().due(BOUNDS, at(9_000)).refusal_delivered(at(9_000)), cut);
    }
}
