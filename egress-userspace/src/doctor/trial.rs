//! Attacks a throw-away bottle, and says of each promise whether it holds.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use egress_common::{CutReason, Direction, Outcome};

use super::attacks::{self, Attempt, Parties};
use super::frame::{ARP, EXPERIMENT, IPV4, IPV6, VLAN};
use super::raw_socket::{ALL, RawSocket, holds};
use super::throwaway::{Names, Place, Side, Throwaway, on_thread, remove};
use super::{DoctorError, MakeGates};
use crate::kernel::{Enforcer, GateStatus};

/// How long a packet that passes may take to arrive, and one that does not to be counted.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a packet may take that has been counted and must not arrive.
const ON_ITS_WAY: Duration = Duration::from_millis(5);
/// How long words on a cut connection are waited for.
const SILENCE: Duration = Duration::from_millis(30);
const POLL: Duration = Duration::from_millis(1);
const CUT: GateStatus = GateStatus::Cut(CutReason::Operator);

/// One attack, or one promise, and what broke it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was tried.
    pub name: String,
    /// What was to become of it.
    pub expected: Option<Outcome>,
    /// What went wrong.
    pub problem: Option<String>,
}

impl Finding {
    fn of(name: &str, expected: Option<Outcome>, result: Result<(), String>) -> Self {
        Self { name: name.to_owned(), expected, problem: result.err() }
    }
}

/// What breaks a promise, if anything does.
type Broken = Result<(), String>;

/// What is wrong, what passed first; `None` when nothing is.
pub(super) fn worst(findings: &[Finding]) -> Option<String> {
    let mut broken: Vec<(&String, &String)> =
        findings.iter().filter_map(|finding| Some((&finding.name, finding.problem.as_ref()?))).collect();
    broken.sort_by_key(|(_, problem)| !problem.contains(PASSED));
    let (name, problem) = broken.first()?;
    let others = broken.len() - 1;
    Some(if others == 0 { format!("{name}: {problem}") } else { format!("{name}: {problem}, and {others} more") })
}

/// Something was late or missing, as on a host that is busy; what passed a gate that should not let it is no doubt.
pub(super) fn is_in_doubt(findings: &[Finding]) -> bool {
    let problems: Vec<&String> = findings.iter().filter_map(|finding| finding.problem.as_ref()).collect();
    !problems.is_empty() && !problems.iter().any(|problem| problem.contains(PASSED))
}

/// The worst there is. It stands in every problem of this kind.
const PASSED: &str = "PASSED";

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// One packet of each kind that a gate tells apart, and a cut.
    Quick,
    /// All.
    Whole,
}

/// Tries everything between two namespaces where no gate is: which frames arrive. Those that do not prove nothing later.
pub(super) fn without_a_gate(names: &Names) -> Result<Vec<Finding>, DoctorError> {
    on_thread(Place::Private, || {
        remove(names)?;
        let bottle = Throwaway::build(names)?;
        let result = arrivals(&bottle);
        bottle.remove()?;
        result
    })
}

fn arrivals(bottle: &Throwaway) -> Result<Vec<Finding>, DoctorError> {
    bottle.bring_up()?;
    let parties = bottle.parties()?;
    let mut findings = Vec::new();
    for (direction, attempts) in [
        (Direction::FromBottle, [attacks::from_bottle(&parties), attacks::further(&parties)].concat()),
        (Direction::ToBottle, attacks::to_bottle(&parties)),
    ] {
        let (side, mut witness) = stand(bottle, direction, Extent::Whole)?;
        for attempt in &attempts {
            // Again and again: an interface that has just come up loses what it sends.
            let arrived = until(PATIENCE, || side.send(&attempt.frame).is_ok() && witness.sees_if(attempt));
            let result = if arrived { Ok(()) } else { Err("does not arrive without a gate either".to_owned()) };
            findings.push(Finding::of(attempt.name, None, result));
        }
    }
    Ok(findings)
}

/// Attacks through a gate.
pub(super) fn through_a_gate(
    names: &Names,
    place: Place,
    extent: Extent,
    make: MakeGates<'_>,
) -> Result<Vec<Finding>, DoctorError> {
    on_thread(place, || {
        remove(names)?;
        let bottle = Throwaway::build(names)?;
        let result = attack(&bottle, names, extent, make);
        bottle.remove()?;
        result
    })
}

fn attack(bottle: &Throwaway, names: &Names, extent: Extent, make: MakeGates<'_>) -> Result<Vec<Finding>, DoctorError> {
    let gates = make(&names.pins)?;
    gates.attach(&bottle.gate())?;
    bottle.bring_up()?;
    let interface = bottle.gate().interface;
    match attack_gated(bottle, names, extent, make, gates) {
        Ok((findings, gates)) => {
            gates.detach(interface)?;
            Ok(findings)
        }
        Err(error) => {
            // The first error is the one to tell.
            let _ = make(&names.pins).and_then(|gates| gates.detach(interface));
            Err(error)
        }
    }
}

