//! Freezing, resuming and killing: what comes after the cut.
//!
//! A bottle is frozen in this order, its gate being cut already: its processes stand still, what was begun is in the ledger,
//! its launch is written down, its processes are ended, its network is taken down, the ledger says frozen. Whatever is done of
//! it is found again by the next controller ([`unfinished`]). Killing leaves out the launch and removes the files instead.

use std::ffi::OsStr;
use std::path::Path;

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::bottle::{Caller, RunningCommand, SavedLaunch};
use crate::budget;
use crate::control::{ApiError, ErrorCode, Peer, ResumeRequest, RunEvent};
use crate::domain::{AuditKind, BottleName, CutCause, CutoffPolicy, GateView, Rules, Stop, StopStep, with_causes};
use crate::fault::{self, Point};
use crate::ledger::{BottleRow, LedgerError};

use super::launch::{EVENTS_MAX, Launcher, failed, gets_terminal, refused, streams};
use super::lifeline::{RunEnd, Stopped};
use super::stop_steps::{ending, saving};
use super::turns::Turn;

/// What a bottle that was ended from outside is recorded to have ended with: 128 + SIGKILL.
pub(super) const ENDED: i32 = 137;

/// How a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Its command ended.
    Ended(i32),
    /// It is to be frozen or killed, and ready for it.
    Stopped(Stop, CutCause),
}

/// What is done with a run when its budget is gone: `--shutdown`, or else what settings.yml says of the bottle or its nearest
/// ancestor, or else of all. `extends` is the flag of that name.
pub(super) fn policy_of(
    flag: Option<CutoffPolicy>,
    rules: &Rules,
    bottle: &BottleName,
    extends: Option<&BottleName>,
) -> CutoffPolicy {
    let by_rule = |name: &BottleName| rules.bottles.get(name).and_then(|rules| rules.extends.clone());
    let parent_of = |name: &BottleName| extends.filter(|_| name == bottle).cloned().or_else(|| by_rule(name));
    // A line that leads in a circle is refused when the run begins.
    let lineage = budget::lineage(bottle, parent_of).unwrap_or_default();
    flag.or_else(|| rules.shutdown_of(&lineage)).unwrap_or(rules.shutdown)
}

/// What an earlier controller has begun with a bottle whose run has not ended, or would have begun next.
pub(super) fn unfinished(row: &BottleRow, is_held: bool) -> Option<(Stop, CutCause)> {
    let is_due = || if row.gate == GateView::Cut(CutCause::Budget) { row.policy.stop() } else { None };
    let stop = row.stopping.or_else(|| is_held.then_some(Stop::Freeze)).or_else(is_due)?;
    let cause = if let GateView::Cut(cause) = row.gate { cause } else { CutCause::Operator };
    Some((stop, cause))
}

/// May the one who asks start what was frozen? It runs as whoever it ran as, and nobody gets what `run` would not give.
fn may_resume(asking: &Caller, saved: &Caller) -> Result<(), String> {
    if asking.uid == 0 {
        return Ok(());
    }
    if asking.uid != saved.uid {
        return Err(format!("it runs as user {}: only that user and root may resume it", saved.uid));
    }
    let has = |group: &u32| asking.gid == *group || asking.groups.contains(group);
    match [saved.gid].iter().chain(&saved.groups).find(|group| !has(group)) {
        Some(group) => Err(format!("it runs in group {group}, which you are not in: only root may resume it")),
        None => Ok(()),
    }
}

impl Launcher {
    /// Makes everything ready for the end of a bottle that is to be frozen. When that fails, what was done of it is taken
    /// back: its processes go on behind the cut gate. What remains is audited and returned.
    pub(super) async fn hold(&self, row: &BottleRow, command: &RunningCommand) -> Result<(), String> {
        let Err(error) = self.try_to_hold(row, command).await else { return Ok(()) };
        self.stop_steps.over(row.id);
        // A group that cannot be told to go on has not been told to stand still, or stands still without network.
        let left = self.runtime.release(&row.name).await.map_or("stand still", |()| "go on");
        if let Err(error) = self.ledger.abandon_stop(row.id).await {
            warn!(bottle = %row.name, error = with_causes(&error), "the next start tries to freeze it again");
        }
        let name = &row.name;
        let what = format!("{error}; its processes {left}, without network");
        error!(bottle = %name, what, "the bottle could not be frozen; it stays cut");
        let kind = AuditKind::StopFailed { stop: Stop::Freeze, what: what.clone() };
        if let Err(error) = self.ledger.audit(Some(row.id), kind).await {
            error!(bottle = %name, error = with_causes(&error), "this is not in the audit");
        }
        Err(format!(
            "{name} could not be frozen: {what}. `egress freeze {name}` tries again, `egress restore {name}` opens its gate, \
             `egress kill {name}` gives it up"
        ))
    }

