//! The backends are two implementations of one decision: whatever a packet is, both say the same of it.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use egress_common::{Direction, Outcome};
use egress_userspace::kernel::Counter;
use harness::gate::{Backend, Line, until};
use harness::privilege::is_root;

use super::stage::Stage;
use super::{SHORTLY, frames};

/// Frames tried in each direction.
const FRAMES: usize = 300;
/// Of the frames of each direction; there are 13 and 12 in all.
const OUTCOMES_MIN: usize = 9;
/// Total lengths tried of one frame, whatever its own is.
const LENGTHS: u16 = 80;
/// Ethernet and the headers that are looked at.
const LOOKED_AT: usize = 14 + 20 + 20;

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % bound
    }

    fn byte(&mut self) -> u8 {
        const TELLING: [u8; 12] = [0, 1, 2, 4, 6, 8, 17, 20, 28, 0x45, 0x81, 0xff];
        if self.below(2) == 0 { TELLING[self.below(TELLING.len())] } else { u8::try_from(self.below(256)).unwrap_or(0) }
    }

    /// A frame that is nearly one of the cases.
    fn frame(&mut self, cases: &[frames::Case]) -> Vec<u8> {
        let mut frame = cases[self.below(cases.len())].frame.clone();
        for _ in 0..self.below(3) {
            let place = self.below(LOOKED_AT.min(frame.len()));
            frame[place] = self.byte();
        }
        match self.below(4) {
            0 => frame.truncate(14 + self.below(frame.len() - 13)),
            1 => frame.resize(frame.len() + self.below(60), 0),
            _ => {}
        }
        if self.below(4) == 0 && frame.len() > 17 {
            let near = frame.len() - 14 + self.below(5);
            frame[16..18].copy_from_slice(&u16::try_from(near.saturating_sub(2)).unwrap_or(0).to_be_bytes());
        }
        frame
    }
}

#[test]
fn nftables_decides_as_ebpf_does() -> Result<()> {
    if !is_root("nftables_decides_as_ebpf_does")? {
        return Ok(());
    }
    for (direction, cases) in
        [(Direction::FromBottle, frames::from_bottle()), (Direction::ToBottle, frames::to_bottle())]
    {
        let stages = [Stage::attached(Backend::Tcx)?, Stage::attached(Backend::Nftables)?];
        let lines = [stages[0].world.line(direction)?, stages[1].world.line(direction)?];
        let mut numbers = Numbers(7);
        let mut outcomes = BTreeSet::new();
        // UDP and TCP that pass.
        let ends = cases[..2].iter().flat_map(|case| (0..LENGTHS).map(|total| of_length(&case.frame, total)));
        let ends: Vec<_> = ends.chain((0..FRAMES).map(|_| numbers.frame(&cases))).collect();
        for (number, frame) in ends.into_iter().enumerate() {
            let ebpf = decided(&stages[0], &lines[0], direction, &frame)?;
            let nftables = decided(&stages[1], &lines[1], direction, &frame)?;
            ensure!(ebpf == nftables, "{direction:?}, frame {number}: {ebpf:?} and {nftables:?}: {frame:02x?}");
            outcomes.extend(ebpf.map(|(outcome, _)| outcome));
        }
        ensure!(outcomes.len() >= OUTCOMES_MIN, "{direction:?}: only {outcomes:?} were tried");
    }
    Ok(())
}

/// A frame that says it is so long.
fn of_length(frame: &[u8], total: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame
}

/// What became of a frame, and how long it was; nothing if the kernel dropped it before any gate.
fn decided(stage: &Stage, line: &Line, direction: Direction, frame: &[u8]) -> Result<Option<(Outcome, u64)>> {
    let counters = || -> Result<Vec<Counter>> {
        let all = stage.gates.counters(stage.world.interface)?;
        Ok(all.into_iter().filter(|cell| cell.direction == direction).collect())
    };
    let before = counters()?;
    let of_before = |cell: &Counter| before.iter().find(|other| other.outcome == cell.outcome).copied();
    line.send(frame)?;
    let mut found = None;
    until(SHORTLY, || {
        let now = counters().unwrap_or_default();
        found = now.into_iter().find(|cell| of_before(cell).is_none_or(|before| before.packets < cell.packets));
        found.is_some()
    });
    Ok(found.map(|cell| (cell.outcome, cell.bytes - of_before(&cell).map_or(0, |before| before.bytes))))
}
