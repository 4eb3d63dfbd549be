//! Links, addresses, routes and neighbours, through netlink.
//!
//! Everything here acts on the network namespace of the calling thread and blocks it; callers bring a thread of their own.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use futures_util::TryStreamExt;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::layout::INNER_INTERFACE;
use super::namespace::tolerate_absence;

/// Any port but 0.
const DISCARD_PORT: u16 = 9;
/// One address.
const HOST_PREFIX: u8 = 32;

/// Makes sure the bridge exists, is up and holds the gateway's address.
pub(in crate::bottle) fn ensure_bridge(name: &str, gateway: Ipv4Addr) -> io::Result<()> {
    with_netlink(async |netlink| {
        if index_of(name)?.is_none() {
            done(netlink.link().add(LinkBridge::new(name).build()).execute().await)?;
        }
        refuse_ipv6(name)?;
        let index = existing(name)?;
        done(netlink.address().add(index, IpAddr::V4(gateway), HOST_PREFIX).replace().execute().await)?;
        done(netlink.link().change(LinkUnspec::new_with_index(index).up().build()).execute().await)
    })
}

/// Links that are up.
#[derive(Debug)]
pub(super) struct Links {
    up: BTreeSet<String>,
    holds_gateway: bool,
}

impl Links {
    /// Looks at all there are.
    pub(super) fn look(bridge: &str, gateway: Ipv4Addr) -> io::Result<Self> {
        let mut links = Self { up: BTreeSet::new(), holds_gateway: false };
        for link in getifaddrs()?.filter(|link| link.flags.contains(InterfaceFlags::IFF_UP)) {
            let address = link.address.as_ref().and_then(|address| Some(address.as_sockaddr_in()?.ip()));
            links.holds_gateway |= link.interface_name == bridge && address == Some(gateway);
            links.up.insert(link.interface_name);
        }
        Ok(links)
    }

    /// Can the gateway's address be reached?
    pub(super) fn hold_gateway(&self) -> bool {
        self.holds_gateway
    }

    /// Is the veth as [`open`] leaves it: up, and the bottle's address routed? Where a datagram to that address would come
    /// from tells; none is sent.
    pub(super) fn is_open(&self, name: &str, address: Ipv4Addr, gateway: Ipv4Addr) -> io::Result<bool> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let is_routed = socket.connect((address, DISCARD_PORT)).is_ok() && socket.local_addr()?.ip() == gateway;
        Ok(self.up.contains(name) && is_routed)
    }
}

/// Makes a veth pair: the host's end here and down, the bottle's end in `namespace` with its hardware address.
pub(in crate::bottle) fn create_veth(name: &str, namespace: &fs::File, mac: [u8; 6]) -> io::Result<()> {
    with_netlink(async |netlink| {
        let peer = LinkUnspec::new_with_name(INNER_INTERFACE).address(mac.to_vec()).setns_by_fd(namespace.as_raw_fd());
        let pair = LinkVeth::new(name, INNER_INTERFACE).set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        done(netlink.link().add(pair.build()).execute().await)
    })?;
    let refused = refuse_ipv6(name);
    if refused.is_err() {
        delete_link(name)?;
    }
    refused
}

/// Deletes a link, if it exists. A veth's other end goes with it.
pub(in crate::bottle) fn delete_link(name: &str) -> io::Result<()> {
    let Some(index) = index_of(name)? else { return Ok(()) };
    match with_netlink(async |netlink| done(netlink.link().del(index).execute().await)) {
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(()),
        other => other,
    }
}

/// The bottle's side, run inside its namespace: one address and one way out, to a neighbour that is known beforehand.
pub(in crate::bottle) fn configure_inside(address: Ipv4Addr, gateway: Ipv4Addr, gateway_mac: &[u8]) -> io::Result<()> {
    refuse_ipv6(INNER_INTERFACE)?;
    let (loopback, interface) = (existing("lo")?, existing(INNER_INTERFACE)?);
    with_netlink(async |netlink| {
        done(netlink.link().change(LinkUnspec::new_with_index(loopback).up().build()).execute().await)?;
        done(netlink.address().add(interface, IpAddr::V4(address), HOST_PREFIX).execute().await)?;
        done(netlink.link().change(LinkUnspec::new_with_index(interface).up().build()).execute().await)?;
        let neighbour = netlink.neighbours().add(interface, IpAddr::V4(gateway)).link_layer_address(gateway_mac);
        done(neighbour.execute().await)?;
        let on_link = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(gateway, HOST_PREFIX)
            .output_interface(interface)
            .scope(RouteScope::Link);
        done(netlink.route().add(on_link.build()).execute().await)?;
        let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(interface);
        done(netlink.route().add(default.build()).execute().await)
    })
}

/// The host's side: the veth comes up and the bottle's address is routed to it; harmless when it is so. Both vanish when the
/// link goes down.
pub(in crate::bottle) fn open(name: &str, address: Ipv4Addr, mac: [u8; 6], gateway: Ipv4Addr) -> io::Result<()> {
    open_link(existing(name)?, address, mac, gateway)
}

/// The same for the link of this number.
pub(super) fn open_link(interface: u32, address: Ipv4Addr, mac: [u8; 6], gateway: Ipv4Addr) -> io::Result<()> {
    with_netlink(async |netlink| {
        done(netlink.link().change(LinkUnspec::new_with_index(interface).up().build()).execute().await)?;
        let neighbour = netlink.neighbours().add(interface, IpAddr::V4(address)).link_layer_address(&mac);
        done(neighbour.replace().execute().await)?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, HOST_PREFIX)
            .output_interface(interface)
            .pref_source(gateway)
            .scope(RouteScope::Link);
        done(netlink.route().add(route.build()).replace().execute().await)
    })
}

/// Takes the veth's host end down.
pub(in crate::bottle) fn close(name: &str) -> io::Result<()> {
    let interface = existing(name)?;
    with_netlink(async |netlink| {
        done(netlink.link().change(LinkUnspec::new_with_index(interface).down().build()).execute().await)
    })
}

/// A link's hardware address.
pub(in crate::bottle) fn mac_of(name: &str) -> io::Result<Vec<u8>> {
    with_netlink(async |netlink| {
        let link = netlink.link().get().match_name(name).execute().try_next().await.map_err(into_io)?;
        let address = link
            .into_iter()
            .flat_map(|link| link.attributes)
            .find_map(|attribute| if let LinkAttribute::Address(address) = attribute { Some(address) } else { None });
        address.ok_or_else(|| io::ErrorKind::NotFound.into())
    })
}

/// The kernel's number of a link that must exist.
pub(in crate::bottle) fn existing(name: &str) -> io::Result<u32> {
    index_of(name)?.ok_or_else(|| Errno::ENODEV.into())
}

fn index_of(name: &str) -> io::Result<Option<u32>> {
    match if_nametoindex(name) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::ENODEV | Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Bottles speak IPv4 only: without this a link makes itself an IPv6 address. A kernel without IPv6 has no such file.
fn refuse_ipv6(interface: &str) -> io::Result<()> {
    tolerate_absence(fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1"))
}

pub(super) fn with_netlink<T>(work: impl AsyncFnOnce(Handle) -> io::Result<T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, netlink, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        work(netlink).await
    })
}

fn done(result: Result<(), rtnetlink::Error>) -> io::Result<()> {
    result.map_err(into_io)
}

pub(super) fn into_io(error: rtnetlink::Error) -> io::Error {
    if let rtnetlink::Error::NetlinkError(refusal) = &error { refusal.to_io() } else { io::Error::other(error) }
}