    async fn try_to_hold(&self, row: &BottleRow, command: &RunningCommand) -> Result<(), String> {
        self.stop_steps.at(row.id, StopStep::Holding);
        self.runtime.hold(&row.name).await.map_err(|error| with_causes(&error))?;
        fault::point(Point::Held);
        if let Err(error) = self.runtime.until_held(&row.name).await {
            warn!(bottle = %row.name, error = with_causes(&error), "frozen while something of it still moves");
        }
        self.ledger.begin_stop(row.id, Stop::Freeze).await.map_err(|error| with_causes(&error))?;
        fault::point(Point::FreezeBegun);
        self.stop_steps.at(row.id, saving(row));
        self.runtime.save_launch(&row.name, command).await.map_err(|error| with_causes(&error))?;
        fault::point(Point::LaunchSaved);
        Ok(())
    }

    /// Takes down what there is of a run and records how it came to its end.
    pub(super) async fn finish(&self, row: &BottleRow, over: Over) -> RunEnd {
        let turn = self.turns.take(row.id).await;
        self.finish_in_turn(&turn, row, over).await
    }

    /// The same for whoever has looked at the bottle in that turn.
    pub(super) async fn finish_in_turn(&self, _: &Turn, row: &BottleRow, over: Over) -> RunEnd {
        match over {
            Over::Ended(exit_code) => {
                // It ended by itself before it could be stopped.
                self.stop_steps.over(row.id);
                // Logged where it happens; the next start tries again.
                let _ = self.take_down(row).await;
                if let Err(error) = self.ledger.end_run(row.id, exit_code).await {
                    error!(bottle = %row.name, error = with_causes(&error), "the end of the run is not in the ledger; the next start tries again");
                }
                RunEnd { exit_code, stopped: None }
            }
            Over::Stopped(stop, cause) => {
                let why = self.why(row, cause).await;
                let left = self.stop(row, stop, cause).await.err();
                let message = said(&row.name, stop, &why, left.as_deref());
                RunEnd { exit_code: ENDED, stopped: Some(Stopped { stop, message, left }) }
            }
        }
    }

    /// How the run of a frozen bottle ended.
    pub(super) async fn frozen(&self, row: &BottleRow, cause: CutCause) -> RunEnd {
        let message = said(&row.name, Stop::Freeze, &self.why(row, cause).await, None);
        RunEnd { exit_code: ENDED, stopped: Some(Stopped { stop: Stop::Freeze, message, left: None }) }
    }

    async fn stop(&self, row: &BottleRow, stop: Stop, cause: CutCause) -> Result<(), String> {
        if stop == Stop::Kill
            && let Err(error) = self.ledger.begin_stop(row.id, stop).await
        {
            error!(bottle = %row.name, error = with_causes(&error), "the ledger does not know that this bottle is being killed");
        }
        if stop == Stop::Kill {
            fault::point(Point::KillBegun);
        }
        self.stop_steps.at(row.id, ending(row));
        let mut done = self.take_down(row).await;
        if stop == Stop::Kill && done.is_ok() {
            self.stop_steps.at(row.id, StopStep::RemovingFiles);
            done = self.runtime.remove_files(&row.name).await.map_err(|error| with_causes(&error));
            fault::point(Point::FilesRemoved);
        }
        self.stop_steps.over(row.id);
        self.record(row, stop, cause, done).await
    }

    async fn record(
        &self,
        row: &BottleRow,
        stop: Stop,
        cause: CutCause,
        done: Result<(), String>,
    ) -> Result<(), String> {
        let recorded = match &done {
            Ok(()) => self.ledger.end_stop(row.id, stop, cause).await,
            Err(what) => {
                error!(bottle = %row.name, what, "something of the bottle is left");
                self.ledger.audit(Some(row.id), AuditKind::StopFailed { stop, what: what.clone() }).await
            }
        };
        fault::point(Point::StopRecorded);
        if let Err(error) = recorded {
            error!(bottle = %row.name, error = with_causes(&error), "the end of the bottle is not in the ledger; the next start tries again");
            return done.and(Err(with_causes(&error)));
        }
        info!(bottle = %row.name, cause = cause.as_str(), stop = stop.as_str(), is_whole = done.is_ok(), "stopped");
        done
    }

