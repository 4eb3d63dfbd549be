//! What the proxy knows of bottles and routes: the controller's last snapshot, indexed, and what lives as long as a bottle
//! is let through.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::broker::{BottleView, FromProxy, Phase, Snapshot};
use crate::domain::{BottleId, CacheReads, CrossingMode, Host, Network, Preflights};
use crate::policy::{Decision, Destination, MeteredTable, RouteFiles, Secrets, Way};

use super::limits::{
    BODY_PREFIX_TIME_MAX, BUDGETS_AGE_MAX, CONNECTIONS_PER_BOTTLE_MAX, LONG_PREFIXES_PER_BOTTLE_MAX,
    REFUSAL_TOLD_EVERY, REFUSALS_TOLD_MAX, REQUESTS_PER_BOTTLE_MAX, STRANGE_NAME_EVERY, STRANGE_NAMES_MAX,
    WEBSOCKETS_PER_BOTTLE_MAX,
};
use super::measures::Measures;
use super::memory::{Memory, Share};
use super::reports::Allowance;
use super::traffic::Traffic;
use super::upstream::OwnPools;

/// The last snapshot, ready to be asked.
#[derive(Clone, Debug, Default)]
pub(super) struct PolicyView {
    pub(super) metered: MeteredTable,
    pub(super) routes: RouteFiles,
    pub(super) preflight: Preflights,
    pub(super) crossing: CrossingMode,
    pub(super) cache_reads: CacheReads,
    pub(super) drain: Duration,
    /// Longest silence inside a response.
    pub(super) idle: Duration,
    /// Where names may not lead.
    pub(super) own_networks: BTreeSet<Network>,
    /// What routes name, as far as it is to be had.
    pub(super) secrets: Arc<Secrets>,
    /// What bottles share of it.
    memory: Arc<Memory>,
    bottles: HashMap<Ipv4Addr, Bottle>,
}

/// One bottle in a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Bottle {
    pub(super) view: BottleView,
    pub(super) passage: Arc<Passage>,
}

/// The time from a bottle's first open snapshot to its cut or end. Survives snapshots in between.
#[derive(Debug)]
pub(super) struct Passage {
    severed: watch::Sender<bool>,
    connections: Arc<Semaphore>,
    websockets: Arc<Semaphore>,
    long_prefixes: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    /// For what is held of its requests and messages.
    pub(super) memory: Arc<Share>,
    /// What the bottle was last told of its budgets.
    told: Mutex<Option<(Instant, Bytes)>>,
    /// One question at a time.
    telling: Semaphore,
    /// Refused requests that are told of one by one.
    pub(super) refusals: Allowance,
    /// Certificates for names that no route has, to say in TLS that they are refused.
    pub(super) strange_names: Allowance,
    /// Connections to hosts of its routes.
    pub(super) pools: OwnPools,
    /// Bytes, for the controller.
    pub(super) traffic: Arc<Traffic>,
    /// What is counted and timed, for the controller.
    pub(super) measures: Measures,
}

impl Passage {
    fn open(bottle: BottleId, memory: Arc<Share>, controller: &UnboundedSender<FromProxy>) -> Self {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_PER_BOTTLE_MAX));
        let websockets = Arc::new(Semaphore::new(WEBSOCKETS_PER_BOTTLE_MAX));
        let long_prefixes = Arc::new(Semaphore::new(LONG_PREFIXES_PER_BOTTLE_MAX));
        let requests = Arc::new(Semaphore::new(REQUESTS_PER_BOTTLE_MAX));
        let (told, telling) = (Mutex::default(), Semaphore::new(1));
        let traffic = Arc::new(Traffic::new(bottle, controller.clone()));
        let measures = Measures::new(bottle, controller.clone());
        let refusals = Allowance::new(REFUSALS_TOLD_MAX, REFUSAL_TOLD_EVERY);
        let strange_names = Allowance::new(STRANGE_NAMES_MAX, STRANGE_NAME_EVERY);
        let severed = watch::Sender::new(false);
        Self {
            severed,
            connections,
            websockets,
            long_prefixes,
            requests,
            memory,
            told,
            telling,
            refusals,
            strange_names,
            pools: OwnPools::default(),
            traffic,
            measures,
        }
    }

    /// Has the bottle been cut, or is it gone?
    pub(super) fn is_severed(&self) -> bool {
        *self.severed.borrow()
    }

    /// Resolves when it is.
    pub(super) fn severed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut severed = self.severed.subscribe();
        async move {
            // The sender gone means that nobody holds the passage any more.
            let _ = severed.wait_for(|severed| *severed).await;
        }
    }

    /// Room for one more connection, if there is any.
    pub(super) fn admit_connection(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }

    /// How many it holds.
    pub(super) fn connections(&self) -> usize {
        CONNECTIONS_PER_BOTTLE_MAX - self.connections.available_permits()
    }

    /// Waits until one more request may be answered.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        Arc::clone(&self.requests).acquire_owned().await.ok()
    }

    /// What the bottle is told of its budgets: as it was told just before, or else as `ask` says.
    pub(super) async fn budgets(&self, ask: impl AsyncFnOnce() -> Option<Bytes>) -> Option<Bytes> {
        let _turn = self.telling.acquire().await.ok()?;
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, told)) = told.filter(|(at, _)| at.elapsed() < BUDGETS_AGE_MAX) {
            return Some(told);
        }
        let told = ask().await?;
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), told.clone()));
        Some(told)
    }

    /// Waits for a place for a long beginning of a body; `None` where there is none within the time that a client has to send it.
    pub(super) async fn place_for_long_prefix(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.long_prefixes).acquire_owned();
        tokio::time::timeout(BODY_PREFIX_TIME_MAX, place).await.ok()?.ok()
    }

    /// May one of its connections become a WebSocket?
    pub(super) fn admit_websocket(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.websockets).try_acquire_owned().ok()
    }
}

