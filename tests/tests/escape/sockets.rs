//! Real root in the namespace of a real bottle, with the daemon, another bottle, a provider and listeners that are none of its
//! business: what ordinary sockets can be made to reach.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use egress_userspace::doctor::attacks::{self, Parties};
use harness::gate::Backend;
use harness::packet::{ALL, IPV4, RawSocket, Wire};
use harness::world::{Bottle, GATEWAY, PATIENCE, World, until};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;

use super::table::Table;

/// How long a connection that must not come about may take.
const SHORTLY: Duration = Duration::from_millis(250);
/// How long something may take to be counted that has been dropped.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);
/// Another address of the host, and where clouds have their credentials.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Where a provider is, for this host.
const PROVIDER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Nobody's, in the bottles' network.
const SPOOFED: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 77);
/// What would be told to the world in a name.
const SECRET: &str = "tunnelledsecret";

/// The host, with an attacker and a victim.
struct Scene {
    world: World,
    attacker: Ipv4Addr,
    victim: Ipv4Addr,
    listeners: Vec<TcpListener>,
    _bottles: [Bottle; 2],
}

pub(crate) fn attack(backend: Backend, table: &mut Table) -> Result<()> {
    let scene = Scene::new(backend)?;
    for (name, target) in scene.targets()? {
        table.row(name, "dropped", scene.is_out_of_reach(target));
    }
    let targets = scene.targets()?;
    let (_, beyond) = targets.first().context("a target")?;
    for (name, trick) in TRICKS {
        table.row(format!("{name}, to the provider"), "dropped", scene.trick_fails(*beyond, *trick));
        let gateway = SocketAddr::from((GATEWAY, 22));
        table.row(format!("{name}, to the gateway's ssh"), "dropped", scene.trick_fails(gateway, *trick));
    }
    for (name, source) in [("nobody's address", SPOOFED), ("the victim's address", scene.victim)] {
        table.row(name, "dropped", scene.spoofing_fails(source));
    }
    for (name, kind) in [("TXT", 16), ("NULL", 10), ("ANY", 255), ("A", 1), ("HTTPS", 65)] {
        table.row(format!("a tunnel of DNS questions for {name}"), "refused", scene.dns_tells_nobody(kind));
    }
    for target in ["169.254.169.254:80", "10.99.0.1:22", "127.0.0.1:22", "[::1]:22", "unlisted.example:443"] {
        table.row(format!("CONNECT {target}"), "refused", scene.connect_is_refused(target));
    }
    table.row("odd segments to a port that was given", "no data", scene.odd_segments_get_no_data());
    table.row("what is allowed, after all that", "answered", scene.is_served());
    Ok(())
}

/// What a socket is told before it connects.
#[derive(Clone, Copy)]
enum Trick {
    Nothing,
    Device,
    Mark,
    Priority,
    Transparent,
    Freebind,
    Service,
}

const TRICKS: &[(&str, Trick)] = &[
    ("plain TCP", Trick::Nothing),
    ("SO_BINDTODEVICE", Trick::Device),
    ("SO_MARK", Trick::Mark),
    ("SO_PRIORITY", Trick::Priority),
    ("IP_TRANSPARENT", Trick::Transparent),
    ("IP_FREEBIND", Trick::Freebind),
    ("IP_TOS", Trick::Service),
];