    /// Removes what an ended or frozen bottle has kept, and what was left when it ended.
    pub(super) async fn kill_ended(&self, row: &BottleRow) -> Result<(), ApiError> {
        self.ledger.begin_removal(row.id).await.map_err(|error| refused(&error))?;
        self.stop_steps.at(row.id, ending(row));
        let mut done = self.take_down(row).await;
        if done.is_ok() {
            self.stop_steps.at(row.id, StopStep::RemovingFiles);
            done = self.runtime.remove_files(&row.name).await.map_err(|error| with_causes(&error));
        }
        self.stop_steps.over(row.id);
        let name = &row.name;
        let told = |what| failed(format!("{what}: `egress kill {name}` tries again"));
        self.record(row, Stop::Kill, CutCause::Operator, done).await.map_err(told)
    }

    async fn why(&self, row: &BottleRow, cause: CutCause) -> String {
        if cause == CutCause::Operator {
            return "by an operator".to_owned();
        }
        let budgets = self.ledger.budgets(row.id).await.unwrap_or_default();
        let gone = budgets.iter().find_map(|view| Some((view, budget::crossed(&view.chain)?)));
        gone.map_or_else(
            || "a budget is used up".to_owned(),
            |(view, gone)| {
                format!(
                    "the {} budget of {} is used up: {} of {} tokens",
                    view.provider, gone.scope, gone.used, gone.budget
                )
            },
        )
    }

    /// Starts a frozen run again for a front-end. The run ends when the receiver is dropped.
    pub(super) async fn resume(
        &self,
        peer: Peer,
        name: BottleName,
        request: ResumeRequest,
    ) -> Result<mpsc::Receiver<RunEvent>, ApiError> {
        self.check_enforcing()?;
        let row = self.ledger.bottle(&name).await.map_err(|error| refused(&error))?;
        let cause = row.frozen.ok_or_else(|| refused(&LedgerError::NotFrozen(name.clone())))?;
        let saved = self.saved_launch(&name)?;
        let asking = Caller { uid: peer.uid, gid: peer.gid, groups: peer.groups };
        may_resume(&asking, &saved.caller).map_err(|why| ApiError {
            code: ErrorCode::NotPermitted,
            message: format!("bottle {name} cannot be resumed: {why}"),
        })?;
        let stdio = streams(peer.streams)?;
        let has_terminal = request.has_terminal && gets_terminal(asking.uid, &stdio)?;
        let launch = self.guarded(saved.on(stdio, has_terminal)).await?;
        let row = self.ledger.resume_run(name, request.budget, self.pool).await.map_err(|error| refused(&error))?;
        fault::point(Point::ResumeBegun);
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let otherwise = Over::Stopped(Stop::Freeze, cause);
        tokio::spawn(self.clone().live(row, launch, events, otherwise));
        Ok(receiver)
    }

    /// Whether how it was launched is still on record, so that it has not been started since.
    pub(super) fn is_saved(&self, row: &BottleRow) -> bool {
        self.runtime.saved_launch(&row.name).is_ok_and(|saved| saved.is_some())
    }

    /// What is needed to start it, seen to be there before anything is changed.
    fn saved_launch(&self, name: &BottleName) -> Result<SavedLaunch, ApiError> {
        let saved = self.runtime.saved_launch(name).map_err(|error| failed(with_causes(&error)))?;
        let gone =
            |what: &str| failed(format!("bottle {name} cannot be resumed: {what}; `egress kill {name}` gives it up"));
        let saved = saved.ok_or_else(|| gone("how it was launched is not on record"))?;
        let is_missing = |path: &&OsStr| !Path::new(path).is_dir();
        match saved.shared.iter().map(|path| &**path).find(is_missing) {
            Some(missing) => {
                Err(gone(&format!("{}, which it shares with the host, is not there", Path::new(missing).display())))
            }
            None => Ok(saved),
        }
    }
}