impl PolicyView {
    /// The bottle at this address, unless it is cut.
    pub(super) fn bottle(&self, address: Ipv4Addr) -> Option<&Bottle> {
        self.bottles.get(&address)
    }

    /// Every bottle that is let through.
    pub(super) fn bottles(&self) -> impl Iterator<Item = &Bottle> {
        self.bottles.values()
    }

    /// May this request of a bottle's go?
    pub(super) fn decide(&self, bottle: &Bottle, to: Destination<'_>) -> Decision {
        self.routes.decide(&bottle.view.lineage, &self.metered, to)
    }

    /// May the bottle reach this host at all?
    pub(super) fn names(&self, bottle: &Bottle, host: &Host) -> bool {
        self.routes.names(&bottle.view.lineage, &self.metered, host)
    }

    /// How a connection of a bottle's passes whose TLS is not ended here, if it is one.
    pub(super) fn splice(&self, bottle: &Bottle, host: &Host, port: u16) -> Option<Way> {
        self.routes.splice(&bottle.view.lineage, &self.metered, host, port)
    }

    /// The view after `snapshot`: bottles that go on keep their passage; those that are cut, gone or replaced by another
    /// at the same address are severed. What is exchanged from then on is said to `controller`.
    pub(super) fn succeed(&self, snapshot: Snapshot, controller: &UnboundedSender<FromProxy>) -> Self {
        let Snapshot { bottles, metered, routes, preflight, crossing, cache_reads, drain_ms, idle_ms, own_networks } =
            snapshot;
        let bottles: HashMap<_, _> = bottles
            .into_iter()
            .filter(|view| view.phase != Phase::Cut)
            .map(|view| {
                let known = self.bottles.get(&view.address).filter(|known| known.view.id == view.id);
                let fresh = || Arc::new(Passage::open(view.id, self.memory.share(), controller));
                let passage = known.map_or_else(fresh, |known| Arc::clone(&known.passage));
                (view.address, Bottle { view, passage })
            })
            .collect();
        for (address, before) in &self.bottles {
            let goes_on = bottles.get(address).is_some_and(|after| Arc::ptr_eq(&after.passage, &before.passage));
            if !goes_on {
                before.passage.severed.send_replace(true);
            }
        }
        let [drain, idle] = [drain_ms, idle_ms].map(Duration::from_millis);
        let (secrets, memory) = (Arc::clone(&self.secrets), Arc::clone(&self.memory));
        Self { metered, routes, preflight, crossing, cache_reads, drain, idle, own_networks, secrets, memory, bottles }
    }

    /// The same with other secrets.
    pub(super) fn with_secrets(&self, secrets: Secrets) -> Self {
        Self { secrets: Arc::new(secrets), ..self.clone() }
    }

    /// Severs everyone: the controller is gone.
    pub(super) fn sever_all(&self) {
        for bottle in self.bottles.values() {
            bottle.passage.severed.send_replace(true);
        }
    }
}

/// Where the bottle of a [`sample`] is.
#[cfg(test)]
pub(super) const SAMPLE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 2);