impl Scene {
    fn new(backend: Backend) -> Result<Self> {
        let (enforcer, hook) = match backend {
            Backend::Clsact => ("ebpf", "clsact"),
            Backend::Tcx | Backend::Fake => ("ebpf", "tcx"),
            Backend::Nftables => ("nftables", "auto"),
        };
        let mut world = World::prepare(&format!("enforcer: {enforcer}"))?;
        world.daemon_arguments = vec!["--attach".to_owned(), hook.to_owned()];
        for address in [OTHER, METADATA, PROVIDER] {
            world.host.ip(&format!("address add {address}/32 dev lo"))?;
        }
        // Whatever were to be asked of a resolver outside would be seen here.
        world.host.ip("route add default dev lo")?;
        // An address of loopback is no safer than any other, where somebody has asked for that.
        world.host.run(|| Ok(std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")?))?;
        world.host.run(|| Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?))?;
        world.start_daemon()?;
        let bottles = [world.shell("attacker", &[])?, world.shell("victim", &[])?];
        let address = |name: &str| -> Result<Ipv4Addr> { world.bottle(name)?.address.context("an address") };
        let (attacker, victim) = (address("attacker")?, address("victim")?);
        let mut scene = Self { world, attacker, victim, listeners: Vec::new(), _bottles: bottles };
        for at in [
            (PROVIDER, 443),
            (GATEWAY, 22),
            (OTHER, 22),
            (OTHER, 443),
            (OTHER, 8080),
            (METADATA, 80),
            (Ipv4Addr::LOCALHOST, 22),
        ] {
            scene.listeners.push(scene.world.host.run(|| Ok(TcpListener::bind(at)?))?);
        }
        let at = (victim, 7777);
        scene.listeners.push(scene.inside("victim", || Ok(TcpListener::bind(at)?))?);
        for listener in &scene.listeners {
            listener.set_nonblocking(true)?;
        }
        Ok(scene)
    }

    fn targets(&self) -> Result<Vec<(&'static str, SocketAddr)>> {
        let at = |address: Ipv4Addr, port: u16| SocketAddr::from((address, port));
        Ok(vec![
            ("a provider by its address", at(PROVIDER, 443)),
            ("the host's ssh on the gateway", at(GATEWAY, 22)),
            ("the host's ssh on another address", at(OTHER, 22)),
            ("the TLS port on another address", at(OTHER, 443)),
            ("the proxy's port on another address", at(OTHER, 8080)),
            ("the metadata address", at(METADATA, 80)),
            ("another bottle", at(self.victim, 7777)),
        ])
    }

    /// Runs work in a bottle's network namespace, as the host's root.
    fn inside<T: Send>(&self, bottle: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.world.names.run.join("bottles").join(bottle).join("netns");
        let namespace = File::open(&path).with_context(|| path.display().to_string())?;
        let body = || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            work()
        };
        thread::scope(|scope| scope.spawn(body).join()).map_err(|_| anyhow!("the thread in the bottle panicked"))?
    }

    fn dropped(&self) -> Result<u64> {
        Ok(self.world.bottle("attacker")?.dropped_packets)
    }

    /// The host gets there; the attacker does not, and that is counted.
    fn is_out_of_reach(&self, target: SocketAddr) -> Result<()> {
        // The other bottle may not be reached from the host either: its gate has two sides.
        if target.ip() == IpAddr::V4(self.victim) {
            self.inside("victim", || Ok(TcpStream::connect_timeout(&target, PATIENCE)?))?;
        } else {
            self.world.host.run(|| Ok(TcpStream::connect_timeout(&target, PATIENCE)?)).context("nobody listens")?;
        }
        self.forget_connections();
        self.fails(target, Trick::Nothing)
    }

    /// The trick does no harm to what is allowed, and makes nothing else so.
    fn trick_fails(&self, target: SocketAddr, trick: Trick) -> Result<()> {
        let allowed = SocketAddr::from((GATEWAY, 443));
        self.inside("attacker", || open(allowed, trick, None)).context("the port that was given")?;
        self.forget_connections();
        self.fails(target, trick)
    }

    fn fails(&self, target: SocketAddr, trick: Trick) -> Result<()> {
        let before = self.dropped()?;
        let connected = self.inside("attacker", || Ok(open(target, trick, None)))?;
        ensure!(connected.is_err(), "CONNECTED to {target}");
        ensure!(self.listeners.iter().all(|listener| listener.accept().is_err()), "ACCEPTED");
        until("it is counted", COUNTED_WITHIN, || Ok(self.dropped()? > before))
    }

    fn forget_connections(&self) {
        self.listeners.iter().for_each(|listener| while listener.accept().is_ok() {});
    }

    /// From an address that is not the bottle's, to a port that it was given.
    fn spoofing_fails(&self, source: Ipv4Addr) -> Result<()> {
        let before = self.dropped()?;
        let target = SocketAddr::from((GATEWAY, 443));
        self.inside("attacker", || open(target, Trick::Transparent, Some(self.attacker))).context("as itself")?;
        let connected = self.inside("attacker", || Ok(open(target, Trick::Transparent, Some(source))))?;
        ensure!(connected.is_err(), "CONNECTED as {source}");
        until("it is counted", COUNTED_WITHIN, || Ok(self.dropped()? > before))
    }

