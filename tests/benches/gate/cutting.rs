//! A bottle floods the gateway; each datagram that arrives is stamped by the kernel. The last stamp, less the moment of the
//! order, is how long the flood went on.

use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use egress_common::CutReason;
use egress_userspace::kernel::GateStatus;
use harness::gate::{BOTTLE, DNS_PORT, GATEWAY, PATIENCE, address, until};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};

use super::{BACKENDS, Stage, name, percentile};

const CUTS: usize = 300;
/// Between an order and the next.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) fn measure() -> Result<()> {
    println!("{:<16}{:>10}{:>10}{:>10}{:>14}{:>14}", "", "p50", "p99", "worst", "order p50", "order p99");
    for backend in BACKENDS {
        let stage = Stage::new(Some(backend))?;
        let (mut after, mut orders) = cuts(&stage)?;
        after.sort_by(f64::total_cmp);
        orders.sort_by(f64::total_cmp);
        println!(
            "{:<16}{:>10.0}{:>10.0}{:>10.0}{:>14.0}{:>14.0}",
            name(Some(backend)),
            percentile(&after, 0.5),
            percentile(&after, 0.99),
            percentile(&after, 1.0),
            percentile(&orders, 0.5),
            percentile(&orders, 0.99)
        );
    }
    Ok(())
}

/// For each cut: when the last packet came after the order, and how long the order took. Microseconds.
fn cuts(stage: &Stage) -> Result<(Vec<f64>, Vec<f64>)> {
    let sink = stage.world.host.run(|| Ok(UdpSocket::bind((address(GATEWAY), DNS_PORT))?))?;
    sink.set_nonblocking(true)?;
    setsockopt(&sink, sockopt::ReceiveTimestampns, &true)?;
    let source = stage.world.bottle.run(|| Ok(UdpSocket::bind((address(BOTTLE), 0))?))?;
    source.connect((address(GATEWAY), DNS_PORT))?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // What is dropped is sent for all this end knows.
                let _ = source.send(b"flood");
            }
        });
        let mut measured = (Vec::new(), Vec::new());
        let outcome = (0..CUTS).try_for_each(|_| -> Result<()> {
            sleep(PAUSE);
            // Its thread may have to wait for a CPU.
            ensure!(until(PATIENCE, || drain(&sink).is_ok_and(|last| last.is_some())), "the flood does not flow");
            let (ordered, start) = (clock_gettime(ClockId::CLOCK_REALTIME)?, Instant::now());
            stage.set(GateStatus::Cut(CutReason::Operator))?;
            let took = start.elapsed();
            sleep(PAUSE);
            // What came between the last look and the order may be all there is.
            let last = drain(&sink)?.map_or(Duration::ZERO, Duration::from);
            sleep(PAUSE);
            ensure!(drain(&sink)?.is_none(), "it flows through a cut gate");
            measured.0.push(last.saturating_sub(ordered.into()).as_secs_f64() * 1e6);
            measured.1.push(took.as_secs_f64() * 1e6);
            stage.set(GateStatus::Open)
        });
        is_over.store(true, Ordering::Relaxed);
        ensure!(flood.join().is_ok(), "the flood panicked");
        outcome.map(|()| measured)
    })
}

/// Takes what has arrived; the newest stamp.
fn drain(sink: &UdpSocket) -> Result<Option<nix::sys::time::TimeSpec>> {
    let mut last = None;
    loop {
        let mut buffer = [0; 16];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let received = recvmsg::<SockaddrIn>(sink.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT);
        let message = match received {
            Err(Errno::EAGAIN) => return Ok(last),
            received => received?,
        };
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmTimestampns(stamp) = control {
                last = Some(stamp);
            }
        }
    }
}