fn attack_gated(
    bottle: &Throwaway,
    names: &Names,
    extent: Extent,
    make: MakeGates<'_>,
    gates: Box<dyn Enforcer>,
) -> Result<(Vec<Finding>, Box<dyn Enforcer>), DoctorError> {
    let parties = bottle.parties()?;
    let further = if extent == Extent::Whole { attacks::further(&parties) } else { Vec::new() };
    let mut findings = Vec::new();
    for (direction, attempts) in [
        (Direction::FromBottle, [attacks::from_bottle(&parties), further].concat()),
        (Direction::ToBottle, attacks::to_bottle(&parties)),
    ] {
        findings.extend(try_all(bottle, gates.as_ref(), direction, extent, &attempts)?);
    }
    let name = "a cut ends an open connection at once";
    findings.push(Finding::of(name, Some(Outcome::Cut), cut_a_connection(bottle, gates.as_ref())));
    gates.set(bottle.gate().interface, CUT)?;
    drop(gates);
    let (result, gates) = stays_cut(bottle, names, make)?;
    findings.push(Finding::of("a cut outlives whoever made it", Some(Outcome::Cut), result));
    Ok((findings, gates))
}

/// All of them are sent, and then it is asked what became of them: by its count for each kind, by its marker for each.
fn try_all(
    bottle: &Throwaway,
    gates: &dyn Enforcer,
    direction: Direction,
    extent: Extent,
    attempts: &[Attempt],
) -> Result<Vec<Finding>, DoctorError> {
    let interface = bottle.gate().interface;
    let (side, mut witness) = stand(bottle, direction, extent)?;
    let count = |outcome: Outcome| -> Result<u64, DoctorError> {
        let cells = gates.counters(interface)?;
        let cell = cells.iter().find(|cell| cell.direction == direction && cell.outcome == outcome);
        Ok(cell.map_or(0, |cell| cell.packets))
    };
    await_link(bottle, direction, &side, &mut witness, gates)?;
    let mut counted = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    for outcome in Outcome::ALL {
        let same: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.outcome == outcome).collect();
        let wanted = count(outcome)? + u64::try_from(same.len()).unwrap_or(u64::MAX);
        same.iter().try_for_each(|attempt| side.send(&attempt.frame)).map_err(DoctorError::Frames)?;
        let is_counted =
            until(deadline.saturating_duration_since(Instant::now()), || count(outcome).is_ok_and(|now| now >= wanted));
        counted.push((outcome, is_counted));
    }
    thread::sleep(ON_ITS_WAY);
    let mut judge = |attempt: &Attempt| {
        let is_counted = counted.contains(&(attempt.outcome, true));
        let is_allowed = attempt.outcome == Outcome::Passed;
        let arrived = if is_allowed { witness.sees(attempt) } else { witness.sees_if(attempt) };
        match (is_allowed, arrived) {
            (true, false) => Err("did not pass".to_owned()),
            (false, true) => Err(PASSED.to_owned()),
            (true, true) | (false, false) if !is_counted => Err("was not counted as what it is".to_owned()),
            (true, true) | (false, false) => Ok(()),
        }
    };
    Ok(attempts.iter().map(|attempt| Finding::of(attempt.name, Some(attempt.outcome), judge(attempt))).collect())
}

/// An interface that has just come up loses what it sends until the kernel has noticed. Something that is allowed is sent
/// until anybody hears or counts it.
fn await_link(
    bottle: &Throwaway,
    direction: Direction,
    side: &Side,
    witness: &mut Witness,
    gates: &dyn Enforcer,
) -> Result<(), DoctorError> {
    let parties = bottle.parties()?;
    let parties = Parties { run: !parties.run, ..parties };
    let list = if direction == Direction::FromBottle { attacks::from_bottle } else { attacks::to_bottle };
    let Some(probe) = list(&parties).into_iter().next() else { return Ok(()) };
    let interface = bottle.gate().interface;
    let count = || {
        let cells = gates.counters(interface).unwrap_or_default();
        cells.iter().filter(|cell| cell.direction == direction).map(|cell| cell.packets).sum::<u64>()
    };
    let before = count();
    // What does not come of it is told by what follows.
    until(PATIENCE, || side.send(&probe.frame).is_ok() && (count() > before || witness.sees_if(&probe)));
    // One that was on its way is not taken for what follows.
    thread::sleep(ON_ITS_WAY);
    Ok(())
}