    /// The resolver answers by itself, with nothing.
    fn dns_tells_nobody(&self, kind: u16) -> Result<()> {
        let witness = self.world.host.run(|| Ok(RawSocket::open(ALL)?))?;
        let answer = self.inside("attacker", || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(&question(kind), (GATEWAY, 53))?;
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer).context("no answer")?;
            Ok(answer.get(..length).unwrap_or_default().to_vec())
        })?;
        let (code, answers) = (answer.get(3).map(|byte| byte & 15), answer.get(6..8));
        ensure!(answers == Some(&[0, 0]), "it was answered: {answer:?}");
        ensure!(matches!(code, Some(3..=5)), "it was not refused: {answer:?}");
        let mut told = 0;
        witness.receive(|frame| {
            let is_asked = frame.windows(SECRET.len()).any(|window| window.eq_ignore_ascii_case(SECRET.as_bytes()));
            let parties = [self.attacker.octets(), GATEWAY.octets()].concat();
            let mirrored = [GATEWAY.octets(), self.attacker.octets()].concat();
            let between = frame.get(26..34).is_some_and(|ends| ends == parties || ends == mirrored);
            told += usize::from(is_asked && !between);
        });
        ensure!(told == 0, "TOLD {told} times");
        Ok(())
    }

    fn connect_is_refused(&self, target: &str) -> Result<()> {
        self.forget_connections();
        let answer = self.inside("attacker", || {
            let mut stream = TcpStream::connect_timeout(&(GATEWAY, 8080).into(), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\nGET / HTTP/1.1\r\n\r\n")?;
            let mut answer = vec![0; 1024];
            let length = stream.read(&mut answer).unwrap_or(0);
            Ok(String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned())
        })?;
        thread::sleep(Duration::from_millis(20));
        ensure!(self.listeners.iter().all(|listener| listener.accept().is_err()), "ACCEPTED");
        ensure!(!answer.contains(" 200 ") || target.starts_with("unlisted"), "{answer}");
        Ok(())
    }

    /// The host's TCP answers to some of them; nothing that is said in a connection is among that.
    fn odd_segments_get_no_data(&self) -> Result<()> {
        let host_mac = self.world.host.run(|| {
            let interface = nix::net::if_::if_nametoindex("eg-attacker")?;
            Wire::find(interface)?.mac().context("a hardware address")
        })?;
        let data = self.inside("attacker", || {
            let wire = Wire::find(nix::net::if_::if_nametoindex("eth0")?)?;
            let (out, witness) = (RawSocket::open(0)?, RawSocket::open(IPV4)?);
            let parties = Parties {
                bottle: self.attacker.octets(),
                bottle_mac: wire.mac().context("a hardware address")?,
                gateway: GATEWAY.octets(),
                host_mac,
                host: OTHER.octets(),
                stranger: self.victim.octets(),
                ..harness::gate::PARTIES
            };
            attacks::further(&parties).iter().try_for_each(|attempt| out.send(&wire, &attempt.frame))?;
            thread::sleep(SHORTLY);
            let mut data = 0;
            witness.receive(|frame| {
                let total =
                    frame.get(16..18).into_iter().flatten().fold(0, |total, byte| total << 8 | usize::from(*byte));
                let header = frame.get(46).map_or(0, |byte| usize::from(byte >> 4) * 4);
                let is_tcp = frame.get(23) == Some(&6) && frame.get(34..36) == Some(&8080_u16.to_be_bytes());
                data += if is_tcp { total.saturating_sub(20 + header) } else { 0 };
            });
            Ok(data)
        })?;
        ensure!(data == 0, "{data} BYTES of data");
        Ok(())
    }

    fn is_served(&self) -> Result<()> {
        let said = self.inside("attacker", || {
            let mut stream = TcpStream::connect_timeout(&(GATEWAY, 80).into(), PATIENCE)?;
            write!(stream, "GET /healthz HTTP/1.1\r\nhost: _egress.local\r\nconnection: close\r\n\r\n")?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said)
        })?;
        ensure!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("ok"), "{said}");
        Ok(())
    }
}

/// Connects with a trick, from an address that may not be one's own.
fn open(target: SocketAddr, trick: Trick, source: Option<Ipv4Addr>) -> Result<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let seconds = TimeVal::new(0, i64::try_from(SHORTLY.as_micros())?);
    setsockopt(&fd, sockopt::SendTimeout, &seconds)?;
    play(&fd, trick)?;
    if let Some(source) = source {
        bind(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(source, 0)))?;
    }
    let SocketAddr::V4(target) = target else { return Err(anyhow!("{target} is no IPv4 address")) };
    connect(fd.as_raw_fd(), &SockaddrIn::from(target))?;
    Ok(TcpStream::from(fd))
}

fn play(fd: &OwnedFd, trick: Trick) -> Result<()> {
    match trick {
        Trick::Nothing => {}
        Trick::Device => setsockopt(fd, sockopt::BindToDevice, &"eth0".into())?,
        Trick::Mark => setsockopt(fd, sockopt::Mark, &0xffff)?,
        Trick::Priority => setsockopt(fd, sockopt::Priority, &7)?,
        Trick::Transparent => setsockopt(fd, sockopt::IpTransparent, &true)?,
        Trick::Freebind => setsockopt(fd, sockopt::IpFreebind, &true)?,
        Trick::Service => setsockopt(fd, sockopt::Ipv4Tos, &0xb8)?,
    }
    Ok(())
}

/// A question with the secret in a name of long labels.
fn question(kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let long = "x".repeat(63);
    for label in [SECRET, &long, &long, "tunnel", "example"] {
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}
