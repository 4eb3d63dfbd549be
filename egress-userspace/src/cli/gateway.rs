//! `--gateway`: the address at which bottles find the proxy, with its network.

use std::net::Ipv4Addr;
use std::str::FromStr;

/// An address in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of the network.
    pub prefix: u8,
}

impl FromStr for Gateway {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || format!("{text:?} is not an address in a network: write 10.213.0.1/16");
        let (address, prefix) = text.split_once('/').ok_or_else(shape)?;
        let address = address.parse().map_err(|_| shape())?;
        let prefix: u8 = prefix.parse().map_err(|_| shape())?;
        if !(8..=30).contains(&prefix) {
            return Err(format!("/{prefix} is no network for bottles: from /8 to /30, as 10.213.0.1/16"));
        }
        let hosts = u32::MAX >> prefix;
        let number = u32::from(address);
        if number & hosts == 0 || number & hosts == hosts {
            let first = Ipv4Addr::from((number & !hosts) | 1);
            return Err(format!("{address} is the network's own address: write {first}/{prefix}"));
        }
        Ok(Self { address, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(Ipv4Addr, u8), &str>) {
        let gateway = text.parse::<Gateway>().map(|gateway| (gateway.address, gateway.prefix));
        assert_eq!(gateway.as_ref().map_err(String::as_str), expected.as_ref().map_err(|error| *error), "{text}");
    }

    #[test]
    fn a_gateway_is_a_host_in_a_network() {
        check("10.213.0.1/16", Ok((Ipv4Addr::new(10, 213, 0, 1), 16)));
        check("10.0.0.2/30", Ok((Ipv4Addr::new(10, 0, 0, 2), 30)));
        check("10.213.0.0/16", Err("10.213.0.0 is the network's own address: write 10.213.0.1/16"));
        check("10.213.255.255/16", Err("10.213.255.255 is the network's own address: write 10.213.0.1/16"));
        check("10.213.0.1/31", Err("/31 is no network for bottles: from /8 to /30, as 10.213.0.1/16"));
        check("10.213.0.1", Err("\"10.213.0.1\" is not an address in a network: write 10.213.0.1/16"));
        check("bottles/16", Err("\"bottles/16\" is not an address in a network: write 10.213.0.1/16"));
    }
}