fn cut_a_connection(bottle: &Throwaway, gates: &dyn Enforcer) -> Result<(), String> {
    let gateway = SocketAddr::from((bottle.gateway(), 443));
    let said = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let listener = TcpListener::bind(gateway).map_err(said("nothing can listen on the gateway"))?;
    let connect =
        || bottle.inside(|| TcpStream::connect_timeout(&gateway, PATIENCE)).map_err(|error| error.to_string());
    let mut client = connect()?;
    let mut server = listener.accept().map_err(said("no connection before the cut"))?.0;
    if !hears(&mut client, &mut server, PATIENCE) {
        return Err("nothing was heard before the cut".to_owned());
    }
    gates.set(bottle.gate().interface, CUT).map_err(|error| error.to_string())?;
    if hears(&mut client, &mut server, SILENCE) || hears(&mut server, &mut client, SILENCE) {
        return Err(format!("what was said after it {PASSED}"));
    }
    Ok(())
}

fn hears(from: &mut TcpStream, to: &mut TcpStream, patience: Duration) -> bool {
    let mut heard = [0];
    from.write_all(b"x").is_ok()
        && to.set_read_timeout(Some(patience)).is_ok()
        && to.read(&mut heard).is_ok_and(|count| count > 0)
}

/// While nobody runs what made the gate, and for whoever looks next.
fn stays_cut(
    bottle: &Throwaway,
    names: &Names,
    make: MakeGates<'_>,
) -> Result<(Broken, Box<dyn Enforcer>), DoctorError> {
    let parties = bottle.parties()?;
    let (side, mut witness) = stand(bottle, Direction::FromBottle, Extent::Quick)?;
    let attempts: Vec<Attempt> =
        attacks::from_bottle(&parties).into_iter().filter(|attempt| attempt.outcome == Outcome::Passed).collect();
    attempts.iter().try_for_each(|attempt| side.send(&attempt.frame)).map_err(DoctorError::Frames)?;
    thread::sleep(ON_ITS_WAY);
    let has_passed = attempts.iter().any(|attempt| witness.sees_if(attempt));
    let gates = make(&names.pins)?;
    let interface = bottle.gate().interface;
    let found = gates.gates()?.into_iter().find(|gate| gate.interface == interface);
    let is_found = found.is_some_and(|gate| gate.status == CUT) && gates.is_attached(interface)?;
    let result = match (has_passed, is_found) {
        (true, _) => Err(format!("a packet {PASSED} while nobody ran")),
        (false, false) => Err("the next one does not find it cut".to_owned()),
        (false, true) => Ok(()),
    };
    Ok((result, gates))
}

/// Where frames are sent from, and who sees them on the other side.
fn stand(bottle: &Throwaway, direction: Direction, extent: Extent) -> Result<(Side, Witness), DoctorError> {
    match direction {
        Direction::FromBottle => {
            let kinds = match extent {
                Extent::Quick => vec![IPV4, ARP, IPV6, VLAN, EXPERIMENT],
                Extent::Whole => attacks::ether_types(),
            };
            Ok((bottle.bottle_side()?, Witness::open(&kinds).map_err(DoctorError::Frames)?))
        }
        Direction::ToBottle => Ok((bottle.host_side()?, bottle.inside(|| Witness::open(&[ALL]))?)),
    }
}

/// Who would see a packet that got past the gate.
struct Witness {
    sockets: Vec<RawSocket>,
    seen: Vec<Vec<u8>>,
}

impl Witness {
    fn open(kinds: &[u16]) -> io::Result<Self> {
        let sockets = kinds.iter().map(|kind| RawSocket::open(*kind)).collect::<io::Result<_>>()?;
        Ok(Self { sockets, seen: Vec::new() })
    }

    /// Has it been seen by now?
    fn sees_if(&mut self, attempt: &Attempt) -> bool {
        let seen = &mut self.seen;
        self.sockets.iter().for_each(|socket| {
            socket.receive(|frame| {
                // A busy host has frames of its own.
                if holds(frame, attempt.marker) || frame.windows(MARK.len()).any(|window| window == MARK) {
                    seen.push(frame.to_vec());
                }
            });
        });
        self.seen.iter().any(|frame| holds(frame, attempt.marker))
    }

    /// Is it seen before long?
    fn sees(&mut self, attempt: &Attempt) -> bool {
        until(PATIENCE, || self.sees_if(attempt))
    }
}

/// Begins every marker.
const MARK: &[u8] = b"egress-at";

fn until(patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(problems: &[Option<&str>], expected: Option<&str>) {
        let finding =
            |problem: &Option<&str>| Finding::of("it", None, problem.map_or(Ok(()), |problem| Err(problem.to_owned())));
        let findings: Vec<Finding> = problems.iter().map(finding).collect();
        assert_eq!(worst(&findings).as_deref(), expected);
        let is_clear = expected.is_none_or(|problem| problem.contains(PASSED));
        assert_eq!(is_in_doubt(&findings), !is_clear);
    }

    #[test]
    fn what_passed_is_told_first() {
        check(&[None, None], None);
        check(&[None, Some("was not counted")], Some("it: was not counted"));
        check(&[Some("was not counted"), Some(PASSED), None], Some("it: PASSED, and 1 more"));
    }
}
