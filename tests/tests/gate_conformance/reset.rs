//! A cut that is heard: TCP fails at once, and still nothing passes.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use egress_common::{CutReason, Direction, Outcome, RESETS_PER_WINDOW};
use egress_userspace::domain::CutMode;
use egress_userspace::kernel::{Gate, GateStatus};
use harness::gate::{BOTTLE, Backend, DNS_PORT, GATEWAY, PATIENCE, address, until};

use super::{SHORTLY, Stage, connect, exchange, frames};

/// More than any window allows.
const STORM: usize = RESETS_PER_WINDOW as usize * 4;

/// With the bottle's gate attached, to be heard when it is cut.
fn telling(backend: Backend) -> Result<Stage> {
    let stage = Stage::new(backend)?;
    stage.attach(&Gate { cut_mode: CutMode::Reset, ..stage.world.gate() })?;
    Ok(stage)
}

const CUT: GateStatus = GateStatus::Cut(CutReason::Budget);

pub(super) fn nothing_but_resets_passes_a_cut_gate(backend: Backend) -> Result<()> {
    let stage = telling(backend)?;
    stage.set(CUT)?;
    for case in frames::from_bottle() {
        let is_told = case.outcome == Outcome::Passed && case.name.starts_with("TCP");
        stage.check(Direction::FromBottle, &case, if is_told { Outcome::Reset } else { Outcome::Cut })?;
    }
    for case in frames::to_bottle() {
        stage.check(Direction::ToBottle, &case, Outcome::Cut)?;
    }
    stage.set(GateStatus::Open)?;
    stage.check_all(|case| case.outcome)
}

pub(super) fn clients_of_a_cut_bottle_fail_at_once(backend: Backend) -> Result<()> {
    let stage = telling(backend)?;
    let listener = stage.world.host.run(|| Ok(TcpListener::bind((address(GATEWAY), 8080))?))?;
    let mut client = stage.world.bottle.run(|| connect(8080, PATIENCE))?;
    let mut server = listener.accept()?.0;
    exchange(&mut client, &mut server, PATIENCE)?;

    stage.set(CUT)?;
    let begun = Instant::now();
    client.write_all(b"more")?;
    client.set_read_timeout(Some(PATIENCE))?;
    let Err(reset) = client.read(&mut [0; 8]) else { bail!("read something") };
    ensure!(reset.kind() == ErrorKind::ConnectionReset, "{reset}");
    let refused = stage.world.bottle.run(|| connect(8080, PATIENCE)).err().context("connected through a cut gate")?;
    let refused = refused.downcast_ref::<std::io::Error>().context("an error of the system")?;
    ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{refused}");
    ensure!(begun.elapsed() < PATIENCE, "it took as long as silence does");
    // The other end has heard nothing of what was written, nor of the end.
    ensure!(exchange(&mut client, &mut server, SHORTLY).is_err());
    listener.set_nonblocking(true)?;
    ensure!(listener.accept().is_err(), "a connection came through");

    // A port that was not given, and UDP, meet silence.
    ensure!(stage.world.bottle.run(|| connect(22, SHORTLY)).is_err_and(|error| !is_refused(&error)));
    let question = stage.world.bottle.run(|| Ok(UdpSocket::bind((address(BOTTLE), 0))?))?;
    question.set_read_timeout(Some(SHORTLY))?;
    question.connect((address(GATEWAY), DNS_PORT))?;
    question.send(b"question")?;
    let silence = question.recv(&mut [0; 8]).err().context("an answer")?;
    ensure!(silence.kind() == ErrorKind::WouldBlock, "{silence}");

    stage.set(GateStatus::Open)?;
    listener.set_nonblocking(false)?;
    let mut client = stage.world.bottle.run(|| connect(8080, PATIENCE))?;
    exchange(&mut client, &mut listener.accept()?.0, PATIENCE)
}

/// A client that only listens: the host's own reset goes through.
pub(super) fn the_hosts_resets_reach_a_cut_bottle(backend: Backend) -> Result<()> {
    let stage = telling(backend)?;
    let listener = stage.world.host.run(|| Ok(TcpListener::bind((address(GATEWAY), 8080))?))?;
    let mut client = stage.world.bottle.run(|| connect(8080, PATIENCE))?;
    let server = listener.accept()?.0;
    stage.set(CUT)?;
    reset(server)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let heard = client.read(&mut [0; 8]).err().context("read something")?;
    ensure!(heard.kind() == ErrorKind::ConnectionReset, "{heard}");
    Ok(())
}

pub(super) fn resets_are_limited(backend: Backend) -> Result<()> {
    let stage = telling(backend)?;
    stage.set(CUT)?;
    let case = frames::from_bottle().into_iter().find(|case| case.name.starts_with("TCP")).context("the case")?;
    let line = stage.world.line(Direction::FromBottle)?;
    for _ in 0..STORM {
        line.send(&case.frame)?;
    }
    let sum = || -> Result<u64> {
        Ok(stage.counted(Direction::FromBottle, Outcome::Reset)?
            + stage.counted(Direction::FromBottle, Outcome::Cut)?)
    };
    ensure!(until(PATIENCE, || sum().is_ok_and(|seen| seen >= STORM as u64)), "{}", sum()?);
    let resets = stage.counted(Direction::FromBottle, Outcome::Reset)?;
    ensure!(resets >= u64::from(RESETS_PER_WINDOW), "only {resets} resets");
    // Sending may have taken more than one window.
    ensure!(stage.counted(Direction::FromBottle, Outcome::Cut)? > 0, "every one was answered");
    ensure!(stage.counted(Direction::ToBottle, Outcome::Reset)? <= resets);
    Ok(())
}

/// Ends a connection as a process does that wants no more of it.
fn reset(stream: TcpStream) -> Result<()> {
    nix::sys::socket::setsockopt(
        &stream,
        nix::sys::socket::sockopt::Linger,
        &libc::linger { l_onoff: 1, l_linger: 0 },
    )?;
    drop(stream);
    Ok(())
}

fn is_refused(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}
