//! What every gate must do, whatever it is made of: one suite over all backends, on the real kernel.
//!
//! Every item of the promise is an attack here, made by root in the bottle, that must fail and be counted as what it is.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, and helpers of tests are tests"
)]

mod frames;
mod reset;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context, Result, bail, ensure};
use egress_common::{CutReason, DROP_EVENTS_PER_WINDOW, Direction, Outcome};
use egress_userspace::domain::BottleId;
use egress_userspace::kernel::{Enforcer, Gate, GateStatus, IfIndex, KernelError};
use frames::Case;
use harness::gate::{
    BOTTLE, BOTTLE_ID, Backend, DNS_PORT, GATEWAY, PATIENCE, PinDirectory, TCP_PORTS, World, address, counted, gate,
    until,
};
use harness::netns::command;
use harness::privilege::is_root;
use reset::{
    clients_of_a_cut_bottle_fail_at_once, nothing_but_resets_passes_a_cut_gate, resets_are_limited,
    the_hosts_resets_reach_a_cut_bottle,
};

/// How long something that must not happen is waited for.
const SHORTLY: Duration = Duration::from_millis(300);

/// A world with a backend in it. Fields drop in order: the gate before its pins.
struct Stage {
    gates: Box<dyn Enforcer>,
    world: World,
    pins: PinDirectory,
}

impl Stage {
    fn new(backend: Backend) -> Result<Self> {
        let (pins, world) = (PinDirectory::new()?, World::new()?);
        let gates = backend.open(pins.path())?;
        Ok(Self { gates, world, pins })
    }

    /// With the bottle's gate attached and open.
    fn attached(backend: Backend) -> Result<Self> {
        let stage = Self::new(backend)?;
        stage.attach(&stage.world.gate())?;
        Ok(stage)
    }

    fn attach(&self, gate: &Gate) -> Result<()> {
        self.world.host.run(|| Ok(self.gates.attach(gate)?))
    }

    fn set(&self, status: GateStatus) -> Result<()> {
        Ok(self.gates.set(self.world.interface, status)?)
    }

    fn is_attached(&self) -> Result<bool> {
        self.world.host.run(|| Ok(self.gates.is_attached(self.world.interface)?))
    }

    fn detach(&self) -> Result<()> {
        self.world.host.run(|| Ok(self.gates.detach(self.world.interface)?))
    }

    fn counted(&self, direction: Direction, outcome: Outcome) -> Result<u64> {
        counted(self.gates.as_ref(), self.world.interface, direction, outcome)
    }

    /// The frame gets through or not, as `outcome` says, and is counted under it.
    fn check(&self, direction: Direction, case: &Case, outcome: Outcome) -> Result<()> {
        let witness = match direction {
            Direction::FromBottle => self.world.witness_at_host()?,
            Direction::ToBottle => self.world.witness_in_bottle()?,
        };
        let before = self.counted(direction, outcome)?;
        self.world.send(direction, &case.frame)?;
        let what = || format!("{direction:?}: {}: {:?}", case.name, self.gates.counters(self.world.interface));
        ensure!(
            until(PATIENCE, || self.counted(direction, outcome).is_ok_and(|now| now > before)),
            "not counted: {}",
            what()
        );
        if outcome == Outcome::Passed {
            ensure!(witness.sees(case.marker), "did not arrive: {}", what());
        } else {
            // It was counted, so its fate is decided; a moment for it to arrive all the same.
            thread::sleep(Duration::from_millis(3));
            ensure!(!witness.has_seen(case.marker), "arrived: {}", what());
        }
        Ok(())
    }

    fn check_all(&self, outcome_of: impl Fn(&Case) -> Outcome) -> Result<()> {
        for case in frames::from_bottle() {
            self.check(Direction::FromBottle, &case, outcome_of(&case))?;
        }
        for case in frames::to_bottle() {
            self.check(Direction::ToBottle, &case, outcome_of(&case))?;
        }
        Ok(())
    }
}

