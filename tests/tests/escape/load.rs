//! Attacks by number, and what a cut does in the middle of them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use egress_common::{CutReason, Direction, Outcome};
use egress_userspace::doctor::attacks::{self, Attempt};
use egress_userspace::domain::CutMode;
use egress_userspace::kernel::{Gate, GateStatus};
use harness::gate::{BOTTLE, Backend, GATEWAY, HOST_MAC, PARTIES, PATIENCE, address, until};
use harness::packet::{self, arp, ethernet};

use super::stage::Stage;
use super::table::Table;

/// More than any ring buffer or rate window holds.
const DROPS: u64 = 400_000;
const ARP_SENDERS: u32 = 50_000;
const SHORTLY: Duration = Duration::from_millis(300);
const CUT: GateStatus = GateStatus::Cut(CutReason::Operator);

pub(crate) fn attack(backend: Backend, table: &mut Table) -> Result<()> {
    table.row("a flood of drops", "Port", a_flood(&Stage::new(backend)?));
    table.row("a flood of ARP by random senders", "SourceMac", a_flood_of_arp(&Stage::new(backend)?));
    for mode in [CutMode::Drop, CutMode::Reset] {
        let result = an_open_connection_ends(&Stage::new(backend)?, mode);
        table.row(format!("an open connection across a cut, {mode:?}"), "Cut", result);
        let result = a_connection_half_open(&Stage::new(backend)?, mode);
        table.row(format!("a half-open connection across a cut, {mode:?}"), "Cut", result);
    }
    Ok(())
}

fn named(name: &str) -> Result<Attempt> {
    attacks::from_bottle(&PARTIES).into_iter().find(|attempt| attempt.name == name).context("the attempt")
}

/// Every packet is counted, what is allowed passes meanwhile, and a cut is a cut at once.
fn a_flood(stage: &Stage) -> Result<()> {
    stage.attach()?;
    let forbidden = named("QUIC")?;
    let allowed = named("DNS to the gateway")?;
    let line = stage.world.line(Direction::FromBottle)?;
    let (sent, ends) = (AtomicU64::new(0), AtomicBool::new(false));
    let witness = stage.world.witness_at_host()?;
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            while sent.load(Ordering::Relaxed) < DROPS && !ends.load(Ordering::Relaxed) {
                line.send(&forbidden.frame)?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
        ensure!(until(PATIENCE, || sent.load(Ordering::Relaxed) > 20_000), "no flood");
        let passes = stage.check(&witness, &allowed, Outcome::Passed).context("what is allowed");
        ends.store(passes.is_err(), Ordering::Relaxed);
        passes?;
        flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        let sent = sent.load(Ordering::Relaxed);
        let is_counted = until(PATIENCE, || stage.counted(Outcome::Port).is_ok_and(|counted| counted == sent));
        ensure!(is_counted, "{sent} sent, {} counted", stage.counted(Outcome::Port)?);
        Ok(())
    })?;
    cut_in_a_flood(stage, &forbidden, &allowed)?;
    ensure!(!witness.has_seen(forbidden.marker), "ARRIVED");
    // Whoever reads what was reported finds something, and no endless heap of it.
    let reported = stage.gates.drop_events(usize::MAX)?.len();
    ensure!(u64::try_from(reported)? < DROPS, "every drop was reported");
    Ok(())
}

fn cut_in_a_flood(stage: &Stage, forbidden: &Attempt, allowed: &Attempt) -> Result<()> {
    let line = stage.world.line(Direction::FromBottle)?;
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                line.send(&forbidden.frame)?;
            }
            anyhow::Ok(())
        });
        let begun = Instant::now();
        let result = stage.set(CUT).and_then(|()| {
            let witness = stage.world.witness_at_host()?;
            stage.check(&witness, allowed, Outcome::Cut).context("cut in a flood")
        });
        ends.store(true, Ordering::Relaxed);
        flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        ensure!(begun.elapsed() < PATIENCE, "the cut took {:?}", begun.elapsed());
        result
    })
}

