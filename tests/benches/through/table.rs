//! Numbers → text for a terminal.

use std::collections::BTreeMap;

use harness::load::Measured;

use crate::scenario::Kind;
use crate::world::Way;

/// Measurements of all rounds.
pub(crate) type Rounds = BTreeMap<(Kind, usize, Way), Vec<Measured>>;

const BAR_CELLS: f64 = 30.0;

/// The middle of some numbers; 0 of none.
pub(crate) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}

/// Medians of one place of the table.
pub(crate) struct Cell<'a>(&'a [Measured]);

impl<'a> Cell<'a> {
    pub(crate) fn of(rounds: &'a Rounds, kind: Kind, streams: usize, way: Way) -> Self {
        Self(rounds.get(&(kind, streams, way)).map(Vec::as_slice).unwrap_or_default())
    }

    pub(crate) fn requests_per_second(&self) -> f64 {
        self.middle(|measured| measured.requests as f64 / measured.seconds)
    }

    pub(crate) fn bytes_per_second(&self) -> f64 {
        self.middle(|measured| measured.bytes as f64 / measured.seconds)
    }

    pub(crate) fn p50_us(&self) -> f64 {
        self.middle(|measured| measured.p50_us)
    }

    pub(crate) fn p99_us(&self) -> f64 {
        self.middle(|measured| measured.p99_us)
    }

    fn middle(&self, number: impl Fn(&Measured) -> f64) -> f64 {
        median(self.0.iter().map(number))
    }
}

/// The median over rounds of one way's number divided by another's in the same round.
pub(crate) fn ratio(rounds: &Rounds, kind: Kind, streams: usize, of: Way, to: Way) -> f64 {
    let rate = |measured: &Measured| match kind {
        Kind::Json => measured.requests as f64 / measured.seconds,
        Kind::Sse => measured.bytes as f64 / measured.seconds,
    };
    let (of, to) = (Cell::of(rounds, kind, streams, of), Cell::of(rounds, kind, streams, to));
    median(of.0.iter().zip(to.0).map(|(of, to)| rate(of) / rate(to)))
}

/// One block: all ways at one number of streams.
pub(crate) fn block(rounds: &Rounds, kind: Kind, streams: usize) -> String {
    let title = match kind {
        Kind::Json => "JSON",
        Kind::Sse => "SSE",
    };
    let mut text = format!(
        "\n{title}, {streams} stream(s)\n  {:<15} {:>10} {:>9} {:>10} {:>10} {:>8} {:>8}\n",
        "", "requests/s", "MB/s", "p50 ms", "p99 ms", "/direct", "/nginx"
    );
    let fastest = Way::ALL.map(|way| Cell::of(rounds, kind, streams, way).requests_per_second()).into_iter();
    let fastest = fastest.fold(1.0, f64::max);
    for way in Way::ALL {
        let cell = Cell::of(rounds, kind, streams, way);
        text += &format!(
            "  {:<15} {:>10.0} {:>9.1} {:>10.2} {:>10.2} {:>8.2} {:>8.2}  {}\n",
            way.name(),
            cell.requests_per_second(),
            cell.bytes_per_second() / 1e6,
            cell.p50_us() / 1e3,
            cell.p99_us() / 1e3,
            ratio(rounds, kind, streams, way, Way::Direct),
            ratio(rounds, kind, streams, way, Way::Nginx),
            bar(cell.requests_per_second() / fastest),
        );
    }
    text
}

/// A number against its target.
pub(crate) struct Target {
    pub(crate) what: &'static str,
    pub(crate) reached: f64,
    pub(crate) bound: Bound,
    pub(crate) unit: &'static str,
}

/// Which side of the target is good.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// Shown without a target.
    None,
}

/// One line: what, reached, target.
pub(crate) fn line(target: &Target) -> String {
    let (wanted, is_met) = match target.bound {
        Bound::AtMost(most) => (format!("≤ {most}"), Some(target.reached <= most)),
        Bound::AtLeast(least) => (format!("≥ {least}"), Some(target.reached >= least)),
        Bound::None => (String::new(), None),
    };
    let mark = match is_met {
        Some(true) => "reached",
        Some(false) => "missed",
        None => "",
    };
    format!("  {:<58} {:>9.2} {:>8} {:<6} {mark}", target.what, target.reached, wanted, target.unit)
}

fn bar(share: f64) -> String {
    let cells = (share.clamp(0.0, 1.0) * BAR_CELLS).round();
    std::iter::repeat_n('█', cells as usize).collect()
}
