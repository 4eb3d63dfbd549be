//! What every gate must do, whatever it is made of: one suite over all backends, on the real kernel.
//!
//! Every item of the promise is an attack here, made by root in the bottle, that must fail and be counted as what it is.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, and helpers of tests are tests"
)]

mod alike;
mod frames;
mod programs;
mod reset;
mod stage;
mod tables;

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
use harness::gate::{BOTTLE, BOTTLE_ID, Backend, DNS_PORT, GATEWAY, PATIENCE, TCP_PORTS, address, gate, until};
use harness::netns::command;
use harness::privilege::is_root;
use programs::{a_program_of_another_version_is_missed, nothing_comes_before_a_gate};
use reset::{
    clients_of_a_cut_bottle_fail_at_once, nothing_but_resets_passes_a_cut_gate, resets_are_limited,
    the_hosts_resets_reach_a_cut_bottle,
};
use stage::Stage;
use tables::{
    a_table_that_is_held_is_nobody_elses, a_table_that_is_let_go_of_is_taken, a_table_that_sleeps_is_missed_and_woken,
    an_interface_under_another_name_is_missed, any_tampering_is_missed, others_flush_their_tables_and_not_ours,
};

/// How long something that must not happen is waited for.
const SHORTLY: Duration = Duration::from_millis(300);

/// One test per backend for every scenario that needs packets.
macro_rules! on_the_kernel {
    ($($module:ident: $backend:ident { $($scenario:ident)* })*) => {
        $(mod $module {
            $(#[test] fn $scenario() -> anyhow::Result<()> {
                let name = concat!(stringify!($module), "::", stringify!($scenario));
                super::play(name, super::Backend::$backend, super::$scenario)
            })*
        })*
    };
}

/// What every backend does, and what is one backend's own.
macro_rules! scenarios {
    ($($module:ident: $backend:ident { $($own:ident)* })*) => {
        on_the_kernel! { $($module: $backend {
            $($own)*
            every_packet_meets_its_outcome
            a_cut_gate_passes_nothing
            a_gate_without_an_entry_passes_nothing
            real_clients_reach_the_gateway_and_nothing_else
            a_cut_stops_an_open_connection_at_once
            many_gates_are_set_at_once
            nothing_but_resets_passes_a_cut_gate
            clients_of_a_cut_bottle_fail_at_once
            the_hosts_resets_reach_a_cut_bottle
            resets_are_limited
            gates_outlive_their_loader
            gates_outlive_a_loader_that_is_killed
            tools_read_names
            a_gate_taken_off_behind_our_back_is_missed
            an_interface_with_a_number_that_was_used_before_starts_anew
            other_programs_still_see_what_passed
            state_on_a_real_interface
        })* }
    };
}

