//! What front-ends and controller say to each other.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::domain::{
    AgentName, AuditRow, BottleName, BottleState, Budget, BudgetView, ChainReport, CutCause, CutoffPolicy, GateView,
    Limit, Precedence, ProviderName, RuntimeKind, Scope, ScopeView, Stop, Tokens, UnixMillis, UsageRow, UsageSum,
};

/// What kind of failure; decides the HTTP status and the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request makes no sense.
    Usage,
    /// No such bottle.
    NotFound,
    /// It exists or runs already.
    Conflict,
    /// The caller may not.
    NotPermitted,
    /// It was tried and failed.
    Failed,
}

/// Every failure of the API, as its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For machines.
    pub code: ErrorCode,
    /// For people: what failed and what to do next.
    pub message: String,
}

/// `GET /v1/status`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// The controller's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The proxy's process id, while there is one.
    pub proxy_pid: Option<u32>,
    /// `ebpf` or `nftables`.
    pub enforcer: String,
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// Where the gates are: a directory of pins, or a table.
    pub pins: String,
    /// Why gates are not to be relied on, and so no bottle is started.
    pub not_enforcing: Option<String>,
    /// What of settings, routes and secrets is not in force as it is written, and why.
    pub settings_problem: Option<String>,
    /// How many requests wait for an operator.
    #[serde(default)]
    pub open_approvals: u64,
}

/// One bottle, as `egress list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BottleInfo {
    /// Its name.
    pub name: BottleName,
    /// The role that runs in it.
    pub agent: Option<AgentName>,
    /// Its address, while it runs.
    pub address: Option<Ipv4Addr>,
    /// Host end of its veth, while it runs.
    pub interface: Option<String>,
    /// What makes it.
    pub runtime: RuntimeKind,
    /// Its container, as the engine knows it.
    pub container: Option<String>,
    /// Process id of its init on the host, while it runs.
    pub pid: Option<u32>,
    /// What the ledger wants its gate to be.
    #[serde(flatten)]
    pub gate: GateView,
    /// Whether it runs.
    pub is_running: bool,
    /// What it is.
    pub state: BottleState,
    /// Why it is frozen, if it is.
    pub frozen: Option<CutCause>,
    /// What is done with it when a budget is gone.
    pub policy: CutoffPolicy,
    /// When its last run started.
    pub started: UnixMillis,
    /// Budgets by provider.
    pub budgets: Vec<BudgetView>,
    /// Packets its gate has dropped.
    pub dropped_packets: u64,
}

/// `GET /v1/bottles`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BottlesReply {
    /// Running and frozen ones, and those that ended with a cut gate.
    pub bottles: Vec<BottleInfo>,
    /// What their gates are made of: `ebpf` or `nftables`.
    pub enforcer: String,
    /// Why gates are not to be relied on, and so no bottle is started.
    pub not_enforcing: Option<String>,
    /// What of settings, routes and secrets is not in force as it is written, and why.
    pub settings_problem: Option<String>,
    /// How many requests wait for an operator.
    #[serde(default)]
    pub open_approvals: u64,
}

/// `GET /v1/budgets`: every scope; `POST /v1/budgets`: the scope that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetsReply {
    /// By scope and provider.
    pub scopes: Vec<ScopeView>,
}

/// `POST /v1/budgets`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum BudgetChangeRequest {
    /// This limit in place of any other.
    Set {
        /// Whose.
        scope: Scope,
        /// Of which provider.
        provider: ProviderName,
        /// From now on.
        limit: Limit,
    },
    /// So much more.
    Grant {
        /// Whose.
        scope: Scope,
        /// Of which provider.
        provider: ProviderName,
        /// How many.
        tokens: Tokens,
        /// For how long, in seconds; for good when `None`.
        ttl_seconds: Option<u64>,
    },
    /// As settings and launch flags say.
    Clear {
        /// Whose.
        scope: Scope,
        /// Of which provider; of all when `None`.
        provider: Option<ProviderName>,
    },
}

/// `GET /v1/bottles/{name}/budget`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReply {
    /// Which.
    pub bottle: BottleName,
    /// The scopes that count what it spends, nearest first.
    pub chain: Vec<Scope>,
    /// Which of their budgets bind.
    pub precedence: Precedence,
    /// By provider.
    pub budgets: Vec<BudgetView>,
}

/// `POST /v1/bottles/{name}/run`: answered by a stream of [`RunEvent`]s; closing it ends the run. Before the request comes one
/// NUL byte, with the command's standard input, output and error as `SCM_RIGHTS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// The role.
    pub agent: Option<AgentName>,
    /// `--budget`.
    pub budget: Budget,
    /// `--extends`.
    pub extends: Option<BottleName>,
    /// `--shutdown`.
    pub shutdown: Option<CutoffPolicy>,
    /// Program and arguments, each as bytes (arguments need not be UTF-8).
    pub command: Vec<Vec<u8>>,
    /// The caller's environment.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where to start; shared with the host.
    pub directory: Vec<u8>,
    /// `--share`: further directories that are, by their real paths.
    pub shared: Vec<Vec<u8>>,
    /// The standard streams, which come before the request, are a terminal made for this run, if standard input is one: the
    /// caller's own, or the run is refused.
    pub has_terminal: bool,
    /// `--image`: the command runs in a container of it.
    #[serde(default)]
    pub image: Option<String>,
    /// `--env`: variables of that container, as `NAME=VALUE`.
    #[serde(default)]
    pub variables: Vec<String>,
}

