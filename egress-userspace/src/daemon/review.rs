//! Bottles and budgets that change without a request: windows turn, operators set and grant, settings are read anew.

use std::time::Duration;

use tracing::{error, info};

use crate::budget;
use crate::domain::{BottleId, BudgetView, CutCause, CutoffPolicy, Tokens, with_causes};
use crate::ledger::GateChange;

use super::controller::{Controller, refusal, spends};
use super::cutting::Stage;

/// How late a cut is lifted when its window turns, at most.
pub(super) const REVIEW_EVERY: Duration = Duration::from_secs(1);

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Review {
    /// Budgets that allow something again.
    Lifts,
    /// Those, and budgets that have become too small. A bottle that an operator restored as it was is left alone by the
    /// clock: it hears why at its next request.
    Whole,
}

impl Controller {
    /// Time has passed.
    pub(super) async fn review_clock(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let ended = self.ledger.end_grants().await.unwrap_or_else(|error| {
            error!(error = with_causes(&error), "what was granted for a time is over, but not in the audit yet");
            0
        });
        self.review(if ended > 0 { Review::Whole } else { Review::Lifts }).await;
    }

    /// Makes every bottle what its budgets want.
    pub(super) async fn review(&mut self, review: Review) {
        let bottles: Vec<BottleId> = self.running.keys().copied().collect();
        for bottle in bottles {
            let Some(running) = self.running.get(&bottle) else { continue };
            let stage = running.stage.clone();
            let is_of_interest = match &stage {
                Stage::Open => review == Review::Whole,
                Stage::Draining { .. } | Stage::LastWord { .. } => true,
                // What is being frozen or killed for its budget is not opened half-way.
                Stage::Cut(CutCause::Budget) => running.policy == CutoffPolicy::Cutoff,
                Stage::Cut(CutCause::Operator) => false,
            };
            if !is_of_interest {
                continue;
            }
            // What cannot be read lifts nothing.
            let Ok(budgets) = self.ledger.budgets(bottle).await else { continue };
            self.review_one(bottle, &stage, &budgets).await;
        }
    }

