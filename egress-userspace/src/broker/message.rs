//! What the two processes say to each other.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::measured::Measured;
use crate::domain::{
    AgentName, Allowance, BottleId, BottleName, BudgetView, CacheReads, CrossingMode, Host, Network, PermitId,
    Preflight, Preflights, Question, Refusal, RefusalReason, Secret, SecretSource, Settlement, SpendRequest,
    Supervised,
};
use crate::policy::{MeteredTable, RouteFiles};

/// Pairs a question with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestNumber(pub u64);

/// What the proxy may know: pushed whole at start and after every change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Who is behind which address.
    pub bottles: Vec<BottleView>,
    /// Whose tokens are counted.
    pub metered: MeteredTable,
    /// Where bottles may go.
    pub routes: RouteFiles,
    /// What is looked at before a request is sent.
    pub preflight: Preflights,
    /// What becomes of the response that uses a budget up.
    pub crossing: CrossingMode,
    /// Whether input that a provider had cached makes a budget smaller.
    pub cache_reads: CacheReads,
    /// How long the response that crosses a budget may take to reach the client, milliseconds.
    pub drain_ms: u64,
    /// Longest silence of a provider inside a response, milliseconds.
    pub idle_ms: u64,
    /// This host's own addresses and those beside it, as far as they are public: names may not lead there.
    pub own_networks: BTreeSet<Network>,
}

/// One running bottle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BottleView {
    /// Its number in the ledger.
    pub id: BottleId,
    /// Its name.
    pub name: BottleName,
    /// Itself, then its parents, nearest first.
    pub lineage: Vec<BottleName>,
    /// The role that runs in it.
    pub agent: Option<AgentName>,
    /// Its address: what the proxy knows it by.
    pub address: Ipv4Addr,
    /// How its requests are looked at, when other than as usual.
    pub preflight: Option<Preflight>,
    /// What may happen in it.
    pub phase: Phase,
}

/// What a bottle may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Requests go to the ledger for a permit.
    Open,
    /// Its budget is gone and its gate about to be cut: every request is answered with this.
    LastWord(Refusal),
    /// Its gate is cut: exchanges in flight are severed, new connections closed.
    Cut,
}

/// From the proxy to the controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum FromProxy {
    /// The sandbox is closed, the listeners are served and the first snapshot is in force.
    Ready,
    /// May this request go?
    Admit {
        /// Answered by [`FromController::Admitted`].
        number: RequestNumber,
        /// What it is.
        request: SpendRequest,
    },
    /// This is what it used. Answered by [`FromController::Settled`] once committed.
    Settle {
        /// Pairs question and answer.
        number: RequestNumber,
        /// What it used.
        settlement: Box<Settlement>,
    },
    /// The response of a settled exchange has left for the client entirely.
    Delivered {
        /// Whose.
        bottle: BottleId,
    },
    /// A readable refusal has left for the client entirely.
    RefusalDelivered {
        /// Whose.
        bottle: BottleId,
    },
    /// A request is about to go where nobody knows whether tokens are spent; it will not be counted.
    PathUnknown {
        /// Whose.
        bottle: BottleId,
        /// To which host.
        host: Host,
        /// Method and path, without what tells requests of its kind apart.
        target: String,
    },
    /// A request was refused by what routes say.
    Refused {
        /// Whose.
        bottle: BottleId,
        /// Why.
        reason: RefusalReason,
        /// Where to, as far as it was said.
        host: Option<Host>,
        /// Method and path, without query.
        target: String,
        /// The route or detector that decided, if one did.
        rule: Option<String>,
        /// How many of the bottle's this stands for.
        count: u64,
    },
    /// Something went without what a detector found in it.
    Redacted {
        /// Whose.
        bottle: BottleId,
        /// Which detector.
        detector: String,
        /// To or from which host.
        host: Host,
        /// Method and path, without query.
        target: String,
        /// The bottle sent it; else it was sent to the bottle.
        is_outbound: bool,
        /// How often it was found.
        count: u64,
    },
    /// What are a bottle's budgets?
    Budgets {
        /// Answered by [`FromController::Budgets`].
        number: RequestNumber,
        /// Whose.
        bottle: BottleId,
    },
    /// What a bottle and the gateway have exchanged since this was last said, in bytes of TCP and UDP payload.
    Exchanged {
        /// Whose.
        bottle: BottleId,
        /// What it sent.
        from_bottle: u64,
        /// What it was sent.
        to_bottle: u64,
        /// Connections that are open.
        connections: u32,
    },
    /// What was counted and measured for a bottle since this was last said.
    Measured {
        /// Whose.
        bottle: BottleId,
        /// What.
        measured: Vec<Measured>,
    },
    /// A request is held: may it go with what was found in it?
    Supervise {
        /// Answered by [`FromController::Supervised`], however late; or by nothing, after `SuperviseOver`.
        number: RequestNumber,
        /// What an operator is asked.
        question: Question,
        /// How long the request is held, milliseconds.
        timeout_ms: u64,
    },
    /// It is held no longer.
    SuperviseOver {
        /// Of the question.
        number: RequestNumber,
    },
    /// A certificate for this name, please.
    MintLeaf {
        /// Answered by [`FromController::Leaf`].
        number: RequestNumber,
        /// Whose.
        host: Host,
    },
}

