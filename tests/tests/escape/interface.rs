//! What root does to the bottle's end of the veth, and behind it: none of it makes a packet that the gate lets through.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_common::{Direction, Outcome};
use egress_userspace::doctor::attacks;
use harness::gate::{Backend, PARTIES, World};
use harness::netns::NetNs;
use harness::packet::Marker;

use super::stage::Stage;
use super::table::Table;

/// How long a packet that must not arrive is waited for.
const SHORTLY: Duration = Duration::from_millis(60);

/// Something that changes what leaves the bottle, in words of `ip` and `tc`, and then a datagram.
struct Move {
    name: &'static str,
    steps: &'static [&'static str],
    /// Done at the host, so that it could arrive.
    at_host: &'static [&'static str],
    source: &'static str,
    destination: &'static str,
    bytes: usize,
}

const GATEWAY: &str = "10.213.0.1";
const OWN: &str = "10.213.0.2";
const OTHER: &str = "10.213.0.77";
const PLAIN: Move = Move { name: "", steps: &[], at_host: &[], source: OTHER, destination: GATEWAY, bytes: 64 };

/// `%` is the interface that the datagram is to leave by.
const MOVES: &[Move] = &[
    Move {
        name: "another hardware address of the inner end",
        steps: &[
            "ip link set eth0 down",
            "ip link set eth0 address 02:00:0a:d5:00:4d",
            "ip link set eth0 up",
            VIA_ETH0,
        ],
        source: OWN,
        ..PLAIN
    },
    Move { name: "a second address", steps: &["ip address add 10.213.0.77/32 dev eth0"], ..PLAIN },
    Move {
        name: "another address in place of its own",
        steps: &["ip address flush dev eth0", "ip address add 10.213.0.77/32 dev eth0", VIA_ETH0],
        ..PLAIN
    },
    Move {
        name: "a macvlan",
        steps: &["ip link add link eth0 name x0 type macvlan mode bridge", VIA_X0, X0_ADDRESS, X0_NEIGHBOUR, X0_ROUTE],
        ..PLAIN
    },
    Move {
        name: "an ipvlan",
        steps: &["ip link add link eth0 name x0 type ipvlan mode l2", VIA_X0, X0_ADDRESS, X0_NEIGHBOUR, X0_ROUTE],
        ..PLAIN
    },
    Move {
        name: "a VLAN's interface",
        steps: &["ip link add link eth0 name x0 type vlan id 5", VIA_X0, X0_ADDRESS, X0_NEIGHBOUR, X0_ROUTE],
        ..PLAIN
    },
    Move {
        name: "a bridge with an interface of its own",
        steps: &[
            "ip link add br0 type bridge",
            "ip link add x0 type veth peer name x1",
            "ip link set x1 master br0",
            "ip link set eth0 master br0",
            "ip link set br0 up",
            "ip link set x1 up",
            VIA_X0,
            X0_ADDRESS,
            X0_NEIGHBOUR,
            X0_ROUTE,
        ],
        ..PLAIN
    },
    Move {
        name: "an IP-in-IP interface",
        steps: &[
            "ip link add x0 type ipip remote 10.213.0.1 local 10.213.0.2",
            VIA_X0,
            X0_ADDRESS,
            "ip route add 192.0.2.1 dev x0",
        ],
        destination: "192.0.2.1",
        ..PLAIN
    },
    Move {
        name: "a GRE interface",
        steps: &[
            "ip link add x0 type gre remote 10.213.0.1 local 10.213.0.2",
            VIA_X0,
            X0_ADDRESS,
            "ip route add 192.0.2.1 dev x0",
        ],
        destination: "192.0.2.1",
        ..PLAIN
    },
    Move {
        name: "a VXLAN interface",
        steps: &[
            "ip link add x0 type vxlan id 7 remote 10.213.0.1 local 10.213.0.2 dstport 4789",
            VIA_X0,
            X0_ADDRESS,
            "ip neigh add 192.0.2.1 lladdr 02:00:0a:d5:00:01 dev x0",
            "ip route add 192.0.2.1 dev x0",
        ],
        destination: "192.0.2.1",
        ..PLAIN
    },
    Move {
        name: "tc pushes a tag",
        steps: &["tc qdisc add dev eth0 clsact", "tc filter add dev eth0 egress matchall action vlan push id 5"],
        source: OWN,
        ..PLAIN
    },
    Move {
        name: "tc changes the hardware address",
        steps: &[
            "tc qdisc add dev eth0 clsact",
            "tc filter add dev eth0 egress matchall action skbmod set smac 02:00:0a:d5:00:4d",
        ],
        source: OWN,
        ..PLAIN
    },
    Move {
        name: "tc redirects from an interface of its own",
        steps: &[
            "ip link add x0 type veth peer name x1",
            "ip link set x1 up",
            "tc qdisc add dev x1 clsact",
            "tc filter add dev x1 ingress matchall action mirred egress redirect dev eth0",
            VIA_X0,
            X0_ADDRESS,
            X0_NEIGHBOUR,
            X0_ROUTE,
        ],
        ..PLAIN
    },
    Move {
        name: "a jumbo frame",
        steps: &["ip link set eth0 mtu 9000"],
        at_host: &["ip link set gate0 mtu 9000"],
        source: OWN,
        destination: "10.213.0.9",
        bytes: 6000,
    },
    Move { name: "the smallest MTU: fragments", steps: &["ip link set eth0 mtu 68"], source: OWN, bytes: 600, ..PLAIN },
    Move {
        name: "routing for others",
        steps: &["ip link add x0 type veth peer name x1", VIA_X0, X0_ADDRESS, "sysctl -q net.ipv4.ip_forward=1"],
        ..PLAIN
    },
    Move {
        name: "the host's loopback by way of the gateway",
        steps: &[
            "sysctl -q net.ipv4.conf.all.route_localnet=1",
            "ip address del 127.0.0.1/8 dev lo",
            "ip rule del pref 0",
            "ip route add 127.0.0.1 via 10.213.0.1 dev eth0",
        ],
        source: OWN,
        destination: "127.0.0.1",
        ..PLAIN
    },
];

