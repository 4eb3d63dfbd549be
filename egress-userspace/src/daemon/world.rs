//! A controller to try: one bottle, a clock that is set by hand, and gates in memory.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::controller::{self, ControllerHandle, Running};
use super::cutting::{Bounds, Stage};
use super::gating::GateError;
use super::lifeline::Lifeline;
use crate::broker::Snapshot;
use crate::domain::{
    CutMode, CutoffPolicy, Durability, Ending, GateView, Known, ProviderNotes, Rules, RuntimeKind, Settlement,
    SpendRequest, Tokens, UnixMillis, Usage, UsageDetails,
};
use crate::kernel::{Enforcer, FakeEnforcer, Gate, GateStatus, IfIndex};
use crate::ledger::{AddressPool, BottleRow, Ledger, NewRun, Terms};

const INTERFACE: IfIndex = IfIndex(7);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
const AT_ONCE: Bounds = Bounds { drain: Duration::ZERO, last_word: Duration::ZERO };

pub(super) struct World {
    _directory: tempfile::TempDir,
    pub(super) ledger: Ledger,
    pub(super) enforcer: Arc<FakeEnforcer>,
    pub(super) controller: ControllerHandle,
    pub(super) bottle: BottleRow,
    pub(super) lifeline: Lifeline,
    pub(super) clock: Arc<AtomicI64>,
}

impl World {
    /// The bottle's run has begun; its interface is being made.
    pub(super) async fn begun(budget: &str, policy: CutoffPolicy) -> Self {
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
        let name = "web".parse().unwrap();
        let (agent, extends, budget, container) = (None, None, Vec::new(), None);
        let run = NewRun { name, agent, extends, budget, policy, runtime: RuntimeKind::Native, container };
        let bottle = ledger.begin_run(run, AddressPool { gateway: GATEWAY, prefix: 16 }).await.unwrap();
        let enforcer = Arc::new(FakeEnforcer::default());
        let shared: Arc<dyn Enforcer> = Arc::<FakeEnforcer>::clone(&enforcer);
        let controller = controller::spawn(ledger.clone(), shared, Snapshot::default(), AT_ONCE);
        let lifeline = Lifeline::new().0;
        let world = Self { _directory: directory, ledger, enforcer, controller, bottle, lifeline, clock };
        world.enforcer.attach(&world.gate()).unwrap();
        world
    }

    /// The bottle runs, its gate open.
    pub(super) async fn started(budget: &str) -> Self {
        let world = Self::begun(budget, CutoffPolicy::Cutoff).await;
        world.start().await.unwrap();
        world
    }

    /// As the ledger wanted it when the run began.
    pub(super) fn gate(&self) -> Gate {
        Gate {
            interface: INTERFACE,
            bottle: self.bottle.id,
            mac: [2; 6],
            address: self.bottle.address.unwrap(),
            gateway: GATEWAY,
            tcp_ports: vec![443],
            dns_port: 53,
            status: GateStatus::Open,
            cut_mode: CutMode::Reset,
        }
    }

    pub(super) async fn start(&self) -> Result<(), GateError> {
        let running = Running {
            id: self.bottle.id,
            name: self.bottle.name.clone(),
            agent: None,
            lineage: vec![self.bottle.name.clone()],
            address: self.bottle.address.unwrap(),
            interface: INTERFACE,
            interface_name: "eg-web".to_owned(),
            init_pid: None,
            container: None,
            signaller: None,
            policy: self.bottle.policy,
            stage: Stage::Open,
            lifeline: self.lifeline.clone(),
        };
        self.controller.started(running).await
    }

    pub(super) async fn spend(&self, tokens: u64) {
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

    pub(super) fn is_cut(&self) -> bool {
        self.enforcer.gates().unwrap().iter().all(|gate| gate.status != GateStatus::Open)
    }

    pub(super) async fn recorded(&self) -> GateView {
        self.ledger.bottle(&self.bottle.name).await.unwrap().gate
    }
}
