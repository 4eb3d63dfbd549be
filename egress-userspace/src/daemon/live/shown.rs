//! What a follower has been told, and so what it is to be told next.
//!
//! Pure: how everything stands goes in, events come out. A bottle is told of again when anything but its gate's counters is
//! other than before; those are told by themselves, as they change with every packet.

use std::collections::{BTreeMap, BTreeSet};

use crate::control::{BottleInfo, GateCounts, LiveBottle, LiveEvent, LiveGate, LiveSnapshot, StatusReply};
use crate::daemon::approvals::Seen;
use crate::domain::{ApprovalId, ApprovalRow, AuditRow, BottleName, PermitId, UnixMillis};
use crate::ledger::RequestNews;

/// How things stand at a later moment.
#[derive(Debug)]
pub(super) struct Look {
    /// But for how many questions are open.
    pub(super) status: StatusReply,
    /// All of them, but for what their gates have counted.
    pub(super) bottles: Vec<BottleInfo>,
    /// Questions from [`Shown::first_question`] on.
    pub(super) approvals: Vec<ApprovalRow>,
    /// Rows after [`Shown::audited`].
    pub(super) audit: Vec<AuditRow>,
    /// The last row that was looked at, told or not.
    pub(super) audited: i64,
}

/// What one follower has been told.
#[derive(Debug)]
pub(super) struct Shown {
    status: StatusReply,
    bottles: BTreeMap<BottleName, LiveBottle>,
    on_their_way: BTreeSet<PermitId>,
    questions: Seen,
    audited: i64,
}

impl Shown {
    /// After a snapshot. `newest` and `audited` are the highest numbers that questions and audit rows had then.
    pub(super) fn new(snapshot: &LiveSnapshot, newest: ApprovalId, audited: i64) -> Self {
        Self {
            status: snapshot.status.clone(),
            bottles: snapshot.bottles.iter().map(|bottle| (bottle.info.name.clone(), bottle.clone())).collect(),
            on_their_way: snapshot.requests.iter().map(|request| request.permit).collect(),
            questions: Seen::new(newest, &snapshot.approvals),
            audited,
        }
    }

    /// The first question that may have news.
    pub(super) fn first_question(&self) -> ApprovalId {
        self.questions.first()
    }

    /// The last row of the audit that needs not be looked at again.
    pub(super) fn audited(&self) -> i64 {
        self.audited
    }

    /// When a budget begins anew without anything having happened.
    pub(super) fn next_turn(&self) -> Option<UnixMillis> {
        let views = self.bottles.values().flat_map(|bottle| &bottle.info.budgets);
        views.flat_map(|view| &view.chain).filter_map(|state| state.turns).min()
    }

    /// What is other than before. A bottle is told of before requests of it.
    pub(super) fn changes(&mut self, look: Look, news: Vec<RequestNews>) -> Vec<LiveEvent> {
        let approvals: Vec<ApprovalRow> =
            look.approvals.into_iter().filter(|row| self.questions.is_news(row)).collect();
        self.audited = look.audited;
        let mut events = Vec::new();
        let status = StatusReply { open_approvals: self.questions.waiting(), ..look.status };
        if status != self.status {
            self.status = status.clone();
            events.push(LiveEvent::Daemon { status });
        }
        self.compare(look.bottles, &mut events);
        events.extend(news.into_iter().filter_map(|news| self.request(news)));
        let approvals = approvals.into_iter().map(Box::new);
        events.extend(approvals.map(|approval| LiveEvent::Approval { approval }));
        events.extend(look.audit.into_iter().map(|row| LiveEvent::Audit { row }));
        events
    }

