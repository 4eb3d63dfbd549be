//! What building a bottle does to the host, as steps. The same list, taken back, takes a bottle down.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::layout::Layout;
use super::namespace::{Kept, tolerate_absence};
use super::{cgroup, wiring};
use crate::bottle::plan::Step;
use crate::fault::{self, Point};

/// One step.
#[derive(Debug)]
pub(super) enum NativeStep {
    /// The bottle's directory: first made, last removed, so that whatever else there is can be found by it.
    Directory(PathBuf),
    /// The network namespace.
    Namespace(Kept),
    /// The pair of interfaces.
    Veth {
        /// Host end's name.
        interface: String,
        /// Where the other end is put.
        namespace: Kept,
        /// Hardware address of the other end.
        mac: [u8; 6],
    },
    /// Addresses and routes inside.
    Inside {
        /// The namespace.
        namespace: Kept,
        /// Host end's name.
        interface: String,
        /// The bottle's address.
        address: Ipv4Addr,
        /// The only neighbour.
        gateway: Ipv4Addr,
    },
    /// The control group. Taken back first: nothing of the bottle runs while the rest is removed.
    Group(PathBuf),
}

/// The steps that build a bottle.
pub(super) fn build(
    layout: &Layout,
    group: PathBuf,
    address: Ipv4Addr,
    mac: [u8; 6],
    gateway: Ipv4Addr,
) -> Vec<NativeStep> {
    let Layout { directory, namespace, interface, .. } = layout.clone();
    vec![
        NativeStep::Directory(directory),
        NativeStep::Namespace(namespace.clone()),
        NativeStep::Veth { interface: interface.clone(), namespace: namespace.clone(), mac },
        NativeStep::Inside { namespace, interface, address, gateway },
        NativeStep::Group(group),
    ]
}

impl Step for NativeStep {
    fn name(&self) -> &'static str {
        match self {
            Self::Directory(_) => "making its directory",
            Self::Namespace(_) => "making its network namespace",
            Self::Veth { .. } => "making its network interfaces",
            Self::Inside { .. } => "giving it an address and routes",
            Self::Group(_) => "making its control group",
        }
    }

    fn carry_out(&self) -> io::Result<()> {
        match self {
            Self::Directory(path) => {
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                fs::create_dir(path)
            }
            Self::Namespace(namespace) => namespace.create(),
            Self::Veth { interface, namespace, mac } => wiring::create_veth(interface, &namespace.open()?, *mac),
            Self::Inside { namespace, interface, address, gateway } => {
                let gateway_mac = wiring::mac_of(interface)?;
                namespace.inside(|| wiring::configure_inside(*address, *gateway, &gateway_mac))
            }
            Self::Group(path) => cgroup::create(path),
        }?;
        fault::point(match self {
            Self::Directory(_) => Point::DirectoryMade,
            Self::Namespace(_) => Point::NamespaceMade,
            Self::Veth { .. } => Point::VethMade,
            Self::Inside { .. } => Point::InsideConfigured,
            Self::Group(_) => Point::GroupMade,
        });
        Ok(())
    }

    fn undo(&self) -> io::Result<()> {
        match self {
            Self::Directory(path) => tolerate_absence(fs::remove_dir_all(path)),
            Self::Namespace(namespace) => namespace.remove(),
            Self::Veth { interface, .. } => wiring::delete_link(interface),
            // Goes with the namespace.
            Self::Inside { .. } => Ok(()),
            Self::Group(path) => cgroup::remove(path),
        }?;
        match self {
            Self::Directory(_) => fault::point(Point::DirectoryRemoved),
            Self::Namespace(_) => fault::point(Point::NamespaceRemoved),
            Self::Veth { .. } => fault::point(Point::VethRemoved),
            Self::Inside { .. } => {}
            Self::Group(_) => fault::point(Point::GroupRemoved),
        }
        Ok(())
    }
}