/// The host learns of none of them, and the gate keeps no more than it did.
fn a_flood_of_arp(stage: &Stage) -> Result<()> {
    stage.attach()?;
    let line = stage.world.line(Direction::FromBottle)?;
    let neighbours = || stage.world.host.ip("neigh show dev gate0");
    let before = neighbours()?;
    for number in 1..=ARP_SENDERS {
        let [_, a, b, c] = number.to_be_bytes();
        let mac = [2, 1, 0, a, b, c];
        let message = arp(1, mac, [10, 214, b, c], GATEWAY, [0; 16]);
        line.send(&ethernet(HOST_MAC, mac, packet::ARP, &message))?;
    }
    let counted =
        until(PATIENCE, || stage.counted(Outcome::SourceMac).is_ok_and(|seen| seen == u64::from(ARP_SENDERS)));
    ensure!(counted, "{ARP_SENDERS} sent, {} counted", stage.counted(Outcome::SourceMac)?);
    ensure!(neighbours()? == before, "the host has learned: {}", neighbours()?);
    ensure!(stage.gates.counters(stage.world.interface)?.len() <= 2 * Outcome::ALL.len(), "counters grow");
    stage.check(&stage.world.witness_at_host()?, &named("DNS to the gateway")?, Outcome::Passed)
}

/// Neither side hears the other from then on.
fn an_open_connection_ends(stage: &Stage, cut_mode: CutMode) -> Result<()> {
    let (mut client, mut server) = connected(stage, cut_mode)?;
    stage.set(CUT)?;
    is_deaf(&mut client, &mut server)?;
    is_deaf(&mut server, &mut client)?;
    let connect = || Ok(TcpStream::connect_timeout(&(address(GATEWAY), 443).into(), SHORTLY)?);
    ensure!(stage.world.bottle.run(connect).is_err(), "CONNECTED");
    Ok(())
}

fn is_deaf(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    // It may have been reset.
    from.write_all(b"after").ok();
    to.set_read_timeout(Some(SHORTLY))?;
    let mut heard = [0; 5];
    ensure!(!matches!(to.read(&mut heard), Ok(count) if count > 0), "HEARD {heard:?}");
    Ok(())
}

/// What was said before the gate is cut does not let the rest of the handshake through.
fn a_connection_half_open(stage: &Stage, cut_mode: CutMode) -> Result<()> {
    attach(stage, cut_mode)?;
    let _listener = listen(stage)?;
    let (open, go_on) = (named("TCP to a port of the gateway that was given")?, further("ACK")?);
    let witness = stage.world.witness_at_host()?;
    stage.check(&witness, &open, Outcome::Passed)?;
    stage.check(&witness, &go_on, Outcome::Passed)?;
    stage.set(CUT)?;
    let told = if cut_mode == CutMode::Reset { Outcome::Reset } else { Outcome::Cut };
    let (open, go_on) = (again(&open), again(&go_on));
    stage.check(&witness, &go_on, told)?;
    stage.check(&witness, &open, told)
}

/// The same frame under another marker: the first may have been seen.
fn again(attempt: &Attempt) -> Attempt {
    let mut other = attempt.clone();
    let at = other.frame.windows(16).position(|window| window == attempt.marker).unwrap_or(0);
    other.marker = *b"the second time!";
    other.frame.splice(at..at + 16, other.marker);
    other
}

fn further(name: &str) -> Result<Attempt> {
    let found = |attempt: &Attempt| attempt.name == name && attempt.outcome == Outcome::Passed;
    attacks::further(&PARTIES).into_iter().find(found).context("the attempt")
}

fn attach(stage: &Stage, cut_mode: CutMode) -> Result<()> {
    stage.world.host.run(|| Ok(stage.gates.attach(&Gate { cut_mode, ..stage.world.gate() })?))
}

fn listen(stage: &Stage) -> Result<TcpListener> {
    stage.world.host.run(|| Ok(TcpListener::bind((address(GATEWAY), 443))?))
}

/// Both ends of a connection that works.
fn connected(stage: &Stage, cut_mode: CutMode) -> Result<(TcpStream, TcpStream)> {
    attach(stage, cut_mode)?;
    let listener = listen(stage)?;
    let mut client = stage.world.bottle.run(|| {
        let to = (address(GATEWAY), 443).into();
        Ok(TcpStream::connect_timeout(&to, PATIENCE)?)
    })?;
    let (mut server, peer) = listener.accept()?;
    if peer.ip() != address(BOTTLE) {
        bail!("{peer} connected");
    }
    let mut heard = [0; 6];
    client.write_all(b"before")?;
    server.read_exact(&mut heard)?;
    server.write_all(b"before")?;
    client.read_exact(&mut heard)?;
    Ok((client, server))
}