const VIA_ETH0: &str = "ip route replace 10.213.0.1 dev eth0";
const VIA_X0: &str = "ip link set x0 up";
const X0_ADDRESS: &str = "ip address add 10.213.0.77/32 dev x0";
const X0_NEIGHBOUR: &str = "ip neigh add 10.213.0.1 lladdr 02:00:0a:d5:00:01 dev x0";
const X0_ROUTE: &str = "ip route replace 10.213.0.1 dev x0";

/// What the tool says when the kernel was built without that kind of device or action.
const NOT_HERE: &[&str] = &[
    "Unknown device type",
    "TC classifier not found",
    "Operation not supported",
    "Not supported",
    "No such file or directory",
];

pub(crate) fn attack(backend: Backend, table: &mut Table) -> Result<()> {
    for one in MOVES {
        let stage = Stage::new(backend)?;
        match prepare(&stage.world, one) {
            Err(error) if is_not_here(&error) => table.not_here(one.name),
            Err(error) => table.row(one.name, "dropped", Err(error)),
            Ok(()) => table.row(one.name, "dropped", stays_in(&stage, one)),
        }
    }
    table.row("moved to a namespace of its child", "as before", moved_to_a_child(&Stage::new(backend)?));
    table.row("deleted and made again by its name", "nothing", made_again(&Stage::new(backend)?));
    table.row("promiscuous", "as before", promiscuous(&Stage::new(backend)?));
    Ok(())
}

fn is_not_here(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    NOT_HERE.iter().any(|reason| text.contains(reason))
}

fn prepare(world: &World, one: &Move) -> Result<()> {
    run(&world.host, one.at_host)?;
    run(&world.bottle, one.steps)
}

