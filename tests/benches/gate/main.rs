//! What a gate costs, each backend beside a bare veth in the same run: nanoseconds a packet, throughput, and how long after
//! an order to cut the last packet gets through; and what a thousand of them cost.
#![expect(clippy::print_stdout, reason = "the table is this program's output")]

mod cost;
mod cutting;
mod scale;
mod throughput;

use anyhow::Result;
use egress_userspace::kernel::{Enforcer, GateStatus};
use harness::gate::{Backend, PinDirectory, World};

/// What gates are made of here.
const BACKENDS: [Backend; 3] = [Backend::Tcx, Backend::Clsact, Backend::Nftables];

/// A part of it: its word on the command line, its heading, and what prints its table.
type Part = (&'static str, &'static str, fn() -> Result<()>);

const PARTS: [Part; 4] = [
    ("cost", "Nanoseconds a packet takes a gate", cost::measure),
    ("throughput", "iperf3, one stream of TCP between a bottle and its host", throughput::measure),
    ("cutting", "From an order to cut to the last packet of a flood, microseconds", cutting::measure),
    ("scale", "A thousand bottles", scale::measure),
];

/// All parts, or those that are named.
fn main() -> Result<()> {
    let named: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (word, heading, measure) in PARTS {
        if named.is_empty() || named.iter().any(|name| name == word) {
            println!("\n## {heading}\n");
            measure()?;
        }
    }
    Ok(())
}

/// A host and a bottle, with an open gate between them or none. Fields drop in order: the gate before its pins.
struct Stage {
    gates: Option<Box<dyn Enforcer>>,
    world: World,
    _pins: PinDirectory,
}

impl Stage {
    fn new(backend: Option<Backend>) -> Result<Self> {
        let (pins, world) = (PinDirectory::new()?, World::new()?);
        let gates = world.host.run(|| backend.map(|backend| backend.open(pins.path())).transpose())?;
        if let Some(gates) = &gates {
            world.host.run(|| Ok(gates.attach(&world.gate())?))?;
        }
        Ok(Self { gates, world, _pins: pins })
    }

    fn set(&self, status: GateStatus) -> Result<()> {
        if let Some(gates) = &self.gates {
            gates.set(self.world.interface, status)?;
        }
        Ok(())
    }
}

fn name(backend: Option<Backend>) -> &'static str {
    match backend {
        None => "no gate",
        Some(Backend::Tcx) => "eBPF (tcx)",
        Some(Backend::Clsact) => "eBPF (clsact)",
        Some(Backend::Nftables) => "nftables",
        Some(Backend::Fake) => "fake",
    }
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
