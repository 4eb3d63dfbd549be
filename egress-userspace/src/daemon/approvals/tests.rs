//! A proxy's end of the broker that asks, the real conversation and ledger, and an operator.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::broker::{FrameReader, FrameWriter, FromProxy, Snapshot};
use crate::daemon::authority::Authority;
use crate::daemon::clock::now;
use crate::daemon::controller;
use crate::daemon::conversation::{Conversation, NOTES_MAX};
use crate::daemon::cutting::Bounds;
use crate::daemon::metrics::Metrics;
use crate::domain::{AuditKind, BottleId, CutoffPolicy, Durability, Fingerprint, RefusalReason, Rules, RuntimeKind};
use crate::kernel::FakeEnforcer;
use crate::ledger::{AddressPool, ApprovalFilter, AuditFilter, NewRun, Terms};

const POOL: AddressPool = AddressPool { gateway: Ipv4Addr::new(10, 213, 0, 1), prefix: 16 };
const APPROVED: Decision = Decision { is_approved: true, is_always: false, by: 0 };
/// Longer than anything here takes unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// Nothing comes in this time.
const SILENCE: Duration = Duration::from_millis(200);

struct World {
    directory: tempfile::TempDir,
    ledger: Ledger,
    approvals: Approvals,
    bottle: BottleId,
    reader: FrameReader<tokio::net::unix::OwnedReadHalf>,
    writer: FrameWriter<tokio::net::unix::OwnedWriteHalf>,
    asked: u64,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::TempDir::new().unwrap();
        let terms = Terms {
            rules: Rules::default(),
            durability: Durability::Process,
            clock: Arc::new(now),
            boot: String::new(),
        };
        let ledger = Ledger::open(&directory.path().join("ledger"), terms).unwrap();
        let run = NewRun {
            name: "web".parse().unwrap(),
            agent: None,
            extends: None,
            budget: Vec::new(),
            policy: CutoffPolicy::Cutoff,
            runtime: RuntimeKind::Native,
            container: None,
        };
        let bottle = ledger.begin_run(run, POOL).await.unwrap().id;
        let approvals = spawn(ledger.clone());
        let (reader, writer) = converse(&directory, &ledger, &approvals);
        Self { directory, ledger, approvals, bottle, reader, writer, asked: 0 }
    }

    async fn say(&mut self, message: FromProxy) {
        self.writer.write(&message).await.unwrap();
    }

    /// Asks about a value; the number of the question on the broker.
    async fn ask(&mut self, bottle: BottleId, value: u8, timeout_ms: u64) -> RequestNumber {
        self.asked += 1;
        let number = RequestNumber(self.asked);
        let question = Question {
            bottle,
            detector: "aws_key".to_owned(),
            host: "a.example".parse().unwrap(),
            target: "POST /upload".to_owned(),
            fingerprint: Fingerprint([value; 32]),
        };
        self.say(FromProxy::Supervise { number, question, timeout_ms }).await;
        number
    }

    async fn answer(&mut self) -> (RequestNumber, Supervised) {
        let said = timeout(PATIENCE, self.reader.read::<FromController>()).await.unwrap().unwrap().unwrap();
        let FromController::Supervised { number, answer } = said else { panic!("{said:?}") };
        (number, answer)
    }

    async fn is_silent(&mut self) -> bool {
        timeout(SILENCE, self.reader.read::<FromController>()).await.is_err()
    }

    /// The questions that wait, when there are so many.
    async fn waiting(&self, count: usize) -> Vec<ApprovalId> {
        let look = async {
            loop {
                let rows = self.ledger.approvals(ApprovalFilter::default()).await.unwrap();
                if rows.len() == count {
                    return rows.into_iter().map(|row| row.id).collect();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, look).await.unwrap()
    }

    async fn verdicts(&self) -> Vec<Option<Verdict>> {
        let all = ApprovalFilter { bottle: None, last: Some(100) };
        self.ledger.approvals(all).await.unwrap().into_iter().map(|row| row.verdict).collect()
    }
}

type Ends = (FrameReader<tokio::net::unix::OwnedReadHalf>, FrameWriter<tokio::net::unix::OwnedWriteHalf>);

/// A conversation as each proxy has one; the proxy's end of it.
fn converse(directory: &tempfile::TempDir, ledger: &Ledger, approvals: &Approvals) -> Ends {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let bounds = Bounds { drain: Duration::ZERO, last_word: Duration::ZERO };
    let enforcer = Arc::new(FakeEnforcer::default());
    let (outgoing, queue) = mpsc::unbounded_channel();
    let conversation = Conversation {
        socket: Arc::new(ours),
        outgoing,
        ledger: ledger.clone(),
        controller: controller::spawn(ledger.clone(), enforcer, Snapshot::default(), bounds),
        authority: Arc::new(Mutex::new(Authority::open(&directory.path().join("ca")).unwrap())),
        exchanged: mpsc::unbounded_channel().0,
        approvals: approvals.clone(),
        metrics: Metrics::default(),
        runtime: Handle::current(),
        unfinished: JoinSet::new(),
        notes: Arc::new(Semaphore::new(NOTES_MAX)),
    };
    conversation.start(queue, oneshot::channel().0).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let (reader, writer) = tokio::net::UnixStream::from_std(theirs).unwrap().into_split();
    (FrameReader::new(reader), FrameWriter::new(writer))
}

#[tokio::test]
async fn a_held_request_hears_what_the_operator_says_and_nothing_before() {
    let mut world = World::new().await;
    let first = world.ask(world.bottle, 1, 60_000).await;
    let second = world.ask(world.bottle, 2, 60_000).await;
    let [one, other] = world.waiting(2).await[..] else { panic!() };
    assert!(world.is_silent().await);
    world.approvals.decide(other, Decision { is_approved: false, ..APPROVED }).await.unwrap();
    assert_eq!(world.answer().await, (second, Supervised::Denied));
    world.approvals.decide(one, APPROVED).await.unwrap();
    assert_eq!(world.answer().await, (first, Supervised::Approved));
    assert!(world.approvals.decide(one, APPROVED).await.is_err(), "it holds for one request");
    let again = world.ask(world.bottle, 1, 60_000).await;
    let [id] = world.waiting(1).await[..] else { panic!() };
    world.approvals.decide(id, Decision { is_always: true, ..APPROVED }).await.unwrap();
    assert_eq!(world.answer().await, (again, Supervised::Approved));
    let remembered = world.ask(world.bottle, 1, 60_000).await;
    assert_eq!(world.answer().await, (remembered, Supervised::Approved));
}

#[tokio::test]
async fn without_an_answer_it_is_refused_in_time() {
    let mut world = World::new().await;
    let number = world.ask(world.bottle, 1, 50).await;
    let late = world.ask(world.bottle, 2, 0).await;
    let mut answers = vec![world.answer().await, world.answer().await];
    answers.sort_by_key(|(number, _)| number.0);
    assert_eq!(answers, [(number, Supervised::Expired), (late, Supervised::Expired)]);
    world.waiting(0).await;
    assert_eq!(world.verdicts().await, [Some(Verdict::Expired); 2]);
}

#[tokio::test]
async fn who_cannot_be_asked_for_is_refused() {
    let mut world = World::new().await;
    let nobody = world.ask(BottleId(999), 1, 60_000).await;
    assert_eq!(world.answer().await, (nobody, Supervised::Unavailable));
    let mut numbers = Vec::new();
    for value in 0..40 {
        numbers.push(world.ask(world.bottle, value, 60_000).await);
    }
    let (number, answer) = world.answer().await;
    assert_eq!((number, answer), (numbers[16], Supervised::TooMany), "sixteen wait");
}

#[tokio::test]
async fn a_request_that_is_gone_is_asked_about_no_longer() {
    let mut world = World::new().await;
    let gone = world.ask(world.bottle, 1, 60_000).await;
    world.ask(world.bottle, 2, 60_000).await;
    let [one, other] = world.waiting(2).await[..] else { panic!() };
    world.say(FromProxy::SuperviseOver { number: gone }).await;
    assert_eq!(world.waiting(1).await, [other]);
    let refused = world.approvals.decide(one, APPROVED).await.unwrap_err().to_string();
    assert!(refused.contains("the request that asked is gone"), "{refused}");
}

#[tokio::test]
async fn what_a_dead_proxy_held_is_abandoned_and_the_next_one_starts_afresh() {
    let mut world = World::new().await;
    world.ask(world.bottle, 1, 60_000).await;
    world.waiting(1).await;
    world.approvals.proxy_down().await;
    assert_eq!(world.verdicts().await, [Some(Verdict::Abandoned)]);
    (world.reader, world.writer) = converse(&world.directory, &world.ledger, &world.approvals);
    // Its numbers begin anew.
    world.asked = 0;
    let number = world.ask(world.bottle, 1, 60_000).await;
    let [id] = world.waiting(1).await[..] else { panic!() };
    world.approvals.decide(id, APPROVED).await.unwrap();
    assert_eq!(world.answer().await, (number, Supervised::Approved));
}

#[tokio::test]
async fn what_a_proxy_has_noted_is_short_and_all_of_it_is_kept() {
    let mut world = World::new().await;
    let long = "é".repeat(100_000);
    for count in 0..NOTES_MAX as u64 + 8 {
        let (reason, target, rule) = (RefusalReason::SensitiveData, long.clone(), Some(long.clone()));
        world.say(FromProxy::Refused { bottle: world.bottle, reason, host: None, target, rule, count }).await;
    }
    let (detector, host, target) = (long.clone(), "a.example".parse().unwrap(), long);
    let (bottle, is_outbound, count) = (world.bottle, true, 1);
    world.say(FromProxy::Redacted { bottle, detector, host, target, is_outbound, count }).await;
    let mut sizes = Vec::new();
    let look = async {
        while sizes.len() < NOTES_MAX + 9 {
            let page = world.ledger.audit_rows(AuditFilter::default()).await.unwrap();
            let size = |text: &str| text.chars().count();
            let sizes_of = |kind: &AuditKind| {
                if let AuditKind::RequestRefused { target, rule: Some(rule), .. } = kind {
                    return Some((size(target), size(rule)));
                }
                let AuditKind::DataRedacted { target, detector, .. } = kind else { return None };
                Some((size(target), size(detector)))
            };
            sizes = page.rows.iter().filter_map(|row| sizes_of(&row.kind)).collect();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, look).await.unwrap();
    assert_eq!(sizes, vec![(512, 512); NOTES_MAX + 9]);
}
