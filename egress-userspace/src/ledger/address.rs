//! Which address a new bottle gets.
//!
//! Pure: the addresses in use go in, the lowest free one comes out.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Longest prefix that leaves room for a bottle: network, broadcast, gateway and one more.
const PREFIX_BITS_MAX: u8 = 30;

/// Where bottles' addresses are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPool {
    /// The gateway's own address; its network is the pool.
    pub gateway: Ipv4Addr,
    /// Length of the network's prefix in bits.
    pub prefix: u8,
}

impl AddressPool {
    /// The lowest address that is neither in use nor the gateway's, the network's or the broadcast address.
    pub(super) fn lowest_free(self, in_use: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        if self.prefix > PREFIX_BITS_MAX {
            return None;
        }
        let host_bits = 32 - u32::from(self.prefix);
        let host_mask = u32::try_from((1_u64 << host_bits) - 1).unwrap_or(u32::MAX);
        let network = self.gateway.to_bits() & !host_mask;
        let broadcast = network | host_mask;
        (network.saturating_add(1)..broadcast)
            .map(Ipv4Addr::from_bits)
            .find(|address| *address != self.gateway && !in_use.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pool: &str, in_use: &[&str], expected: Option<&str>) {
        let (gateway, prefix) = pool.split_once('/').unwrap();
        let pool = AddressPool { gateway: gateway.parse().unwrap(), prefix: prefix.parse().unwrap() };
        let in_use = in_use.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(pool.lowest_free(&in_use), expected.map(|address| address.parse().unwrap()), "{pool:?}");
    }

    #[test]
    fn the_lowest_free_address_is_taken() {
        check("10.213.0.1/24", &[], Some("10.213.0.2"));
        check("10.213.0.1/24", &["10.213.0.2", "10.213.0.4"], Some("10.213.0.3"));
        check("10.213.0.7/24", &[], Some("10.213.0.1"));
        check("10.213.0.1/24", &["192.168.0.1"], Some("10.213.0.2"));
    }

    #[test]
    fn network_broadcast_and_gateway_are_never_taken() {
        check("10.0.0.5/30", &[], Some("10.0.0.6"));
        check("10.0.0.5/30", &["10.0.0.6"], None);
        check("10.0.0.6/30", &[], Some("10.0.0.5"));
        check("10.0.0.5/31", &[], None);
        check("10.0.0.5/32", &[], None);
        check("10.0.0.5/200", &[], None);
        check("255.255.255.254/30", &["255.255.255.253"], None);
        check("0.0.0.1/0", &[], Some("0.0.0.2"));
    }
}
