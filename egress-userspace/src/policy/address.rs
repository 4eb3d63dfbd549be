//! Which addresses may be dialled for a public name: none that lead back into this host or its network.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::domain::Network;

/// Fewest bits that the addresses of one IPv4 network share. What is wider is a way out: a VPN's, or a proxy's for everything.
const NETWORK_BITS_V4_MIN: u8 = 8;
/// The same of IPv6.
const NETWORK_BITS_V6_MIN: u8 = 32;

/// May this address be dialled for a name that may lead to public ones only? Not if it is none, nor if it is in one of the
/// networks of this `own` host, however public: whoever is dialled there is not dialled from outside.
#[must_use]
pub fn may_be_dialled(address: IpAddr, own: &BTreeSet<Network>) -> bool {
    let stands_for = if let IpAddr::V6(v6) = address { embedded_v4(v6).map(IpAddr::V4) } else { None };
    let is_own = |address: IpAddr| own.iter().any(|network| network.holds(address));
    is_public(address) && !is_own(address) && !stands_for.is_some_and(is_own)
}

/// Is this network of the host's worth knowing for that? One without public addresses is not, nor one that is a way out.
#[must_use]
pub fn is_own_public(network: Network) -> bool {
    let least = if network.first().is_ipv4() { NETWORK_BITS_V4_MIN } else { NETWORK_BITS_V6_MIN };
    network.bits() >= least && (is_public(network.first()) || is_public(network.last()))
}

/// Is this a global unicast address?
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => embedded_v4(v6).map_or_else(|| is_public_v6(v6), is_public_v4),
    }
}

/// Not in a special-purpose block of RFC 6890 and its successors.
fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol_assignments = a == 192 && b == 0 && c == 0;
    let benchmarking = a == 198 && (b == 18 || b == 19);
    let relay = a == 192 && b == 88 && c == 99;
    !(a == 0
        || a >= 224
        || v4.is_loopback()
        || v4.is_private()
        || v4.is_link_local()
        || v4.is_documentation()
        || shared
        || protocol_assignments
        || benchmarking
        || relay)
}

/// Global unicast is 2000::/3 less documentation and the transition prefixes.
fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [first, second, ..] = v6.segments();
    let global_unicast = first & 0xe000 == 0x2000;
    let special = first == 0x2001 && second < 0x0200;
    let documentation = (first == 0x2001 && second == 0x0db8) || (first == 0x3fff && second < 0x1000);
    global_unicast && !special && !documentation
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible, NAT64 and 6to4.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = v6.segments();
    let from = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match segments {
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] if (high, low) > (0, 1) => Some(from(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(from(high, low)),
        [0x2002, high, low, ..] => Some(from(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, expected: bool) {
        assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
    }

    #[test]
    fn what_is_public_may_be_dialled_but_where_it_is_the_hosts_own() {
        let network = |(address, bits): (&str, u8)| Network::new(address.parse().unwrap(), bits);
        let own: BTreeSet<Network> = [("5.6.7.8", 24), ("5.6.9.1", 32), ("2a00:1:2:3::", 64)].map(network).into();
        let check = |address: &str, expected: bool| {
            assert_eq!(may_be_dialled(address.parse().unwrap(), &own), expected, "{address}");
        };
        for elsewhere in ["5.6.8.8", "5.6.9.2", "2a00:1:2:4::1", "::ffff:5.6.8.8", "64:ff9b::506:808"] {
            check(elsewhere, true);
        }
        for own in
            ["5.6.7.8", "5.6.7.200", "5.6.9.1", "2a00:1:2:3::9", "::ffff:5.6.7.9", "64:ff9b::506:709", "10.0.0.1"]
        {
            check(own, false);
        }
    }

    #[test]
    fn networks_count_that_hold_public_addresses_and_are_no_way_out() {
        let check = |address: &str, bits: u8, expected: bool| {
            let network = Network::new(address.parse().unwrap(), bits);
            assert_eq!(is_own_public(network), expected, "{network:?}");
        };
        for (address, bits) in
            [("5.6.7.8", 24), ("5.6.7.8", 32), ("5.0.0.0", 8), ("192.0.0.0", 8), ("2a00::", 32), ("2a00::1", 128)]
        {
            check(address, bits, true);
        }
        for (address, bits) in [
            ("0.0.0.0", 0),
            ("128.0.0.0", 1),
            ("8.0.0.0", 7),
            ("::", 0),
            ("2000::", 3),
            ("10.0.0.0", 8),
            ("10.213.0.2", 32),
            ("127.0.0.0", 8),
            ("::1", 128),
            ("fe80::", 64),
        ] {
            check(address, bits, false);
        }
    }

    #[test]
    fn only_global_unicast_is_public() {
        for public in ["8.8.8.8", "160.79.104.10", "100.63.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
            check(public, true);
        }
        for special in [
            "0.0.0.0",
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.1",
            "192.88.99.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "::7f00:1",
        ] {
            check(special, false);
        }
    }
}
