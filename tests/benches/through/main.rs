//! What egress costs: the same load direct, through nginx as a plain TLS relay, and through egress both ways, in one run.
//!
//! Prints medians over interleaved rounds and ratios within a round; asserts nothing, because what else a machine does is
//! not egress's fault. Needs root; `cargo xtask bench` runs it on release builds.
#![expect(clippy::print_stdout, reason = "the tables are this program's output")]

mod gauge;
mod scenario;
mod table;
mod world;

use std::time::Instant;

use anyhow::{Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use scenario::{Kind, SLOW_STREAMS, STREAMS};
use table::{Bound, Cell, Rounds, Target, median, ratio};
use world::{Way, World};

const ROUNDS: usize = 3;

/// Everything measured apart from throughput.
struct Special {
    egress_stream_bytes: f64,
    nginx_stream_bytes: f64,
    /// Medians over rounds of each way's p99, milliseconds.
    event_p99: Vec<(Way, f64)>,
    /// The same minus nginx's of the same round.
    event_added: f64,
    gate_nanoseconds: f64,
    crossings: Vec<gauge::Crossing>,
}

fn main() -> Result<()> {
    // `cargo test --benches` and the like call every benchmark: this one takes minutes and root.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    ensure!(nix::unistd::geteuid().is_root(), "this makes network namespaces, which needs root");
    // Everything started from here has room for a thousand connections on both sides.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let start = Instant::now();
    let quick = std::env::var_os("EGRESS_BENCH_QUICK").is_some();
    let rounds = if quick { 1 } else { ROUNDS };
    let mut world = World::start()?;
    println!("{} CPUs, medians of {rounds} rounds", std::thread::available_parallelism()?);
    // Memory first: allocators keep what a load has used.
    let egress_stream_bytes = scenario::bytes_per_stream(&world, Way::Egress, &[world.proxy_pid()?])?;
    let nginx_workers = gauge::children(world.nginx_pid)?;
    let nginx_stream_bytes = scenario::bytes_per_stream(&world, Way::Nginx, &nginx_workers)?;
    let throughput = throughput(&world, rounds)?;
    for kind in Kind::ALL {
        for (streams, _) in STREAMS {
            print!("{}", table::block(&throughput, kind, streams));
        }
    }
    let (event_p99, event_added) = event_delays(&world, rounds)?;
    let gate_nanoseconds = scenario::gate_cost(&world)?;
    let crossings = scenario::crossings(&mut world)?;
    let special =
        Special { egress_stream_bytes, nginx_stream_bytes, event_p99, event_added, gate_nanoseconds, crossings };
    print_targets(&throughput, &special);
    println!("\nmeasured in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn throughput(world: &World, rounds: usize) -> Result<Rounds> {
    let mut measured = Rounds::new();
    for _ in 0..rounds {
        for kind in Kind::ALL {
            for (streams, seconds) in STREAMS {
                for way in Way::ALL {
                    let one = scenario::throughput(world, way, kind, streams, seconds)?;
                    measured.entry((kind, streams, way)).or_default().push(one);
                }
            }
        }
    }
    Ok(measured)
}

fn event_delays(world: &World, rounds: usize) -> Result<(Vec<(Way, f64)>, f64)> {
    let mut delays: Vec<Vec<f64>> = vec![Vec::new(); Way::ALL.len()];
    for _ in 0..rounds {
        for (way, of_way) in Way::ALL.into_iter().zip(&mut delays) {
            of_way.push(scenario::event_delay(world, way)?.event_p99_us / 1e3);
        }
    }
    let of =
        |wanted: Way| Way::ALL.into_iter().zip(&delays).filter(move |(way, _)| *way == wanted).flat_map(|(_, of)| of);
    let added = median(of(Way::Egress).zip(of(Way::Nginx)).map(|(egress, nginx)| egress - nginx));
    Ok((Way::ALL.into_iter().zip(delays).map(|(way, delays)| (way, median(delays))).collect(), added))
}

fn print_targets(rounds: &Rounds, special: &Special) {
    let p50 = |way| Cell::of(rounds, Kind::Json, 1, way).p50_us();
    let added = p50(Way::Egress) - p50(Way::Direct);
    let cut = |number: fn(&gauge::Crossing) -> f64| median(special.crossings.iter().map(number));
    let worst = special.crossings.iter().map(|crossing| crossing.commit_to_cut).fold(0.0, f64::max);
    let to_nginx = |kind, streams| ratio(rounds, kind, streams, Way::Egress, Way::Nginx);
    let target = |what, reached, bound, unit| Target { what, reached, bound, unit };
    let (most, least, free) = (Bound::AtMost, Bound::AtLeast, Bound::None);
    let targets = [
        target("added p50, 1 stream, permit and settlement included", added, most(150.0), "µs"),
        target("  (nginx adds)", p50(Way::Nginx) - p50(Way::Direct), free, "µs"),
        target("JSON requests/s, 1 stream, of nginx's", to_nginx(Kind::Json, 1), free, ""),
        target("JSON requests/s, 64 streams, of nginx's", to_nginx(Kind::Json, 64), least(0.5), ""),
        target("JSON requests/s, 1,000 streams, of nginx's", to_nginx(Kind::Json, 1_000), least(0.5), ""),
        target("SSE throughput, 1 stream, of nginx's", to_nginx(Kind::Sse, 1), least(0.8), ""),
        target("SSE throughput, 64 streams, of nginx's", to_nginx(Kind::Sse, 64), least(0.8), ""),
        target("SSE throughput, 1,000 streams, of nginx's", to_nginx(Kind::Sse, 1_000), least(0.8), ""),
        target("memory per open stream", special.egress_stream_bytes / 1024.0, most(64.0), "KiB"),
        target("  (nginx, which ends and starts TLS too)", special.nginx_stream_bytes / 1024.0, free, "KiB"),
        target("event delay p99 above nginx's, 200 slow streams", special.event_added, most(1.0), "ms"),
        target("commit of the crossing to kernel cut, median", cut(|one| one.commit_to_cut) / 1e3, most(1.0), "ms"),
        target("  (the worst of them)", worst / 1e3, free, "ms"),
        target("  (of it the write of the gate's map, median)", cut(|one| one.map_write), free, "µs"),
        target("gate, per packet, statistics' clock included", special.gate_nanoseconds, free, "ns"),
    ];
    println!("\n  {:<58} {:>9} {:>8}", "", "reached", "target");
    for target in &targets {
        println!("{}", table::line(target));
    }
    let delays = special.event_p99.iter().map(|(way, delay)| format!("{} {delay:.2}", way.name()));
    println!("  event delay p99 at {SLOW_STREAMS} slow streams, ms: {}", delays.collect::<Vec<_>>().join(", "));
    println!("  crossings timed: {}", special.crossings.len());
}
