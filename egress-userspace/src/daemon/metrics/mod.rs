//! What the daemon counts and times, and what of it is exported.
//!
//! Sums that must not begin anew come from the ledger; what is kept here is of this daemon's life.

mod gather;
mod serve;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::broker::{Measured, Stage, Work};
use crate::domain::{BottleId, Distribution, Ending, Known, ProviderName, RefusalReason, Scale, Usage};

pub(super) use serve::serve;

/// What is kept. Clones share it. No request waits for its lock: bottles' requests are counted in the proxy, and what it says
/// is added here once a second.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics(Arc<Mutex<Counts>>);

/// Everything that was counted and timed since the daemon started.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    refused: BTreeMap<(BottleId, RefusalReason), u64>,
    operations: BTreeMap<(BottleId, Work, Ending), Distribution>,
    first_chunks: BTreeMap<(BottleId, Work), Distribution>,
    stages: BTreeMap<Stage, Distribution>,
    commands: BTreeMap<LedgerCommand, Distribution>,
    tokens: BTreeMap<(ProviderName, TokenType), Distribution>,
    proxy_restarts: u64,
}

/// What the proxy asks the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LedgerCommand {
    Admit,
    Settle,
}

impl LedgerCommand {
    fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Settle => "settle",
        }
    }
}

/// As OpenTelemetry's conventions tell tokens apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TokenType {
    Input,
    Output,
}

impl TokenType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

impl Metrics {
    /// The proxy has measured these of a bottle.
    pub(super) fn measured(&self, bottle: BottleId, measured: Vec<Measured>) {
        self.with(|counts| measured.into_iter().for_each(|one| counts.take(bottle, one)));
    }

    /// The ledger has answered; `usage` is what was settled.
    pub(super) fn answered(&self, command: LedgerCommand, time: Duration) {
        self.with(|counts| {
            let times = counts.commands.entry(command).or_insert_with(|| Distribution::new(Scale::Local));
            times.record_time(time);
        });
    }

    /// A request was settled.
    pub(super) fn settled(&self, provider: &ProviderName, usage: &Usage, known: Known) {
        if known == Known::Unmetered {
            return;
        }
        self.with(|counts| {
            for (kind, tokens) in [(TokenType::Input, usage.input_total()), (TokenType::Output, usage.output)] {
                let spread = counts.tokens.entry((provider.clone(), kind));
                let spread = spread.or_insert_with(|| Distribution::new(Scale::Tokens));
                #[expect(clippy::cast_precision_loss, reason = "exact up to 9e15 tokens")]
                spread.record(tokens.0 as f64);
            }
        });
    }

    /// A proxy has ended, and another one is started.
    pub(super) fn proxy_restarted(&self) {
        self.with(|counts| counts.proxy_restarts += 1);
    }

    fn counts(&self) -> Counts {
        self.with(|counts| counts.clone())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Counts {
    fn take(&mut self, bottle: BottleId, measured: Measured) {
        match measured {
            Measured::Refused { reason, count } => {
                let refused = self.refused.entry((bottle, reason)).or_default();
                *refused = refused.saturating_add(count);
            }
            Measured::Operation { work, ending, times } => add(&mut self.operations, (bottle, work, ending), times),
            Measured::FirstChunk { work, times } => add(&mut self.first_chunks, (bottle, work), times),
            Measured::Stage { stage, times } => add(&mut self.stages, stage, times),
        }
    }
}

fn add<K: Ord>(all: &mut BTreeMap<K, Distribution>, key: K, times: Distribution) {
    match all.entry(key) {
        std::collections::btree_map::Entry::Occupied(mut known) => known.get_mut().merge(&times),
        std::collections::btree_map::Entry::Vacant(place) => {
            place.insert(times);
        }
    }
}