fn run(namespace: &NetNs, steps: &[&str]) -> Result<()> {
    steps.iter().try_for_each(|step| {
        let (program, words) = step.split_once(' ').context("a program and words")?;
        namespace.run(|| harness::netns::command(program, words)).map(drop)
    })
}

/// Without the gate the datagram comes out at the host; with it nothing of it does, and it is counted.
fn stays_in(stage: &Stage, one: &Move) -> Result<()> {
    let witness = stage.world.witness_of_all_at_host()?;
    let [free, gated] = [*b"a move, no gate.", *b"a move, and gate"];
    send(&stage.world, one, free)?;
    ensure!(witness.sees(free), "does not arrive without a gate either");
    stage.attach()?;
    let before = stage.dropped()?;
    send(&stage.world, one, gated)?;
    thread::sleep(SHORTLY);
    ensure!(!witness.has_seen(gated), "ARRIVED");
    ensure!(stage.dropped()? > before, "not counted: {:?}", stage.gates.counters(stage.world.interface)?);
    Ok(())
}

/// A datagram that begins with the marker, and so does every fragment of it.
fn send(world: &World, one: &Move, marker: Marker) -> Result<()> {
    world.bottle.run(|| {
        let socket = std::net::UdpSocket::bind((one.source, 0)).context("binding")?;
        let filling: Vec<u8> = marker.iter().copied().cycle().take(one.bytes).collect();
        Ok(socket.send_to(&filling, (one.destination, 9)).map(drop)?)
    })
}

fn moved_to_a_child(stage: &Stage) -> Result<()> {
    stage.attach()?;
    let child = NetNs::new()?;
    stage.world.bottle.ip(&format!("link set eth0 netns {}", child.path()))?;
    child.ip("link set eth0 up")?;
    let inner = child.interface("eth0")?;
    let witness = stage.world.witness_of_all_at_host()?;
    let line = World::line_in(&child, inner)?;
    for attempt in attacks::from_bottle(&PARTIES) {
        let sent = stage.check_sent(&witness, &attempt, attempt.outcome, || line.send(&attempt.frame));
        sent.context(attempt.name)?;
    }
    Ok(())
}

/// A veth goes with its other end. What has its name is not joined to the host.
fn made_again(stage: &Stage) -> Result<()> {
    stage.attach()?;
    let witness = stage.world.witness_of_all_at_host()?;
    stage.world.bottle.ip("link del eth0")?;
    ensure!(stage.world.host.interface("gate0").is_err(), "the host's end is there still");
    ensure!(!stage.is_attached()?, "a gate on nothing");
    stage.world.bottle.ip("link add eth0 type veth peer name eth1")?;
    run(&stage.world.bottle, &["ip link set eth0 up", "ip link set eth1 up"])?;
    let line = World::line_in(&stage.world.bottle, stage.world.bottle.interface("eth0")?)?;
    let attempts = attacks::from_bottle(&PARTIES);
    attempts.iter().try_for_each(|attempt| line.send(&attempt.frame))?;
    thread::sleep(SHORTLY);
    ensure!(attempts.iter().all(|attempt| !witness.has_seen(attempt.marker)), "ARRIVED");
    stage.detach()
}

fn promiscuous(stage: &Stage) -> Result<()> {
    run(&stage.world.bottle, &["ip link set eth0 promisc on"])?;
    stage.attach()?;
    let witness = stage.world.witness_in_bottle()?;
    for attempt in attacks::to_bottle(&PARTIES) {
        stage.world.send(Direction::ToBottle, &attempt.frame)?;
        if attempt.outcome == Outcome::Passed {
            ensure!(witness.sees(attempt.marker), "does not arrive: {}", attempt.name);
        } else {
            thread::sleep(Duration::from_millis(2));
            ensure!(!witness.has_seen(attempt.marker), "HEARD: {}", attempt.name);
        }
    }
    Ok(())
}