/// From the controller to the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum FromController {
    /// The first frame, once: what the proxy needs before it closes its sandbox.
    Configure(Configuration),
    /// Replaces everything known before. A bottle that is `Cut` or gone has its exchanges severed.
    Snapshot(Snapshot),
    /// The values of every secret that routes name, as far as they are to be had: replaces those of before. Said before the
    /// first snapshot, and after every change.
    Secrets {
        /// By where they were read.
        secrets: Vec<(SecretSource, Secret)>,
    },
    /// Answer to `Admit`.
    Admitted {
        /// Of the question.
        number: RequestNumber,
        /// Permit or refusal.
        admission: Admission,
    },
    /// Answer to `Settle`: the ledger has committed (or cannot: nothing more is admitted then).
    Settled {
        /// Of the question.
        number: RequestNumber,
        /// A budget is used up with this: the proxy says [`FromProxy::Delivered`] when the response has left.
        crossed: bool,
        /// What is left in each budget that binds the bottle.
        allowances: Vec<Allowance>,
    },
    /// Answer to `Budgets`.
    Budgets {
        /// Of the question.
        number: RequestNumber,
        /// For each provider that has a budget on the bottle's chain, or that it has used; `None` when they cannot be read.
        budgets: Option<Vec<BudgetView>>,
    },
    /// Answer to `Supervise`.
    Supervised {
        /// Of the question.
        number: RequestNumber,
        /// Nothing but an approval lets the request go.
        answer: Supervised,
    },
    /// Answer to `MintLeaf`.
    Leaf {
        /// Of the question.
        number: RequestNumber,
        /// Certificate or the reason there is none.
        leaf: LeafReply,
    },
}

/// What does not change while a proxy runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The address that allowed names resolve to.
    pub gateway: Ipv4Addr,
    /// PEM certificates to be trusted upstream in addition to the usual roots; may be empty.
    pub extra_roots_pem: String,
    /// The key under which values are fingerprinted, the same as long as this host lives.
    pub approval_key: Secret,
}

/// Permit or refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// Go.
    Permit(Permit),
    /// Answer with this.
    Refused(Refusal),
}

/// The value that proves a reservation. Only the ledger makes one; settling consumes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// The reservation's number.
    pub id: PermitId,
    /// What is left in each budget that binds the bottle, this reservation among what is held.
    pub allowances: Vec<Allowance>,
}

/// Certificate or the reason there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeafReply {
    /// DER, leaf first, and its PKCS #8 key.
    Leaf {
        /// Leaf, then CA.
        chain_der: Vec<Vec<u8>>,
        /// The leaf's own key.
        key_der: Vec<u8>,
        /// After this, ask again.
        expires_unix_ms: i64,
    },
    /// There is none for this name.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_arrive_and_are_not_shown() {
        let source = SecretSource::File("keys/anthropic".into());
        let secrets = vec![(source, Secret::new("s3cret \"\u{fc}".to_owned()))];
        let message = FromController::Secrets { secrets };
        let said = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<FromController>(&said).unwrap(), message);
        assert!(!format!("{message:?}").contains("s3cret"));
    }
}
