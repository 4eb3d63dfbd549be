//! What a running container is given from outside: its network namespace is kept, its interface made, our CA and our
//! resolver are laid over the files that programs read.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, umount2};
use nix::net::if_::if_nameindex;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::bottle::native::files::{KEY_STORES, SYSTEM_BUNDLES, bundle, resolver};
use crate::bottle::native::{keystore, layout::Layout, wiring};
use crate::bottle::{BottleSpec, BuiltBottle, HostWiring};

const BUNDLE: &str = "bundle.pem";
const AUTHORITY: &str = "egress-ca.pem";
const KEY_STORE: &str = "cacerts.jks";
/// The resolver's settings, in our directory.
pub(super) const RESOLVER: &str = "resolv.conf";
/// Where programs look for them.
pub(super) const RESOLVER_PLACE: &str = "/etc/resolv.conf";

/// Interfaces that kernels put into every namespace: down, and leading nowhere.
const FALLBACKS: [&str; 11] =
    ["lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0", "ip6gretap0"];

/// Our CA and what else every bottle reads, below the bottle's directory.
pub(super) fn directory_of(layout: &Layout) -> PathBuf {
    layout.directory.join("ca")
}

/// Writes these files. Containers see them read-only.
pub(super) fn write_files(layout: &Layout, wiring: &HostWiring) -> io::Result<()> {
    let directory = directory_of(layout);
    fs::create_dir_all(&directory)?;
    let system = SYSTEM_BUNDLES.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let bundle = bundle(&system, &wiring.ca_pem);
    fs::write(directory.join(AUTHORITY), &wiring.ca_pem)?;
    fs::write(directory.join(KEY_STORE), keystore::from_pem(&bundle))?;
    fs::write(directory.join(BUNDLE), bundle)?;
    fs::write(directory.join(RESOLVER), resolver(wiring.gateway))
}

/// Which namespace this is, if there is one.
pub(super) fn number(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

/// A process's network namespace.
pub(super) fn network_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

/// The two namespaces of a container's first process that matter here. Open, they stay the container's even when its
/// process has ended and another got the number.
#[derive(Debug)]
pub(super) struct Namespaces {
    network: File,
    mounts: File,
}

impl Namespaces {
    /// Refuses this host's own.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let network = File::open(network_of(pid))?;
        if Some(network.metadata()?.ino()) == number(Path::new("/proc/self/ns/net")) {
            return Err(io::Error::other("it is in the host's own network namespace"));
        }
        Ok(Self { network, mounts: File::open(format!("/proc/{pid}/ns/mnt"))? })
    }
}

/// Gives a container its interface, in place of one that an earlier start of it had. The host's end is down.
pub(super) fn wire(
    spec: &BottleSpec,
    layout: &Layout,
    wiring: &HostWiring,
    namespaces: &Namespaces,
) -> io::Result<BuiltBottle> {
    wiring::delete_link(&layout.interface)?;
    layout.namespace.remove()?;
    layout.namespace.keep(&namespaces.network)?;
    layout.namespace.inside(refuse_others)?;
    let interface = &layout.interface;
    wiring::create_veth(interface, &layout.namespace.open()?, spec.mac)?;
    let gateway_mac = wiring::mac_of(interface)?;
    layout.namespace.inside(|| wiring::configure_inside(spec.address, wiring.gateway, &gateway_mac))?;
    if let Err(error) = furnish(layout, namespaces) {
        tracing::warn!(bottle = %spec.name, %error, "our CA and resolver are not laid over the container's files");
    }
    Ok(BuiltBottle { interface: wiring::existing(interface)?, interface_name: interface.clone() })
}

/// A stand-in for the interface of a container that does not run: it leads into an empty namespace.
pub(super) fn wire_nothing(layout: &Layout, mac: [u8; 6]) -> io::Result<()> {
    fs::create_dir_all(&layout.directory)?;
    wiring::delete_link(&layout.interface)?;
    layout.namespace.remove()?;
    layout.namespace.create()?;
    wiring::create_veth(&layout.interface, &layout.namespace.open()?, mac)
}

/// An interface beside ours would be a way around the gate.
fn refuse_others() -> io::Result<()> {
    let names = if_nameindex()?;
    let names = names.iter().map(|interface| interface.name().to_string_lossy().into_owned());
    let others: Vec<String> = names.filter(|name| !FALLBACKS.contains(&name.as_str())).collect();
    if others.is_empty() { Ok(()) } else { Err(io::Error::other(format!("it has other interfaces: {others:?}"))) }
}

/// What is laid over what.
fn covers(layout: &Layout) -> Vec<(PathBuf, &'static str)> {
    let file = |name: &str| directory_of(layout).join(name);
    let resolver = [(file(RESOLVER), RESOLVER_PLACE)];
    let bundles = SYSTEM_BUNDLES.map(|place| (file(BUNDLE), place));
    let stores = KEY_STORES.map(|place| (file(KEY_STORE), place));
    resolver.into_iter().chain(bundles).chain(stores).collect()
}

/// Lays our files over those that the container has, in its mount namespace.
fn furnish(layout: &Layout, namespaces: &Namespaces) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone =
        |(source, place): (PathBuf, &'static str)| Ok((open_tree(CWD, &source, flags)?, number(&source), place));
    let trees: Vec<(OwnedFd, Option<u64>, &str)> = covers(layout).into_iter().map(clone).collect::<io::Result<_>>()?;
    in_mounts(namespaces, || {
        for (tree, own, place) in &trees {
            let place = Path::new(place);
            // One place may lead to another by links.
            if place.is_file() && number(place) != *own {
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
                move_mount(tree, "", CWD, place, flags)?;
            }
        }
        Ok(())
    })
}

/// Takes our files off again.
pub(super) fn strip(layout: &Layout, namespaces: &Namespaces) -> io::Result<()> {
    let covers: Vec<(Option<u64>, &str)> =
        covers(layout).into_iter().map(|(source, place)| (number(&source), place)).collect();
    in_mounts(namespaces, || {
        for (own, place) in &covers {
            if own.is_some() && number(Path::new(place)) == *own {
                umount2(*place, MntFlags::MNT_DETACH)?;
            }
        }
        Ok(())
    })
}

/// Takes our interface out of a container that runs on.
pub(super) fn unwire(layout: &Layout) -> io::Result<()> {
    wiring::delete_link(&layout.interface)
}

fn in_mounts(namespaces: &Namespaces, work: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    let work = || {
        // A thread that shares its root and directory cannot change them.
        unshare(CloneFlags::CLONE_FS)?;
        setns(&namespaces.mounts, CloneFlags::CLONE_NEWNS)?;
        work()
    };
    let panicked = |_| Err(io::Error::other("the thread in the container panicked"));
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(panicked)
}