/// Bottles of which nothing matters but number and phase, for tests.
#[cfg(test)]
pub(super) fn sample(bottles: &[(u32, Phase)]) -> Snapshot {
    let view = |(id, phase): &(u32, Phase)| BottleView {
        id: BottleId(*id),
        name: "web".parse().unwrap(),
        lineage: Vec::new(),
        agent: None,
        address: SAMPLE_ADDRESS,
        preflight: None,
        phase: phase.clone(),
    };
    Snapshot { bottles: bottles.iter().map(view).collect(), ..Snapshot::default() }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    const ADDRESS: Ipv4Addr = SAMPLE_ADDRESS;

    fn after(view: &PolicyView, bottles: &[(u32, Phase)]) -> PolicyView {
        view.succeed(sample(bottles), &mpsc::unbounded_channel().0)
    }

    fn check(next: &[(u32, Phase)], severed: bool) {
        let first = after(&PolicyView::default(), &[(1, Phase::Open)]);
        let passage = Arc::clone(&first.bottle(ADDRESS).unwrap().passage);
        let second = after(&first, next);
        assert_eq!(passage.is_severed(), severed, "{next:?}");
        assert_eq!(second.bottle(ADDRESS).is_some(), next.iter().any(|(_, phase)| *phase != Phase::Cut));
    }

    #[test]
    fn what_is_cut_gone_or_replaced_is_severed_and_nothing_else() {
        check(&[(1, Phase::Open)], false);
        check(&[(1, Phase::Cut)], true);
        check(&[], true);
        check(&[(2, Phase::Open)], true);
    }

    #[test]
    fn what_was_exchanged_is_said_once_and_at_the_end() {
        let (controller, mut said) = mpsc::unbounded_channel();
        let view = PolicyView::default().succeed(sample(&[(1, Phase::Open)]), &controller);
        let traffic = Arc::clone(&view.bottle(ADDRESS).unwrap().passage.traffic);
        let exchanged = |from_bottle, to_bottle, connections| FromProxy::Exchanged {
            bottle: BottleId(1),
            from_bottle,
            to_bottle,
            connections,
        };
        traffic.tell();
        traffic.opened();
        traffic.received(7);
        traffic.sent(9);
        traffic.tell();
        traffic.tell();
        assert_eq!(said.try_recv(), Ok(exchanged(7, 9, 1)));
        assert!(said.try_recv().is_err());
        let severed = view.succeed(sample(&[(1, Phase::Cut)]), &controller);
        drop(view);
        traffic.received(1);
        traffic.closed();
        drop(traffic);
        assert_eq!(said.try_recv(), Ok(exchanged(1, 0, 0)));
        assert!(severed.bottle(ADDRESS).is_none());
    }

    #[test]
    fn a_restored_bottle_starts_afresh() {
        let cut = after(&after(&PolicyView::default(), &[(1, Phase::Open)]), &[(1, Phase::Cut)]);
        let restored = after(&cut, &[(1, Phase::Open)]);
        assert!(!restored.bottle(ADDRESS).unwrap().passage.is_severed());
    }

    #[tokio::test]
    async fn the_controller_is_asked_for_budgets_as_often_as_the_limit_says() {
        let passage = Passage::open(BottleId(1), Arc::<Memory>::default().share(), &mpsc::unbounded_channel().0);
        let asked = std::cell::Cell::new(0);
        let ask = async || {
            asked.set(asked.get() + 1);
            tokio::time::sleep(Duration::from_millis(1)).await;
            Some(Bytes::from(asked.get().to_string()))
        };
        let (one, other) = tokio::join!(passage.budgets(&ask), passage.budgets(&ask));
        assert_eq!((one.as_deref(), other.as_deref(), asked.get()), (Some(&b"1"[..]), Some(&b"1"[..]), 1));
        tokio::time::sleep(BUDGETS_AGE_MAX).await;
        assert_eq!(passage.budgets(&ask).await.as_deref(), Some(&b"2"[..]));
    }

    #[test]
    fn a_bottle_holds_as_many_connections_as_the_limit_and_no_more() {
        let passage = Passage::open(BottleId(1), Arc::<Memory>::default().share(), &mpsc::unbounded_channel().0);
        let held: Vec<_> = (0..CONNECTIONS_PER_BOTTLE_MAX).map_while(|_| passage.admit_connection()).collect();
        assert_eq!(held.len(), CONNECTIONS_PER_BOTTLE_MAX);
        assert!(passage.admit_connection().is_none());
    }
}