/// What a front-end says when its run was stopped.
fn said(name: &BottleName, stop: Stop, why: &str, left: Option<&str>) -> String {
    match (stop, left) {
        (Stop::Freeze, None) => format!(
            "{name} is frozen ({why}): its files and its command are kept. `egress resume {name}` continues it, \
             `egress kill {name}` gives it up"
        ),
        (Stop::Kill, None) => format!("{name} was killed ({why}): its files are gone"),
        (Stop::Freeze | Stop::Kill, Some(left)) => {
            format!("{name} was stopped ({why}), but something is left: {left}. `egress kill {name}` tries again")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use crate::domain::{BottleId, BottleRules, RuntimeKind, UnixMillis};

    const OPEN: GateView = GateView::Open;
    const BUDGET: GateView = GateView::Cut(CutCause::Budget);
    const OPERATOR: GateView = GateView::Cut(CutCause::Operator);

    fn check(
        (gate, policy, stopping, is_held): (GateView, CutoffPolicy, Option<Stop>, bool),
        expected: Option<(Stop, CutCause)>,
    ) {
        let row = BottleRow {
            id: BottleId(1),
            name: "web".parse().unwrap(),
            agent: None,
            address: None,
            gate,
            budget: Vec::new(),
            started: UnixMillis(0),
            ended: None,
            extends: None,
            policy,
            stopping,
            frozen: None,
            exit_code: None,
            runtime: RuntimeKind::Native,
            container: None,
        };
        assert_eq!(unfinished(&row, is_held), expected, "{gate:?} {policy:?} {stopping:?} {is_held}");
    }

    #[test]
    fn what_was_begun_is_finished() {
        use CutoffPolicy::{Cutoff, Freeze, Kill};
        for policy in CutoffPolicy::ALL {
            check((OPEN, policy, None, false), None);
            check((OPERATOR, policy, None, false), None);
            check((OPEN, policy, None, true), Some((Stop::Freeze, CutCause::Operator)));
            check((OPERATOR, policy, Some(Stop::Kill), true), Some((Stop::Kill, CutCause::Operator)));
            check((BUDGET, policy, Some(Stop::Kill), false), Some((Stop::Kill, CutCause::Budget)));
        }
        check((BUDGET, Cutoff, None, false), None);
        check((BUDGET, Cutoff, None, true), Some((Stop::Freeze, CutCause::Budget)));
        check((BUDGET, Freeze, None, false), Some((Stop::Freeze, CutCause::Budget)));
        check((BUDGET, Kill, None, false), Some((Stop::Kill, CutCause::Budget)));
    }

    #[test]
    fn the_command_line_beats_the_file() {
        let [web, base, other] = ["web", "base", "other"].map(|name| name.parse().unwrap());
        let base_freezes = BottleRules { shutdown: Some(CutoffPolicy::Freeze), ..BottleRules::default() };
        let web_extends = BottleRules { extends: Some(BottleName::clone(&base)), ..BottleRules::default() };
        let bottles = BTreeMap::from([(web.clone(), web_extends), (base.clone(), base_freezes)]);
        let rules = Rules { shutdown: CutoffPolicy::Kill, bottles, ..Rules::default() };
        assert_eq!(policy_of(None, &rules, &other, None), CutoffPolicy::Kill);
        assert_eq!(policy_of(None, &rules, &web, None), CutoffPolicy::Freeze);
        assert_eq!(policy_of(None, &rules, &other, Some(&base)), CutoffPolicy::Freeze);
        assert_eq!(policy_of(Some(CutoffPolicy::Cutoff), &rules, &web, None), CutoffPolicy::Cutoff);
    }

    #[test]
    fn nobody_resumes_more_than_they_could_run() {
        let caller = |uid, gid, groups: &[u32]| Caller { uid, gid, groups: groups.to_vec() };
        let saved = caller(1000, 100, &[100, 27]);
        assert_eq!(may_resume(&caller(0, 0, &[]), &saved), Ok(()));
        assert_eq!(may_resume(&caller(1000, 100, &[27, 4]), &saved), Ok(()));
        assert_eq!(may_resume(&caller(1000, 27, &[100]), &saved), Ok(()));
        assert!(may_resume(&caller(1000, 100, &[4]), &saved).unwrap_err().contains("group 27"));
        assert!(may_resume(&caller(1000, 4, &[27]), &saved).unwrap_err().contains("group 100"));
        assert!(may_resume(&caller(1001, 100, &[27]), &saved).unwrap_err().contains("user 1000"));
        assert!(may_resume(&caller(1000, 100, &[27]), &caller(0, 0, &[])).is_err());
    }
}