/// `POST /v1/bottles/{name}/attach`: answered by an [`AttachReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// `--container`: its name or number at the engine.
    pub container: String,
    /// As for a run.
    pub agent: Option<AgentName>,
    /// As for a run.
    pub budget: Budget,
    /// As for a run.
    pub extends: Option<BottleName>,
    /// As for a run.
    pub shutdown: Option<CutoffPolicy>,
}

/// `POST /v1/bottles/{name}/attach` and `/detach`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachReply {
    /// The bottle.
    pub name: BottleName,
    /// The engine's number of the container.
    pub container: Option<String>,
    /// Its address as a bottle.
    pub address: Option<Ipv4Addr>,
}

/// `POST /v1/bottles/{name}/resume`: answered as a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeRequest {
    /// `--budget`: replaces that of the run, provider by provider.
    pub budget: Budget,
    /// As for a run.
    pub has_terminal: bool,
}

/// `POST /v1/bottles/{name}/wait`: answered as a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitRequest {
    /// As its start said; without it, whichever runs.
    pub run: Option<UnixMillis>,
}

/// What a run says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunEvent {
    /// The gate is attached and the command started.
    Started {
        /// The bottle's address.
        address: Ipv4Addr,
        /// Which of the bottle's runs this is, told by its time.
        run: UnixMillis,
    },
    /// The command ended.
    Exited {
        /// As a shell would report it: 128 + signal for a signalled one.
        exit_code: i32,
    },
    /// It was frozen or killed.
    Stopped {
        /// Which.
        stop: Stop,
        /// As a shell would report it.
        exit_code: i32,
        /// For people: what happened, why, and what to do next.
        message: String,
    },
    /// It could not be started.
    Failed {
        /// Why.
        error: ApiError,
    },
}

/// `POST /v1/bottles/{name}/signal`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalRequest {
    /// Signal number.
    pub signal: i32,
}

/// `POST /v1/bottles/{name}/cut` and `/restore`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReply {
    /// The bottle.
    pub name: BottleName,
    /// Its gate is this.
    #[serde(flatten)]
    pub gate: GateView,
    /// It was so before.
    pub was_already: bool,
    /// What the operator should know besides.
    pub note: Option<String>,
}

/// `POST /v1/bottles/cut`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutAllReply {
    /// Those that ran and were open.
    pub cut: Vec<BottleName>,
}

/// `POST /v1/bottles/{name}/freeze` and `/kill`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReply {
    /// The bottle.
    pub name: BottleName,
    /// What was done.
    pub stop: Stop,
    /// It was so before.
    pub was_already: bool,
    /// What the operator should know besides.
    pub note: Option<String>,
}

/// `GET /v1/usage?bottle=&last=`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageReply {
    /// Per bottle and provider.
    pub sums: Vec<UsageSum>,
    /// Oldest first.
    pub rows: Vec<UsageRow>,
}

/// Most rows of one [`AuditReply`]; a front-end that wants more asks for those before its first.
pub const AUDIT_ROWS_MAX: u32 = 10_000;

/// `GET /v1/audit?bottle=&since=&before=&last=`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReply {
    /// Oldest first.
    pub rows: Vec<AuditRow>,
    /// The highest number that any row of the audit had at that moment: where to follow from.
    pub newest: i64,
}

/// `GET /v1/audit/verify?tip=`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReply {
    /// What a walk along the audit found.
    #[serde(flatten)]
    pub chain: ChainReport,
    /// How many gates were compared.
    pub gates: usize,
    /// Where the kernel does not hold what the ledger wants.
    pub differences: Vec<GateDifference>,
}

/// A gate of which ledger and kernel say different things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateDifference {
    /// Whose, as far as the ledger knows.
    pub bottle: Option<BottleName>,
    /// The number of the interface it is on.
    pub interface: u32,
    /// What the difference is.
    #[serde(flatten)]
    pub fault: GateFault,
}

/// How a gate differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum GateFault {
    /// The kernel holds none.
    Missing,
    /// Open here, cut there.
    State {
        /// What the ledger wants.
        wanted: GateView,
        /// The kernel's is open.
        is_open: bool,
    },
    /// Other addresses or ports.
    Terms,
    /// Its program is not on the interface, or in one direction only.
    Detached,
    /// Whether it is on its interface cannot be told.
    Unreadable,
    /// The bottle's interface is gone: it has no network.
    NoInterface,
    /// The bottle does not run.
    Stray,
}