    /// What gates have counted that is other than before.
    pub(super) fn counted(&mut self, counted: Vec<LiveGate>) -> Option<LiveEvent> {
        let is_other = |gate: &LiveGate| {
            let Some(shown) = self.bottles.get_mut(&gate.bottle) else { return false };
            let before = (shown.info.dropped_packets, shown.counts);
            (shown.info.dropped_packets, shown.counts) = (gate.dropped_packets, gate.counts);
            (shown.info.dropped_packets, shown.counts) != before
        };
        let gates: Vec<LiveGate> = counted.into_iter().filter(is_other).collect();
        (!gates.is_empty()).then_some(LiveEvent::Gates { gates })
    }

    fn compare(&mut self, found: Vec<BottleInfo>, events: &mut Vec<LiveEvent>) {
        let names: BTreeSet<&BottleName> = found.iter().map(|info| &info.name).collect();
        let gone: Vec<BottleName> = self.bottles.keys().filter(|name| !names.contains(name)).cloned().collect();
        for name in gone {
            self.bottles.remove(&name);
            events.push(LiveEvent::Gone { name });
        }
        for info in found {
            let before = self.bottles.get(&info.name);
            let bottle = with_counts(info, before);
            if before != Some(&bottle) {
                self.bottles.insert(bottle.info.name.clone(), bottle.clone());
                events.push(LiveEvent::Bottle { bottle: Box::new(bottle) });
            }
        }
    }

    /// What a snapshot has told already is not told again, and of what it did not tell, no end.
    fn request(&mut self, news: RequestNews) -> Option<LiveEvent> {
        match news {
            RequestNews::Admitted(request) => {
                let is_new = self.on_their_way.insert(request.permit);
                is_new.then_some(LiveEvent::Admitted { request: *request })
            }
            RequestNews::Settled(permit, usage) => {
                let was_shown = self.on_their_way.remove(&permit);
                was_shown.then_some(LiveEvent::Settled { permit, usage })
            }
        }
    }
}