    async fn review_one(&mut self, bottle: BottleId, stage: &Stage, budgets: &[BudgetView]) {
        // A cut stays as long as any budget is used up, by whomever. Only what has spent is cut when there is less to spend.
        let counts = |view: &&BudgetView| *stage != Stage::Open || spends(view);
        let mut crossed = budgets.iter().filter(counts).filter_map(|view| Some((view, budget::crossed(&view.chain)?)));
        let gone = crossed.find(|(_, crossing)| crossing.used > Tokens::ZERO);
        match (stage, gone) {
            (Stage::Open, Some((view, crossing))) => {
                let refusal = refusal(&crossing, &view.provider);
                self.advance(bottle, |stage, bounds, now| stage.exhausted(refusal, true, bounds, now)).await;
            }
            (Stage::Draining { .. } | Stage::LastWord { .. }, None) => {
                self.advance(bottle, |stage, _, _| stage.relieved()).await;
            }
            (Stage::Cut(CutCause::Budget), None) => match self.open(bottle, GateChange::Lift).await {
                Ok(_) => info!(bottle = bottle.0, "the budget it was cut for is no longer used up"),
                Err(error) => error!(bottle = bottle.0, error = with_causes(&error), "a cut is not lifted yet"),
            },
            (Stage::Open | Stage::Cut(_), None)
            | (Stage::Draining { .. } | Stage::LastWord { .. } | Stage::Cut(_), Some(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::super::controller::{self, ControllerHandle, Running};
    use super::super::cutting::Bounds;
    use super::super::lifeline::Lifeline;
    use super::*;
    use crate::broker::Snapshot;
    use crate::domain::{
        CutMode, Durability, Ending, GateView, Known, ProviderNotes, Rules, Settlement, SpendRequest, UnixMillis,
        Usage, UsageDetails,
    };
    use crate::kernel::{Enforcer, FakeEnforcer, Gate, GateStatus, IfIndex};
    use crate::ledger::{AddressPool, BottleRow, Ledger, NewRun, Terms};

    const INTERFACE: IfIndex = IfIndex(7);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
    const HOUR: i64 = 3_600_000;
    const AT_ONCE: Bounds = Bounds { drain: Duration::ZERO, last_word: Duration::ZERO };

    /// A controller with one bottle and a clock that is set by hand.
    struct World {
        _directory: tempfile::TempDir,
        ledger: Ledger,
        enforcer: Arc<FakeEnforcer>,
        controller: ControllerHandle,
        bottle: BottleRow,
        clock: Arc<AtomicI64>,
    }

    impl World {
        async fn with(budget: &str) -> Self {
            let directory = tempfile::TempDir::new().unwrap();
            let clock = Arc::new(AtomicI64::new(1_700_000_000_000));
            let time = Arc::clone(&clock);
            let host = vec![("claude".parse().unwrap(), budget.parse().unwrap())];
            let terms = Terms {
                rules: Rules { host, ..Rules::default() },
                durability: Durability::Process,
                clock: Arc::new(move || UnixMillis(time.load(Ordering::SeqCst))),
                boot: String::new(),
            };
            let ledger = Ledger::open(&directory.path().join("ledger"), terms).unwrap();
            let policy = CutoffPolicy::Cutoff;
            let name = "web".parse().unwrap();
            let (agent, extends, budget, container) = (None, None, Vec::new(), None);
            let run =
                NewRun { name, agent, extends, budget, policy, runtime: crate::domain::RuntimeKind::Native, container };
            let bottle = ledger.begin_run(run, AddressPool { gateway: GATEWAY, prefix: 16 }).await.unwrap();
            let enforcer = Arc::new(FakeEnforcer::default());
            let shared: Arc<dyn Enforcer> = Arc::<FakeEnforcer>::clone(&enforcer);
            let controller = controller::spawn(ledger.clone(), shared, Snapshot::default(), AT_ONCE);
            let world = Self { _directory: directory, ledger, enforcer, controller, bottle, clock };
            world.start().await;
            world
        }

        async fn start(&self) {
            let address = self.bottle.address.unwrap();
            let gate = Gate {
                interface: INTERFACE,
                bottle: self.bottle.id,
                mac: [2; 6],
                address,
                gateway: GATEWAY,
                tcp_ports: vec![443],
                dns_port: 53,
                status: GateStatus::Open,
                cut_mode: CutMode::Reset,
            };
            self.enforcer.attach(&gate).unwrap();
            let running = Running {
                id: self.bottle.id,
                name: self.bottle.name.clone(),
                agent: None,
                lineage: vec![self.bottle.name.clone()],
                address,
                interface: INTERFACE,
                interface_name: "eg-web".to_owned(),
                init_pid: None,
                container: None,
                signaller: None,
                policy: CutoffPolicy::Cutoff,
                stage: Stage::Open,
                lifeline: Lifeline::new().0,
            };
            self.controller.started(running).await;
        }

        async fn spend(&self, tokens: u64) {
            let request = SpendRequest {
                bottle: self.bottle.id,
                provider: "claude".parse().unwrap(),
                host: "api.anthropic.com".parse().unwrap(),
                target: "POST /v1/messages".to_owned(),
                is_metered: true,
                model: None,
                input_estimate: Tokens(tokens),
                output_cap: Tokens::ZERO,
            };
            let admitted = self.ledger.admit(request).await.unwrap().unwrap();
            let settlement = Settlement {
                permit: admitted.permit,
                usage: Usage { input: Tokens(tokens), ..Usage::default() },
                details: UsageDetails::default(),
                known: Known::Reported,
                ending: Ending::Complete,
                status: Some(200),
                model: None,
                provider_request_id: None,
                notes: ProviderNotes::default(),
            };
            let settled = self.ledger.settle(settlement).await.unwrap();
            self.controller.crossed(settled).await;
        }

        fn is_cut(&self) -> bool {
            self.enforcer.gates().unwrap().iter().all(|gate| gate.status != GateStatus::Open)
        }

        /// Longer than two reviews.
        async fn pass_time(&self, millis: i64) {
            self.clock.fetch_add(millis, Ordering::SeqCst);
            tokio::time::sleep(2 * REVIEW_EVERY + REVIEW_EVERY / 2).await;
        }

        async fn recorded(&self) -> GateView {
            self.ledger.bottle(&self.bottle.name).await.unwrap().gate
        }
    }

    #[tokio::test]
    async fn a_cut_made_by_a_window_lifts_when_the_window_turns() {
        let world = World::with("100/hour").await;
        world.spend(100).await;
        assert!(world.is_cut());
        world.pass_time(1).await;
        assert!(world.is_cut(), "the window goes on");
        world.pass_time(HOUR).await;
        assert!(!world.is_cut(), "the window has turned");
        assert_eq!(world.recorded().await, GateView::Open);
        world.spend(99).await;
        assert!(!world.is_cut());
        world.controller.cut(world.bottle.id).await.unwrap();
        world.pass_time(HOUR).await;
        assert!(world.is_cut(), "an operator's cut is lifted by no clock");
    }

    #[tokio::test]
    async fn a_plain_budget_turns_never() {
        let world = World::with("100").await;
        world.spend(100).await;
        world.pass_time(400 * 24 * HOUR).await;
        assert!(world.is_cut());
        assert_eq!(world.recorded().await, GateView::Cut(CutCause::Budget));
    }
}