scenarios! {
    tcx: Tcx {
        drops_are_reported_but_not_all_of_them
        maps_of_another_version_are_not_adopted
        a_program_of_another_version_is_missed
        nothing_comes_before_a_gate
    }
    clsact: Clsact {
        drops_are_reported_but_not_all_of_them
        maps_of_another_version_are_not_adopted
        a_program_of_another_version_is_missed
        nothing_comes_before_a_gate
    }
    nftables: Nftables {
        any_tampering_is_missed
        others_flush_their_tables_and_not_ours
        a_table_that_is_held_is_nobody_elses
        a_table_that_is_let_go_of_is_taken
        a_table_that_sleeps_is_missed_and_woken
        an_interface_under_another_name_is_missed
    }
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
    let mut stage = Stage::attached(backend)?;
    if backend == Backend::Nftables {
        return tables::a_gate_without_rules_passes_nothing(&mut stage);
    }
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

fn many_gates_are_set_at_once(backend: Backend) -> Result<()> {
    let stage = Stage::attached(backend)?;
    stage.world.host.ip("link add other0 type veth peer name other1")?;
    let other = IfIndex(stage.world.host.interface("other0")?);
    let mut gates = [stage.world.gate(), Gate { bottle: BottleId(43), ..gate(other) }];
    gates.sort_by_key(|gate| gate.interface);
    stage.attach(&gates[0])?;
    stage.attach(&gates[1])?;
    let status = |status| gates.clone().map(|gate| Gate { status, ..gate });
    let set = |status| stage.gates.set_many(&gates.clone().map(|gate| (gate.interface, status)));

    set(GateStatus::Cut(CutReason::Budget))?;
    assert_eq!(stage.gates.gates()?, status(GateStatus::Cut(CutReason::Budget)));
    set(GateStatus::Open)?;
    assert_eq!(stage.gates.gates()?, status(GateStatus::Open));

    let missing = IfIndex(9999);
    let cut = GateStatus::Cut(CutReason::Operator);
    let outcome = stage.gates.set_many(&[(missing, cut), (gates[0].interface, cut), (gates[1].interface, cut)]);
    assert!(matches!(outcome, Err(KernelError::NoGate(found)) if found == missing), "{outcome:?}");
    assert_eq!(stage.gates.gates()?, status(cut));
    stage.check_all(|_| Outcome::Cut)
}

fn gates_outlive_their_loader(backend: Backend) -> Result<()> {
    let mut stage = Stage::attached(backend)?;
    stage.check_all(|case| case.outcome)?;
    let passed = stage.counted(Direction::FromBottle, Outcome::Passed)?;

    // Something else in the meantime: the first value is gone before the second is made.
    stage.close()?;
    let witness = stage.world.witness_at_host()?;
    for case in frames::from_bottle() {
        stage.world.send(Direction::FromBottle, &case.frame)?;
        let passes = case.outcome == Outcome::Passed;
        ensure!(!passes || witness.sees(case.marker), "{} did not arrive while nobody ran", case.name);
        ensure!(passes || !witness.has_seen(case.marker), "{} arrived while nobody ran", case.name);
    }

    stage.reopen()?;
    ensure!(stage.is_attached()?, "the gate was not adopted");
    ensure!(stage.gates.gates()? == [stage.world.gate()]);
    ensure!(stage.counted(Direction::FromBottle, Outcome::Passed)? > passed, "the count began anew");
    let has_events = backend != Backend::Nftables;
    ensure!(stage.gates.drop_events(1000)?.is_empty() != has_events, "what was reported while nobody ran is lost");
    stage.attach(&stage.world.gate())?;
    stage.check_all(|case| case.outcome)?;
    stage.detach()?;
    ensure!(!stage.is_attached()?);
    let left = match backend {
        Backend::Nftables => stage.world.host.run(|| command("nft", "list ruleset"))?,
        Backend::Tcx | Backend::Clsact | Backend::Fake => {
            fs::read_dir(stage.pins.path().join("links"))?.map(|link| format!("{link:?}")).collect()
        }
    };
    ensure!(left.is_empty(), "left: {left}");
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
    let known = [Backend::Tcx, Backend::Clsact, Backend::Nftables];
    let backend = known.into_iter().find(|known| format!("{known:?}") == backend).context("a backend")?;
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
    if backend == Backend::Nftables {
        return tables::nft_reads_names(&stage);
    }
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
        has(&counters, &["\"from_bottle\":", "\"cut\":", "\"packets\": 1"])
    };
    ensure!(until(PATIENCE, named), "{}", dump("counters")?);
    Ok(())
}

fn a_gate_taken_off_behind_our_back_is_missed(backend: Backend) -> Result<()> {
    let mut stage = Stage::attached(backend)?;
    ensure!(stage.is_attached()?);
    let interface = stage.world.interface.0;
    match backend {
        Backend::Tcx => fs::remove_file(stage.pins.path().join(format!("links/{interface}-egress")))?,
        Backend::Clsact | Backend::Fake => {
            stage.world.host.run(|| command("tc", "filter del dev gate0 egress"))?;
        }
        Backend::Nftables => tables::behind_our_back(&mut stage, "flush ruleset")?,
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
    if backend == Backend::Nftables {
        return tables::other_tables_still_see_what_passed(&stage, case);
    }
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
    stage.close()?;
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