/// One test per backend for every scenario that needs packets.
macro_rules! on_the_kernel {
    ($($(#[$doc:meta])* $scenario:ident)*) => {
        mod tcx {
            $($(#[$doc])* #[test] fn $scenario() -> anyhow::Result<()> {
                super::play(concat!("tcx::", stringify!($scenario)), super::Backend::Tcx, super::$scenario)
            })*
        }
        mod clsact {
            $($(#[$doc])* #[test] fn $scenario() -> anyhow::Result<()> {
                super::play(concat!("clsact::", stringify!($scenario)), super::Backend::Clsact, super::$scenario)
            })*
        }
    };
}

on_the_kernel! {
    every_packet_meets_its_outcome
    a_cut_gate_passes_nothing
    a_gate_without_an_entry_passes_nothing
    real_clients_reach_the_gateway_and_nothing_else
    a_cut_stops_an_open_connection_at_once
    nothing_but_resets_passes_a_cut_gate
    clients_of_a_cut_bottle_fail_at_once
    the_hosts_resets_reach_a_cut_bottle
    resets_are_limited
    gates_outlive_their_loader
    gates_outlive_a_loader_that_is_killed
    drops_are_reported_but_not_all_of_them
    tools_read_names
    a_gate_taken_off_behind_our_back_is_missed
    an_interface_with_a_number_that_was_used_before_starts_anew
    other_programs_still_see_what_passed
    maps_of_another_version_are_not_adopted
    state_on_a_real_interface
}

fn play(name: &str, backend: Backend, scenario: fn(Backend) -> Result<()>) -> Result<()> {
    if is_root(name)? { scenario(backend) } else { Ok(()) }
}

#[test]
fn fake_state() -> Result<()> {
    let gates = Backend::Fake.open(Path::new(""))?;
    state(gates.as_ref(), IfIndex(7))
}

fn state_on_a_real_interface(backend: Backend) -> Result<()> {
    let stage = Stage::new(backend)?;
    stage.world.host.run(|| state(stage.gates.as_ref(), stage.world.interface))
}

/// What every backend says of its gates.
fn state(gates: &dyn Enforcer, interface: IfIndex) -> Result<()> {
    let wanted = gate(interface);
    assert!(!gates.is_attached(interface)?);
    assert!(
        matches!(gates.set(interface, GateStatus::Open), Err(KernelError::NoGate(missing)) if missing == interface)
    );
    gates.detach(interface)?;

    gates.attach(&wanted)?;
    gates.attach(&wanted)?;
    assert!(gates.is_attached(interface)?);
    assert_eq!(gates.gates()?, std::slice::from_ref(&wanted));
    for status in [GateStatus::Cut(CutReason::Budget), GateStatus::Cut(CutReason::Operator), GateStatus::Open] {
        gates.set(interface, status)?;
        assert_eq!(gates.gates()?, [Gate { status, ..wanted.clone() }]);
    }

    let greedy = Gate { tcp_ports: (1..=9).collect(), ..wanted.clone() };
    assert!(matches!(gates.attach(&greedy), Err(KernelError::TooManyPorts { max: 8, given: 9 })));
    assert_eq!(gates.gates()?, [wanted]);

    gates.detach(interface)?;
    gates.detach(interface)?;
    assert!(!gates.is_attached(interface)?);
    assert_eq!(gates.gates()?, []);
    assert_eq!(gates.counters(interface)?, []);
    Ok(())
}

/// Without a gate every frame arrives (so that a frame that does not was stopped by the gate), with it the right ones.
fn every_packet_meets_its_outcome(backend: Backend) -> Result<()> {
    let stage = Stage::new(backend)?;
    let world = &stage.world;
    for (direction, witness, cases) in [
        (Direction::FromBottle, world.witness_at_host()?, frames::from_bottle()),
        (Direction::ToBottle, world.witness_in_bottle()?, frames::to_bottle()),
    ] {
        for case in cases {
            world.send(direction, &case.frame)?;
            ensure!(witness.sees(case.marker), "{direction:?}: without a gate, did not arrive: {}", case.name);
        }
    }
    stage.attach(&world.gate())?;
    stage.check_all(|case| case.outcome)
}

fn a_cut_gate_passes_nothing(backend: Backend) -> Result<()> {
    let stage = Stage::attached(backend)?;
    stage.set(GateStatus::Cut(CutReason::Operator))?;
    stage.check_all(|_| Outcome::Cut)?;
    stage.set(GateStatus::Open)?;
    stage.check_all(|case| case.outcome)
}

fn a_gate_without_an_entry_passes_nothing(backend: Backend) -> Result<()> {
    let stage = Stage::attached(backend)?;
    let key = stage.world.interface.0.to_ne_bytes().map(|byte| byte.to_string()).join(" ");
    command("bpftool", &format!("map delete pinned {}/gates key {key}", stage.pins.path().display()))?;
    stage.check_all(|_| Outcome::NoEntry)
}

fn real_clients_reach_the_gateway_and_nothing_else(backend: Backend) -> Result<()> {
    let stage = Stage::attached(backend)?;
    let (host, bottle) = (&stage.world.host, &stage.world.bottle);
    for port in TCP_PORTS {
        let listener = host.run(|| Ok(TcpListener::bind((address(GATEWAY), port))?))?;
        let sent = bottle.run(|| {
            thread::scope(|scope| {
                let served = scope.spawn(|| -> Result<usize> {
                    let mut received = Vec::new();
                    Ok(listener.accept()?.0.read_to_end(&mut received)?)
                });
                let mut client = connect(port, PATIENCE)?;
                // Enough for the kernel to send segments larger than any MTU.
                let bytes = vec![7; 4 << 20];
                client.write_all(&bytes)?;
                drop(client);
                ensure!(served.join().unwrap()? == bytes.len());
                Ok(())
            })
        });
        sent.with_context(|| format!("port {port}"))?;
    }
    let _forbidden = host.run(|| Ok(TcpListener::bind((address(GATEWAY), 22))?))?;
    ensure!(bottle.run(|| connect(22, SHORTLY)).is_err(), "reached a port that was not given");
    ensure!(stage.counted(Direction::FromBottle, Outcome::Port)? > 0);

    let resolver = host.run(|| Ok(UdpSocket::bind((address(GATEWAY), DNS_PORT))?))?;
    resolver.set_read_timeout(Some(PATIENCE))?;
    bottle.run(|| {
        let client = UdpSocket::bind((address(BOTTLE), 0))?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.send_to(b"question", (address(GATEWAY), DNS_PORT))?;
        let mut buffer = [0; 16];
        let (_, asker) = resolver.recv_from(&mut buffer)?;
        resolver.send_to(b"answer", asker)?;
        ensure!(client.recv(&mut buffer)? == b"answer".len());
        Ok(())
    })
}

fn a_cut_stops_an_open_connection_at_once(backend: Backend) -> Result<()> {
    let stage = Stage::attached(backend)?;
    let listener = stage.world.host.run(|| Ok(TcpListener::bind((address(GATEWAY), 8080))?))?;
    let mut client = stage.world.bottle.run(|| connect(8080, PATIENCE))?;
    let mut server = listener.accept()?.0;
    exchange(&mut client, &mut server, PATIENCE)?;
    exchange(&mut server, &mut client, PATIENCE)?;

    stage.set(GateStatus::Cut(CutReason::Budget))?;
    ensure!(exchange(&mut client, &mut server, SHORTLY).is_err(), "the bottle was heard through a cut gate");
    ensure!(exchange(&mut server, &mut client, SHORTLY).is_err(), "the bottle hears through a cut gate");
    ensure!(stage.counted(Direction::FromBottle, Outcome::Cut)? > 0);
    ensure!(stage.counted(Direction::ToBottle, Outcome::Cut)? > 0);

    stage.set(GateStatus::Open)?;
    ensure!(until(PATIENCE * 2, || exchange(&mut client, &mut server, SHORTLY).is_ok()), "restored, but dead");
    Ok(())
}

fn gates_outlive_their_loader(backend: Backend) -> Result<()> {
    let mut stage = Stage::attached(backend)?;
    stage.check_all(|case| case.outcome)?;
    let passed = stage.counted(Direction::FromBottle, Outcome::Passed)?;

    // Something else in the meantime: the first value is gone before the second is made.
    stage.gates = Backend::Fake.open(Path::new(""))?;
    let witness = stage.world.witness_at_host()?;
    for case in frames::from_bottle() {
        stage.world.send(Direction::FromBottle, &case.frame)?;
        let passes = case.outcome == Outcome::Passed;
        ensure!(!passes || witness.sees(case.marker), "{} did not arrive while nobody ran", case.name);
        ensure!(passes || !witness.has_seen(case.marker), "{} arrived while nobody ran", case.name);
    }

    stage.gates = backend.open(stage.pins.path())?;
    ensure!(stage.is_attached()?, "the gate was not adopted");
    ensure!(stage.gates.gates()? == [stage.world.gate()]);
    ensure!(stage.counted(Direction::FromBottle, Outcome::Passed)? > passed, "the count began anew");
    ensure!(!stage.gates.drop_events(1000)?.is_empty(), "what was reported while nobody ran is lost");
    stage.attach(&stage.world.gate())?;
    stage.check_all(|case| case.outcome)?;
    stage.detach()?;
    ensure!(!stage.is_attached()?);
    let links = fs::read_dir(stage.pins.path().join("links"))?.count();
    ensure!(links == 0, "{links} links are left");
    Ok(())
}

/// Set for the copy of this test binary that is to be killed: what it attaches, to what.
const LOADER: &str = "EGRESS_TEST_LOADER";

fn gates_outlive_a_loader_that_is_killed(backend: Backend) -> Result<()> {
    let stage = Stage::new(backend)?;
    let arguments = ["--exact", "the_loader_that_is_killed"];
    let order = format!("{backend:?} {} {}", stage.world.interface.0, stage.pins.path().display());
    let status = stage
        .world
        .host
        .run(|| Ok(Command::new(env::current_exe()?).args(arguments).env(LOADER, &order).output()?.status))?;
    ensure!(!status.success(), "the loader was to be killed");
    ensure!(stage.is_attached()?, "the gate died with its loader");
    stage.check_all(|case| case.outcome)
}

/// A process of its own, started by `gates_outlive_a_loader_that_is_killed`; otherwise it has nothing to do.
#[test]
fn the_loader_that_is_killed() -> Result<()> {
    let Ok(order) = env::var(LOADER) else { return Ok(()) };
    let words: Vec<&str> = order.split_whitespace().collect();
    let [backend, interface, pins] = words[..] else { bail!("an order is three words") };
    let backend = if backend == "Tcx" { Backend::Tcx } else { Backend::Clsact };
    let gates = backend.open(Path::new(pins))?;
    gates.attach(&gate(IfIndex(interface.parse()?)))?;
    std::process::abort()
}

fn drops_are_reported_but_not_all_of_them(backend: Backend) -> Result<()> {
    const SENT: usize = 200;
    let stage = Stage::attached(backend)?;
    let case = frames::from_bottle().into_iter().find(|case| case.name == "QUIC").context("the case")?;
    for _ in 0..SENT {
        stage.world.send(Direction::FromBottle, &case.frame)?;
    }
    ensure!(until(PATIENCE, || stage
        .counted(Direction::FromBottle, Outcome::Port)
        .is_ok_and(|seen| seen >= SENT as u64)));
    let few = stage.gates.drop_events(3)?;
    ensure!(few.len() == 3, "asked for 3, got {}", few.len());
    let event = few[0];
    assert_eq!((event.direction, event.outcome), (Direction::FromBottle, Outcome::Port));
    assert_eq!((event.ifindex, event.bottle_id), (stage.world.interface.0, BOTTLE_ID.0));
    assert_eq!((event.source, event.destination, event.protocol), (BOTTLE, GATEWAY, 17));
    assert_eq!((event.ether_type, event.destination_port), (0x0800, 443));
    assert_eq!(usize::try_from(event.length)?, case.frame.len());
    assert!(event.at_ns > 0);
    // Sending may have taken more than one window.
    let reported = few.len() + stage.gates.drop_events(usize::MAX)?.len();
    ensure!(reported < SENT, "every drop was reported");
    ensure!(reported >= DROP_EVENTS_PER_WINDOW as usize, "only {reported} drops were reported");
    ensure!(stage.gates.drop_events(10)?.is_empty());
    Ok(())
}

fn tools_read_names(backend: Backend) -> Result<()> {
    let stage = Stage::attached(backend)?;
    let dump = |map: &str| command("bpftool", &format!("map dump pinned {}/{map}", stage.pins.path().display()));
    let has = |text: &str, words: &[&str]| words.iter().all(|word| text.contains(word));
    let gates = dump("gates")?;
    ensure!(has(&gates, &["\"state\": \"Open\"", "\"cut_reason\": \"NotCut\"", "\"bottle_id\": 42"]), "{gates}");
    stage.set(GateStatus::Cut(CutReason::Budget))?;
    let gates = dump("gates")?;
    ensure!(has(&gates, &["\"state\": \"Cut\"", "\"cut_reason\": \"Budget\"", "\"changed_at_ns\":"]), "{gates}");
    stage.world.send(Direction::FromBottle, &frames::from_bottle()[0].frame)?;
    let named = || {
        let counters = dump("counters").unwrap_or_default();
        has(&counters, &["\"direction\": \"FromBottle\"", "\"outcome\": \"Cut\"", "\"packets\": 1"])
    };
    ensure!(until(PATIENCE, named), "{}", dump("counters")?);
    Ok(())
}

fn a_gate_taken_off_behind_our_back_is_missed(backend: Backend) -> Result<()> {
    let stage = Stage::attached(backend)?;
    ensure!(stage.is_attached()?);
    let interface = stage.world.interface.0;
    match backend {
        Backend::Tcx => fs::remove_file(stage.pins.path().join(format!("links/{interface}-egress")))?,
        Backend::Clsact | Backend::Fake => {
            stage.world.host.run(|| command("tc", "filter del dev gate0 egress"))?;
        }
    }
    ensure!(until(PATIENCE, || stage.is_attached().is_ok_and(|attached| !attached)), "nobody noticed");
    stage.attach(&stage.world.gate())?;
    ensure!(stage.is_attached()?);
    stage.check_all(|case| case.outcome)
}

fn an_interface_with_a_number_that_was_used_before_starts_anew(backend: Backend) -> Result<()> {
    let mut stage = Stage::attached(backend)?;
    stage.check_all(|case| case.outcome)?;
    stage.world.host.ip("link del gate0")?;
    ensure!(!stage.is_attached()?);
    let used = stage.world.interface;
    stage.world.plug_in(used.0)?;
    ensure!(stage.world.interface == used);
    ensure!(!stage.is_attached()?, "the new interface passes for the old one");

    let newcomer = Gate { bottle: BottleId(43), ..stage.world.gate() };
    stage.attach(&newcomer)?;
    ensure!(stage.is_attached()?);
    ensure!(stage.gates.gates()? == [newcomer]);
    ensure!(stage.counted(Direction::FromBottle, Outcome::Vlan)? == 0, "it has the old one's count");
    stage.check_all(|case| case.outcome)?;

    stage.world.host.ip("link del gate0")?;
    stage.detach()?;
    ensure!(stage.gates.gates()?.is_empty());
    Ok(())
}

/// Passing is not the last word: what others have attached behind the gate is still asked.
fn other_programs_still_see_what_passed(backend: Backend) -> Result<()> {
    let stage = Stage::attached(backend)?;
    let case = &frames::from_bottle()[0];
    stage.check(Direction::FromBottle, case, Outcome::Passed)?;
    // Any program that drops will do: the gate's own for the other direction does, on this side.
    let other = stage.pins.path().join("other");
    let program = if backend == Backend::Tcx {
        let link = stage.pins.path().join(format!("links/{}-egress", stage.world.interface.0));
        first_number(&command("bpftool", &format!("-j link show pinned {}", link.display()))?, "prog_id")?
    } else {
        first_number(&stage.world.host.run(|| command("tc", "-j filter show dev gate0 egress"))?, "id")?
    };
    command("bpftool", &format!("prog pin id {program} {}", other.display()))?;
    stage.world.host.run(|| {
        command("tc", "qdisc add dev gate0 clsact").ok();
        command("tc", &format!("filter add dev gate0 ingress prio 9 bpf da object-pinned {}", other.display()))
    })?;
    let witness = stage.world.witness_at_host()?;
    stage.world.send(Direction::FromBottle, &case.frame)?;
    thread::sleep(SHORTLY);
    ensure!(!witness.has_seen(case.marker), "the gate let it past a filter that drops");
    Ok(())
}

fn maps_of_another_version_are_not_adopted(backend: Backend) -> Result<()> {
    let mut stage = Stage::attached(backend)?;
    stage.gates = Backend::Fake.open(Path::new(""))?;
    let abi = stage.pins.path().join("abi");
    command("bpftool", &format!("map update pinned {} key 0 0 0 0 value 99 0 0 0", abi.display()))?;
    let Err(error) = backend.open(stage.pins.path()) else { bail!("another version was adopted") };
    let version = error.downcast_ref::<KernelError>();
    ensure!(matches!(version, Some(KernelError::Version { found: 99, wanted: 2, .. })), "{error:#}");
    Ok(())
}

/// The first number under this key anywhere in a tool's JSON.
fn first_number(json: &str, key: &str) -> Result<u64> {
    let mut rest = vec![serde_json::from_str::<serde_json::Value>(json)?];
    while let Some(value) = rest.pop() {
        if let Some(number) = value.get(key).and_then(serde_json::Value::as_u64) {
            return Ok(number);
        }
        if let serde_json::Value::Array(values) = value {
            rest.extend(values);
        } else if let serde_json::Value::Object(fields) = value {
            rest.extend(fields.into_iter().map(|(_, value)| value));
        }
    }
    bail!("no {key} in {json}")
}

fn connect(port: u16, patience: Duration) -> Result<TcpStream> {
    Ok(TcpStream::connect_timeout(&(address(GATEWAY), port).into(), patience)?)
}

/// Says something on one end and waits for it on the other.
fn exchange(from: &mut TcpStream, to: &mut TcpStream, patience: Duration) -> Result<()> {
    to.set_read_timeout(Some(patience))?;
    from.write_all(b"hello")?;
    let mut heard = [0; 5];
    to.read_exact(&mut heard)?;
    Ok(())
}
