//! What is counted and timed for one bottle: said to the controller now and then, who exports it.
//!
//! A bottle's own lock, held for as long as it takes to add one: no request waits for another bottle's.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::broker::{FromProxy, Measured, Operation, Stage, Work};
use crate::domain::{BottleId, Distribution, Ending, RefusalReason, Scale};
use crate::meter::Dialect;

/// One bottle's, for as long as it is let through. What has not been said when it ends is said then.
#[derive(Debug)]
pub(super) struct Measures {
    bottle: BottleId,
    unsaid: Mutex<Unsaid>,
    controller: UnboundedSender<FromProxy>,
}

#[derive(Debug, Default)]
struct Unsaid {
    refused: BTreeMap<RefusalReason, u64>,
    operations: BTreeMap<(Work, Ending), Distribution>,
    first_chunks: BTreeMap<Work, Distribution>,
    stages: BTreeMap<Stage, Distribution>,
}

impl Measures {
    /// Nothing so far.
    pub(super) fn new(bottle: BottleId, controller: UnboundedSender<FromProxy>) -> Self {
        Self { bottle, unsaid: Mutex::default(), controller }
    }

    /// Something was refused.
    pub(super) fn refused(&self, reason: RefusalReason) {
        self.with(|unsaid| *unsaid.refused.entry(reason).or_default() += 1);
    }

    /// A part of the way took so long.
    pub(super) fn passed(&self, stage: Stage, time: Duration) {
        self.with(|unsaid| unsaid.stages.entry(stage).or_insert_with(local).record_time(time));
    }

    /// Work was done, and had its first bytes after `first`, if they are of interest.
    pub(super) fn worked(&self, work: Work, ending: Ending, time: Duration, first: Option<Duration>) {
        self.with(|unsaid| {
            if let Some(first) = first {
                unsaid.first_chunks.entry(work.clone()).or_insert_with(remote).record_time(first);
            }
            unsaid.operations.entry((work, ending)).or_insert_with(remote).record_time(time);
        });
    }

    /// Says what is new, if anything is.
    pub(super) fn tell(&self) {
        let unsaid = self.with(std::mem::take);
        let refused = unsaid.refused.into_iter().map(|(reason, count)| Measured::Refused { reason, count });
        let worked = unsaid.operations.into_iter();
        let worked = worked.map(|((work, ending), times)| Measured::Operation { work, ending, times });
        let first = unsaid.first_chunks.into_iter().map(|(work, times)| Measured::FirstChunk { work, times });
        let passed = unsaid.stages.into_iter().map(|(stage, times)| Measured::Stage { stage, times });
        let measured: Vec<Measured> = refused.chain(worked).chain(first).chain(passed).collect();
        if !measured.is_empty() {
            // The receiver gone means the controller is gone, and the process with it.
            let _ = self.controller.send(FromProxy::Measured { bottle: self.bottle, measured });
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Unsaid) -> T) -> T {
        work(&mut self.unsaid.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Measures {
    fn drop(&mut self) {
        self.tell();
    }
}

/// What work in this dialect is.
pub(super) fn operation(dialect: Option<Dialect>) -> Operation {
    match dialect {
        Some(Dialect::OpenAiEmbeddings) => Operation::Embeddings,
        Some(Dialect::Gemini) => Operation::GenerateContent,
        Some(
            Dialect::AnthropicMessages
            | Dialect::OpenAiChat
            | Dialect::OpenAiResponses
            | Dialect::Bedrock
            | Dialect::Ollama,
        )
        | None => Operation::Chat,
    }
}

fn local() -> Distribution {
    Distribution::new(Scale::Local)
}

fn remote() -> Distribution {
    Distribution::new(Scale::Remote)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn what_was_measured_is_said_once_and_at_the_end() {
        let (controller, mut said) = mpsc::unbounded_channel();
        let measures = Measures::new(BottleId(7), controller);
        measures.tell();
        assert!(said.try_recv().is_err(), "nothing was measured");
        let work = Work { provider: "claude".parse().unwrap(), operation: Operation::Chat };
        measures.refused(RefusalReason::HostNotAllowed);
        measures.refused(RefusalReason::HostNotAllowed);
        let (whole, first) = (Duration::from_millis(300), Duration::from_millis(20));
        measures.worked(work.clone(), Ending::Complete, whole, Some(first));
        measures.tell();
        let Ok(FromProxy::Measured { bottle: BottleId(7), measured }) = said.try_recv() else { panic!("not said") };
        let [Measured::Refused { reason, count: 2 }, Measured::Operation { times, .. }, Measured::FirstChunk { .. }] =
            measured.as_slice()
        else {
            panic!("{measured:?}")
        };
        assert_eq!((*reason, times.count(), times.sum()), (RefusalReason::HostNotAllowed, 1, 0.3));
        measures.passed(Stage::Admit, first);
        drop(measures);
        let Ok(FromProxy::Measured { measured, .. }) = said.try_recv() else { panic!("not said at the end") };
        assert!(matches!(measured.as_slice(), [Measured::Stage { stage: Stage::Admit, .. }]), "{measured:?}");
    }
}
