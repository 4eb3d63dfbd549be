//! A provider whose name is looked up in the public DNS, as it is without `upstream.resolve`: from inside the proxy's sandbox.
//!
//! "Public" addresses are in network namespaces of the test's own: the host, and a router beside it. Nothing leads out of them.

use std::fs;
use std::io::copy;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use std::time::Duration;

use anyhow::{Result, ensure};
use egress_userspace::domain::{AuditKind, Ending, Known, RefusalReason};
use harness::netns::NetNs;
use harness::world::{Answer, World, until};

use crate::prepared;

/// An address that `policy` takes for a public one, behind the router.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(5, 6, 7, 8);
/// Where a name must never lead.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The host's own, of a /24.
const OWN: Ipv4Addr = Ipv4Addr::new(5, 6, 6, 2);
/// The router's, in the same.
const BESIDE: Ipv4Addr = Ipv4Addr::new(5, 6, 6, 1);
/// One that the host gets while the daemon runs.
const NEW: Ipv4Addr = Ipv4Addr::new(5, 6, 8, 1);
/// Until the daemon knows where the host is.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest query the name server reads.
const QUERY_BYTES_MAX: usize = 512;

#[test]
fn a_public_name_is_dialled_only_at_a_public_address_of_others() -> Result<()> {
    let Some(mut world) = prepared("public names", "")? else { return Ok(()) };
    let router = with_router(&world)?;
    let answer = Arc::new(AtomicU32::new(METADATA.to_bits()));
    let names = world.host.run(|| Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 53))?))?;
    let answered = Arc::clone(&answer);
    thread::spawn(move || serve_names(&names, &answered));
    let provider = world.provider().address;
    for (place, address) in [(&world.host, METADATA), (&world.host, OWN), (&router, BESIDE), (&router, PUBLIC)] {
        let listener = place.run(|| Ok(TcpListener::bind((address, 443))?))?;
        let host = world.host.handle()?;
        thread::spawn(move || host.run(|| relay(&listener, provider)));
    }
    fs::write(world.names.home.join("settings.yml"), "upstream:\n  ca: provider-ca.pem\n")?;
    world.daemon_starter = with_resolver(&world.names.directory.join("resolv.conf"))?;
    world.start_daemon()?;

    let mut bottle = world.shell("web", &[])?;
    for address in [METADATA, OWN, BESIDE] {
        answer.store(address.to_bits(), Ordering::Relaxed);
        let refused = bottle.ask("claude-test")?;
        ensure!(is_refusal(&refused), "{address}: {refused:?}");
    }
    let told = world.audit(Some("web"))?;
    let is_told =
        |kind: &AuditKind| matches!(kind, AuditKind::RequestRefused { reason: RefusalReason::AddressNotPublic, .. });
    ensure!(told.iter().any(is_told), "{told:?}");
    ensure!(world.served().is_empty(), "a name led into the host or its network, and the proxy followed");
    let rows = world.rows("web")?;
    assert_eq!((rows[0].usage.total().0, rows[0].known, rows[0].ending), (0, Known::Reported, Ending::Error));

    answer.store(NEW.to_bits(), Ordering::Relaxed);
    let elsewhere = bottle.ask("claude-test")?;
    ensure!(!is_refusal(&elsewhere), "{elsewhere:?}");
    world.host.ip(&format!("addr add {NEW}/32 dev lo"))?;
    until("the host's new address is refused", PATIENCE, || Ok(is_refusal(&bottle.ask("claude-test")?)))?;

    answer.store(PUBLIC.to_bits(), Ordering::Relaxed);
    let answered = bottle.ask("claude-test")?;
    ensure!(answered.status == 200, "{answered:?} {}", world.log_tail());
    assert_eq!(world.served().len(), 1);
    Ok(())
}

fn is_refusal(answer: &Answer) -> bool {
    answer.status == 403 && answer.body.contains("address_not_public")
}

/// Gives the host its addresses, and a router beside it.
fn with_router(world: &World) -> Result<NetNs> {
    let router = NetNs::new()?;
    world.host.ip(&format!("link add out0 type veth peer name in0 netns {}", router.path()))?;
    for (place, words) in [
        (&world.host, format!("addr add {METADATA}/32 dev lo")),
        (&world.host, format!("addr add {OWN}/24 dev out0")),
        (&world.host, "link set out0 up".to_owned()),
        (&router, format!("addr add {BESIDE}/24 dev in0")),
        (&router, format!("addr add {PUBLIC}/32 dev lo")),
        (&router, "link set in0 up".to_owned()),
        (&world.host, format!("route add {PUBLIC}/32 via {BESIDE}")),
    ] {
        place.ip(&words)?;
    }
    Ok(router)
}

/// Starts a program with another `/etc/resolv.conf`, for itself alone.
fn with_resolver(file: &std::path::Path) -> Result<Vec<String>> {
    fs::write(file, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o644))?;
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    Ok(["unshare", "--mount", "sh", "-c", script]
        .map(str::to_owned)
        .into_iter()
        .chain([file.display().to_string()])
        .collect())
}

/// Answers each question of type A with the address of the moment, for no time at all; any other with nothing.
fn serve_names(socket: &UdpSocket, address: &AtomicU32) {
    let mut query = [0; QUERY_BYTES_MAX];
    while let Ok((length, from)) = socket.recv_from(&mut query) {
        // The question: labels up to an empty one, then type and class (RFC 1035 §4.1.2).
        let Some(name) = query[12..length].iter().position(|byte| *byte == 0) else { continue };
        let question = &query[12..(12 + name + 5).min(length)];
        let is_a = question[name + 1..].starts_with(&[0, 1]);
        let mut reply = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0], question].concat();
        if is_a {
            let octets = Ipv4Addr::from_bits(address.load(Ordering::Relaxed)).octets();
            reply.extend([&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4][..], &octets].concat());
        }
        // A resolver that has gone asks again.
        let _ = socket.send_to(&reply, from);
    }
}

/// Carries connections to the provider until the listener fails.
fn relay(listener: &TcpListener, provider: SocketAddr) -> Result<()> {
    loop {
        let (near, _) = listener.accept()?;
        let far = TcpStream::connect(provider)?;
        let (near_too, far_too) = (near.try_clone()?, far.try_clone()?);
        thread::spawn(move || carry(near, far));
        thread::spawn(move || carry(far_too, near_too));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    // Either end may break off.
    let _ = copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}
