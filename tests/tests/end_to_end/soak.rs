//! Controller and proxy are killed again and again, under load, at moments that nobody chose.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::{CutCause, Ending, GateView, Known, Tokens, UsageRow};
use egress_userspace::kernel::{EbpfEnforcer, Enforcer, GateStatus, TcAttachment};
use harness::provider::Served;
use harness::world::{Bottle, PATIENCE, World, curl, until};

use crate::world;

/// Kills, unless the environment says how many.
const KILLS: u32 = 8;
const KILLS_VARIABLE: &str = "EGRESS_TEST_KILLS";
/// Most time from one kill to the next, in milliseconds.
const PAUSE_MAX_MS: u64 = 400;
/// Clients at once, in each of the bottles that work.
const CLIENTS: u32 = 4;
/// 150 tokens.
const REQUEST: &str = "claude-test+input-50+output-100+deltas-20+delay-5";
const TOKENS: u64 = 150;
/// Strict: nothing may go over it, whoever dies when.
const BUDGET: u64 = 150_000;

/// Numbers that differ from run to run.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn new() -> Result<Self> {
        Ok(Self(u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos()) | 1))
    }

    /// Knuth's linear congruential generator (MMIX); its upper bits are the good ones.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Clients that ask again and again, whatever they hear.
fn work(bottle: &mut Bottle) -> Result<()> {
    let ask = curl(REQUEST, true, "-o /dev/null --max-time 10");
    let clients = format!("for client in $(seq {CLIENTS}); do (while :; do {ask}; sleep 0.05; done) & done; wait");
    bottle.begin(&clients)
}

#[test]
fn nothing_is_lost_or_opened_whoever_is_killed_when() -> Result<()> {
    let settings = format!("preflight: strict\nbottles:\n  capped:\n    budget:\n      claude: {BUDGET}");
    let Some(mut world) = world("killed at random", &settings)? else { return Ok(()) };
    let mut chance = Chance::new()?;
    let (mut free, mut capped) = (world.shell("free", &[])?, world.shell("capped", &[])?);
    let (mut spent, _closed) = (world.shell("spent", &["--budget", "claude=1100"])?, world.shell("closed", &[])?);
    assert_eq!(world.egress(&["cut", "closed"])?.code, 0);
    spent.begin(&curl("claude-test+input-1200+output-1", true, "-o /dev/null"))?;
    world.until_gate("spent", GateView::Cut(CutCause::Budget), PATIENCE)?;
    work(&mut free)?;
    work(&mut capped)?;
    let kills = std::env::var(KILLS_VARIABLE).ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let is_up = |world: &World| Ok(world.status()?.proxy_pid.is_some());
    for _ in 0..kills {
        let served = world.served().len();
        until("requests are answered again", PATIENCE, || Ok(world.served().len() > served))?;
        until("there is a proxy", PATIENCE, || is_up(&world))?;
        sleep(Duration::from_millis(chance.below(PAUSE_MAX_MS)));
        match chance.below(3) {
            0 => drop(world.kill_proxy()?),
            1 => {
                world.kill_daemon()?;
                check_gates(&world)?;
                world.start_daemon()?;
            }
            _ => {
                world.kill_daemon_and_proxy()?;
                check_gates(&world)?;
                world.start_daemon()?;
            }
        }
        check_gates(&world)?;
    }
    until("the proxy is back", PATIENCE, || is_up(&world))?;
    drop((free, capped));
    let is_quiet = || Ok(world.usage()?.sums.iter().all(|sum| sum.held == Tokens::ZERO));
    until("everything is settled", PATIENCE, is_quiet).with_context(|| world.log_tail())?;
    let used = world.usage()?.sums.iter().find(|sum| sum.bottle.as_str() == "capped").map(|sum| sum.usage.total());
    ensure!(
        used.is_some_and(|used| used.0 <= BUDGET),
        "the strict budget was overshot: {used:?} {:?}",
        world.usage()?.sums
    );
    compare(&world.served(), &world.usage()?.rows)
}

/// In the kernel, whoever is alive: the two that were cut still are.
fn check_gates(world: &World) -> Result<()> {
    let gates = EbpfEnforcer::new(&world.names.pins, TcAttachment::Auto)?.gates()?;
    let cut = gates.iter().filter(|gate| gate.status != GateStatus::Open).count();
    ensure!(cut == 2, "{gates:?}");
    Ok(())
}

/// What was answered whole and settled is in the ledger to the token; what nobody saw end is in it at more than was sent.
#[expect(clippy::print_stdout, reason = "--nocapture shows what a long run came to")]
fn compare(served: &[Served], rows: &[UsageRow]) -> Result<()> {
    let by_id: BTreeMap<&str, &UsageRow> =
        rows.iter().filter_map(|row| Some((row.request_id.as_deref()?, row))).collect();
    ensure!(by_id.len() == rows.iter().filter(|row| row.request_id.is_some()).count(), "a request is there twice");
    let (mut seen, mut unseen) = (0, Vec::new());
    for exchange in served {
        let Some(row) = by_id.get(exchange.id.as_str()) else {
            unseen.push(exchange);
            continue;
        };
        seen += 1;
        let is_reported = (row.known, row.ending) == (Known::Reported, Ending::Complete);
        if is_reported {
            ensure!(row.usage.total() == Tokens(exchange.usage.input + exchange.usage.output), "{exchange:?} {row:?}");
        } else {
            ensure!(row.usage.output.0 >= exchange.output_sent, "less than was sent: {exchange:?} {row:?}");
        }
    }
    let lost: Vec<&UsageRow> = rows.iter().filter(|row| row.request_id.is_none()).collect();
    let of_lost = lost.iter().map(|row| row.usage.output.0).sum::<u64>();
    let of_unseen = unseen.iter().map(|exchange| exchange.output_sent).sum::<u64>();
    println!("{seen} settled by their responses, {} of {} lost ones had been sent", unseen.len(), lost.len());
    ensure!(unseen.len() <= lost.len() && of_unseen <= of_lost, "{} unseen, {} lost", unseen.len(), lost.len());
    ensure!(lost.iter().all(|row| row.usage.total().0 >= TOKENS || row.usage.total() == Tokens::ZERO), "{lost:?}");
    ensure!(seen > 0, "nothing was answered");
    Ok(())
}