/// A bottle with what its gate was last said to have counted, as long as it is the same gate.
fn with_counts(info: BottleInfo, before: Option<&LiveBottle>) -> LiveBottle {
    let gate = |info: &BottleInfo| (info.interface.clone(), info.started);
    let same = before.filter(|before| info.interface.is_some() && gate(&before.info) == gate(&info));
    let (dropped_packets, counts) =
        same.map_or((0, GateCounts::default()), |same| (same.info.dropped_packets, same.counts));
    LiveBottle { info: BottleInfo { dropped_packets, ..info }, counts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        AuditHash, AuditKind, BottleState, BudgetView, CutCause, CutoffPolicy, Ending, GateView, Known, LiveRequest,
        ProviderNotes, RuntimeKind, Scope, ScopeState, Tokens, Usage, UsageDetails, UsageRow, Verdict,
    };

    fn status(proxy_pid: Option<u32>, open_approvals: u64) -> StatusReply {
        StatusReply {
            version: "1".to_owned(),
            pid: 1,
            proxy_pid,
            enforcer: "ebpf".to_owned(),
            gateway: "10.213.0.1".parse().unwrap(),
            pins: String::new(),
            not_enforcing: None,
            settings_problem: None,
            open_approvals,
        }
    }

    fn bottle(name: &str, gate: GateView) -> BottleInfo {
        BottleInfo {
            name: name.parse().unwrap(),
            agent: None,
            address: None,
            interface: Some(format!("eg-{name}")),
            runtime: RuntimeKind::Native,
            container: None,
            pid: None,
            gate,
            is_running: true,
            state: BottleState::Running,
            frozen: None,
            policy: CutoffPolicy::Cutoff,
            started: UnixMillis(1),
            budgets: Vec::new(),
            dropped_packets: 0,
        }
    }

    fn counted(name: &str, dropped_packets: u64, to_bottle: u64) -> LiveGate {
        let counts = GateCounts { passed_bytes_to_bottle: to_bottle, ..GateCounts::default() };
        LiveGate { bottle: name.parse().unwrap(), dropped_packets, counts }
    }

    fn request(permit: i64) -> LiveRequest {
        LiveRequest {
            permit: PermitId(permit),
            bottle: "web".parse().unwrap(),
            agent: None,
            provider: "claude".parse().unwrap(),
            host: "api.anthropic.com".parse().unwrap(),
            target: "POST /v1/messages".to_owned(),
            model: None,
            held: Tokens(7),
            admitted: UnixMillis(2),
        }
    }

    fn admitted(permit: i64) -> RequestNews {
        RequestNews::Admitted(Box::new(request(permit)))
    }

    fn settled(permit: i64) -> RequestNews {
        let LiveRequest { bottle, agent, provider, host, target, model, admitted, .. } = request(permit);
        let usage = Usage { input: Tokens(5), ..Usage::default() };
        let row = UsageRow {
            bottle,
            agent,
            provider,
            host,
            target,
            model,
            request_id: None,
            status: Some(200),
            usage,
            details: UsageDetails::default(),
            known: Known::Reported,
            ending: Ending::Complete,
            notes: ProviderNotes::default(),
            admitted,
            settled: UnixMillis(3),
        };
        RequestNews::Settled(PermitId(permit), Box::new(row))
    }

    fn question(id: i64, verdict: Option<Verdict>) -> ApprovalRow {
        ApprovalRow {
            id: ApprovalId(id),
            bottle: "web".parse().unwrap(),
            detector: "aws_key".to_owned(),
            host: "a.example".parse().unwrap(),
            target: "POST /x".to_owned(),
            asked: UnixMillis(1),
            expires: UnixMillis(9),
            decided: verdict.map(|_| UnixMillis(2)),
            verdict,
            by: None,
            is_always: false,
            forgotten: None,
            used: 0,
        }
    }

    fn audit_row(number: i64) -> AuditRow {
        let (bottle, hash) = (Some("web".parse().unwrap()), AuditHash::NONE);
        AuditRow { number, at: UnixMillis(number), bottle, kind: AuditKind::GateRestored, hash }
    }

    /// One bottle, one request, one question, three rows of the audit.
    fn shown() -> Shown {
        let web = LiveBottle { info: bottle("web", GateView::Open), counts: GateCounts::default() };
        let snapshot = LiveSnapshot {
            status: status(Some(2), 1),
            bottles: vec![web],
            requests: vec![request(4)],
            approvals: vec![question(1, None)],
            audit: vec![audit_row(3)],
            now: UnixMillis(5),
        };
        Shown::new(&snapshot, ApprovalId(1), 3)
    }

    /// Nothing is other than [`shown`].
    fn look() -> Look {
        let (bottles, approvals) = (vec![bottle("web", GateView::Open)], vec![question(1, None)]);
        Look { status: status(Some(2), 0), bottles, approvals, audit: Vec::new(), audited: 3 }
    }

    /// An event in a few words.
    fn said(event: &LiveEvent) -> String {
        match event {
            LiveEvent::Snapshot(_) => "snapshot".to_owned(),
            LiveEvent::Daemon { status } => format!("proxy {:?}, {} open", status.proxy_pid, status.open_approvals),
            LiveEvent::Bottle { bottle } => format!("{} {:?}", bottle.info.name, bottle.info.gate),
            LiveEvent::Gone { name } => format!("{name} gone"),
            LiveEvent::Admitted { request } => format!("admitted {}", request.permit.0),
            LiveEvent::Settled { permit, usage } => format!("settled {} {}", permit.0, usage.usage.input),
            LiveEvent::Gates { gates } => format!("{} gates", gates.len()),
            LiveEvent::Approval { approval } => format!("question {} {:?}", approval.id, approval.verdict),
            LiveEvent::Audit { row } => format!("row {}", row.number),
            LiveEvent::Alive => "alive".to_owned(),
        }
    }

    fn check((look, news): (Look, Vec<RequestNews>), expected: &[&str]) {
        let events = shown().changes(look, news);
        assert_eq!(events.iter().map(said).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_other_than_before_is_told_and_nothing_else() {
        let cut = || GateView::Cut(CutCause::Operator);
        check((look(), vec![]), &[]);
        check((Look { status: status(None, 0), ..look() }, vec![]), &["proxy None, 1 open"]);
        check((Look { bottles: vec![bottle("web", cut())], ..look() }, vec![]), &["web Cut(Operator)"]);
        check((Look { bottles: vec![bottle("api", cut())], ..look() }, vec![]), &["web gone", "api Cut(Operator)"]);
        let rows = Look { audit: vec![audit_row(4), audit_row(5)], audited: 5, ..look() };
        check((rows, vec![]), &["row 4", "row 5"]);
        let approvals = vec![question(1, Some(Verdict::Approved)), question(2, None), question(3, None)];
        let expected = ["proxy Some(2), 2 open", "question 1 Some(Approved)", "question 2 None", "question 3 None"];
        check((Look { approvals, ..look() }, vec![]), &expected);
    }

    #[test]
    fn a_bottle_is_told_of_before_its_requests() {
        let bottles = vec![bottle("api", GateView::Open), bottle("web", GateView::Open)];
        check((Look { bottles, ..look() }, vec![admitted(5)]), &["api Open", "admitted 5"]);
    }

    #[test]
    fn a_request_comes_once_and_goes_once() {
        check((look(), vec![admitted(4), settled(4), settled(4)]), &["settled 4 5"]);
        check((look(), vec![settled(3), admitted(5), settled(5)]), &["admitted 5", "settled 5 5"]);
    }

    #[test]
    fn nothing_is_told_twice() {
        let mut shown = shown();
        let change = || Look {
            status: status(None, 0),
            bottles: vec![bottle("api", GateView::Open)],
            approvals: vec![question(1, Some(Verdict::Denied))],
            audit: vec![],
            audited: 9,
        };
        assert_eq!(shown.changes(change(), vec![]).len(), 4);
        assert_eq!((shown.audited(), shown.first_question()), (9, ApprovalId(2)));
        assert_eq!(shown.changes(change(), vec![]), []);
    }

    #[test]
    fn counters_are_told_by_themselves_and_end_with_their_gate() {
        let mut shown = shown();
        assert_eq!(shown.counted(vec![counted("web", 0, 0), counted("nobody", 5, 5)]), None);
        let gates = vec![counted("web", 3, 9)];
        assert_eq!(shown.counted(gates.clone()), Some(LiveEvent::Gates { gates: gates.clone() }));
        assert_eq!(shown.counted(gates), None);
        assert_eq!(shown.changes(look(), vec![]), [], "they are no change of the bottle");

        let told = |shown: &mut Shown, info: BottleInfo| match shown
            .changes(Look { bottles: vec![info], ..look() }, vec![])
            .as_slice()
        {
            [LiveEvent::Bottle { bottle }] => (bottle.info.dropped_packets, bottle.counts.passed_bytes_to_bottle),
            other => panic!("{other:?}"),
        };
        assert_eq!(told(&mut shown, bottle("web", GateView::Cut(CutCause::Budget))), (3, 9));
        let started = UnixMillis(2);
        assert_eq!(told(&mut shown, BottleInfo { started, ..bottle("web", GateView::Open) }), (0, 0));
    }

    #[test]
    fn the_first_budget_to_begin_anew_is_waited_for() {
        let mut shown = shown();
        assert_eq!(shown.next_turn(), None);
        let state = |turns| ScopeState { turns, ..ScopeState::of(Scope::Host) };
        let chain = vec![state(None), state(Some(UnixMillis(70))), state(Some(UnixMillis(60)))];
        let budgets = vec![BudgetView { provider: "claude".parse().unwrap(), own: Tokens(1), chain }];
        let info = BottleInfo { budgets, ..bottle("web", GateView::Open) };
        assert_eq!(shown.changes(Look { bottles: vec![info], ..look() }, vec![]).len(), 1);
        assert_eq!(shown.next_turn(), Some(UnixMillis(60)));
    }
}
