//! The networks that this host is in, as its kernel routes: its own addresses, and those that it reaches without a gateway.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::wiring::{into_io, with_netlink};
use crate::domain::Network;

/// All of them, in the network namespace of the calling thread, which is blocked.
pub(super) fn own() -> io::Result<BTreeSet<Network>> {
    with_netlink(async |netlink: Handle| {
        let links: Vec<LinkMessage> = netlink.link().get().execute().try_collect().await.map_err(into_io)?;
        let shared: BTreeSet<u32> =
            links.into_iter().filter(|link| is_shared(link.header.flags)).map(|link| link.header.index).collect();
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut own = BTreeSet::new();
        for family in [v4, v6] {
            let mut routes = std::pin::pin!(netlink.route().get(family).execute());
            while let Some(route) = routes.try_next().await.map_err(into_io)? {
                own.extend(network(&route, &shared));
            }
        }
        Ok(own)
    })
}

/// Are there neighbours on the link? Through a tunnel, what is far away is routed without a gateway too.
fn is_shared(flags: LinkFlags) -> bool {
    flags.contains(LinkFlags::Broadcast) && !flags.contains(LinkFlags::Pointopoint)
}

/// What the route is to, if that is this host or on one of these links. The kernel's own routes are to the networks of the host's
/// addresses, whatever the link.
fn network(route: &RouteMessage, shared: &BTreeSet<u32>) -> Option<Network> {
    let found = &route.attributes;
    let leads_there = found.iter().any(|found| matches!(found, RouteAttribute::Oif(link) if shared.contains(link)));
    let has_gateway = found.iter().any(|found| {
        matches!(found, RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_))
    });
    let is_own = matches!(route.header.kind, RouteType::Local | RouteType::Anycast);
    let is_near = leads_there || route.header.protocol == RouteProtocol::Kernel;
    let is_beside = route.header.kind == RouteType::Unicast && is_near && !has_gateway;
    let network = Network::new(found.iter().find_map(destination)?, route.header.destination_prefix_length);
    (is_own || is_beside).then_some(network)
}

fn destination(found: &RouteAttribute) -> Option<IpAddr> {
    let RouteAttribute::Destination(address) = found else { return None };
    if let RouteAddress::Inet(v4) = address {
        return Some((*v4).into());
    }
    if let RouteAddress::Inet6(v6) = address { Some((*v6).into()) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAN: u32 = 2;
    const TUNNEL: u32 = 3;

    const NET: (&str, u8) = ("5.6.7.0", 24);
    const OWN: (&str, u8) = ("5.6.7.8", 32);
    const NET_V6: (&str, u8) = ("2a00:1:2:3::", 64);

    fn route((address, bits): (&str, u8), link: u32) -> RouteMessage {
        let destination = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address.parse().unwrap(), bits);
        destination.unwrap().output_interface(link).build()
    }

    fn via(gateway: &str, mut route: RouteMessage) -> RouteMessage {
        let gateway = match gateway.parse().unwrap() {
            IpAddr::V4(v4) => RouteAddress::Inet(v4),
            IpAddr::V6(v6) => RouteAddress::Inet6(v6),
        };
        route.attributes.push(RouteAttribute::Gateway(gateway));
        route
    }

    fn check(mut route: RouteMessage, kind: RouteType, expected: Option<(&str, u8)>) {
        route.header.kind = kind;
        let expected = expected.map(|(address, bits)| Network::new(address.parse().unwrap(), bits));
        assert_eq!(network(&route, &BTreeSet::from([LAN])), expected, "{route:?}");
    }

    #[test]
    fn what_is_the_hosts_own_or_beside_it_is_told_from_what_lies_behind() {
        check(route(NET, LAN), RouteType::Unicast, Some(NET));
        check(route(NET_V6, LAN), RouteType::Unicast, Some(NET_V6));
        check(route(OWN, LAN), RouteType::Local, Some(OWN));
        check(route(OWN, TUNNEL), RouteType::Local, Some(OWN));
        check(route(NET_V6, LAN), RouteType::Anycast, Some(NET_V6));
        check(via("5.6.7.1", route(NET, LAN)), RouteType::Unicast, None);
        check(via("fe80::1", route(NET_V6, LAN)), RouteType::Unicast, None);
        check(route(NET, LAN), RouteType::Unreachable, None);
        check(RouteMessageBuilder::<Ipv4Addr>::new().output_interface(LAN).build(), RouteType::Unicast, None);
    }

    #[test]
    fn through_a_tunnel_only_the_networks_of_its_addresses_are_near() {
        let mut of_an_address = route(NET, TUNNEL);
        of_an_address.header.protocol = RouteProtocol::Kernel;
        check(of_an_address, RouteType::Unicast, Some(NET));
        check(route(NET, TUNNEL), RouteType::Unicast, None);
    }

    #[test]
    fn a_tunnel_has_no_neighbours() {
        assert!(is_shared(LinkFlags::Broadcast | LinkFlags::Up));
        assert!(!is_shared(LinkFlags::Pointopoint | LinkFlags::Noarp));
        assert!(!is_shared(LinkFlags::Broadcast | LinkFlags::Pointopoint));
        assert!(!is_shared(LinkFlags::Loopback));
    }
}
