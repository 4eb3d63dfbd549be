//! What only gates of eBPF have: programs, which others could put in the place of ours.

use std::fs;
use std::mem::ManuallyDrop;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use egress_common::{Direction, Outcome};
use harness::gate::Backend;

use super::stage::Stage;

const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../egress-userspace/src/kernel/gate.bpf.o");
const MAPS: [&str; 6] = ["gates", "counters", "drop_events", "drop_rates", "reset_rates", "abi"];
/// Where a gate's filter is.
const PRIORITY: u16 = 1;
const HANDLE: u32 = 0xe9e5;

/// `r1 = 2; r0 = r1; exit`: what ends in a drop.
const DROPS: [u8; 24] = [0xb7, 1, 0, 0, 2, 0, 0, 0, 0xbf, 0x10, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// Another version of our programs, on the same maps: it lets pass what ends so.
fn other_version(pins: &Path) -> Result<Ebpf> {
    let mut object = fs::read(OBJECT)?;
    let places: Vec<usize> = (0..object.len()).filter(|place| object[*place..].starts_with(&DROPS)).collect();
    ensure!(!places.is_empty(), "nothing in it drops");
    places.into_iter().for_each(|place| object[place + 4] = 0);
    let mut loader = EbpfLoader::new();
    for map in MAPS {
        loader.map_pin_path(map, pins.join(map));
    }
    Ok(loader.load(&object)?)
}

fn program<'a>(loaded: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program: &mut SchedClassifier = loaded.program_mut(name).context("no such program")?.try_into()?;
    program.load()?;
    Ok(program)
}

/// An upgrade finds the gates of the version before; somebody else may have put the like in their place.
pub(super) fn a_program_of_another_version_is_missed(backend: Backend) -> Result<()> {
    let stage = Stage::attached(backend)?;
    stage.check_all(|case| case.outcome)?;
    let passed = stage.counted(Direction::FromBottle, Outcome::Passed)?;
    let mut other = other_version(stage.pins.path())?;
    let from_bottle = program(&mut other, "from_bottle")?;
    let link = stage.pins.path().join(format!("links/{}-ingress", stage.world.interface.0));
    stage.world.host.run(|| {
        let ours = if backend == Backend::Tcx {
            SchedClassifierLink::try_from(FdLink::from(PinnedLink::from_pin(link)?))?
        } else {
            SchedClassifierLink::attached("gate0", TcAttachType::Ingress, PRIORITY, TcHandle::from(HANDLE), None)?
        };
        let changed = from_bottle.attach_to_link(ours)?;
        // It stays when this value goes.
        let _stays = ManuallyDrop::new(from_bottle.take_link(changed)?);
        Ok(())
    })?;
    ensure!(!stage.is_attached()?, "nobody noticed");
    stage.attach(&stage.world.gate())?;
    ensure!(stage.is_attached()?, "not made good");
    ensure!(stage.counted(Direction::FromBottle, Outcome::Passed)? >= passed, "the count began anew");
    stage.check_all(|case| case.outcome)
}

/// Another's program that comes first and lets a packet pass has the last word.
pub(super) fn nothing_comes_before_a_gate(backend: Backend) -> Result<()> {
    let stage = Stage::attached(backend)?;
    let mut other = other_version(stage.pins.path())?;
    let passing = program(&mut other, "to_bottle")?;
    let order = if backend == Backend::Tcx {
        TcAttachOptions::TcxOrder(LinkOrder::first())
    } else {
        TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: TcHandle::from(7), ..NlOptions::default() })
    };
    stage.world.host.run(|| Ok(passing.attach_with_options("gate0", TcAttachType::Ingress, order)?))?;
    ensure!(!stage.is_attached()?, "nobody noticed");
    for _ in 0..2 {
        stage.attach(&stage.world.gate())?;
        ensure!(stage.is_attached()?, "not made good");
    }
    stage.world.host.run(|| {
        drop(other);
        Ok(())
    })?;
    ensure!(stage.is_attached()?, "it went with the other");
    stage.check_all(|case| case.outcome)?;
    stage.detach()?;
    ensure!(!stage.is_attached()?);
    Ok(())
}
