//! A block of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

impl Network {
    /// Those that share so many bits with `address`: as many as it has, if it has no more.
    #[must_use]
    pub fn new(address: IpAddr, bits: u8) -> Self {
        let first = match address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & !rest_v4(bits)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !rest_v6(bits)).into(),
        };
        Self { first, bits }
    }

    /// How many bits they share.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// The lowest of them.
    #[must_use]
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// The highest.
    #[must_use]
    pub fn last(self) -> IpAddr {
        match self.first {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() | rest_v4(self.bits)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() | rest_v6(self.bits)).into(),
        }
    }

    /// Is this one of them?
    #[must_use]
    pub fn holds(self, address: IpAddr) -> bool {
        Self::new(address, self.bits) == self
    }
}

/// The bits in which addresses differ that share so many.
fn rest_v4(bits: u8) -> u32 {
    u32::MAX.checked_shr(bits.into()).unwrap_or(0)
}

fn rest_v6(bits: u8) -> u128 {
    u128::MAX.checked_shr(bits.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(network: (&str, u8), first: &str, last: &str, beside: &[&str]) {
        let found = Network::new(network.0.parse().unwrap(), network.1);
        assert_eq!((found.first(), found.last()), (first.parse().unwrap(), last.parse().unwrap()), "{network:?}");
        assert!(found.holds(found.first()) && found.holds(found.last()), "{network:?}");
        for address in beside {
            assert!(!found.holds(address.parse().unwrap()), "{address} in {network:?}");
        }
    }

    #[test]
    fn a_network_holds_the_addresses_that_begin_alike() {
        check(("5.6.7.8", 24), "5.6.7.0", "5.6.7.255", &["5.6.8.0", "5.6.6.255", "::5.6.7.8", "506:700::"]);
        check(("5.6.7.8", 32), "5.6.7.8", "5.6.7.8", &["5.6.7.9"]);
        check(("5.6.7.8", 0), "0.0.0.0", "255.255.255.255", &["::"]);
        check(("2a00:1:2:3::7", 64), "2a00:1:2:3::", "2a00:1:2:3:ffff:ffff:ffff:ffff", &["2a00:1:2:4::", "42.0.0.1"]);
        check(("2a00::7", 128), "2a00::7", "2a00::7", &["2a00::8"]);
        check(("::", 0), "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", &["0.0.0.0"]);
    }
}
