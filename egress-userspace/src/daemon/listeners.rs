//! The gateway's sockets. They stay open here while proxies come and go, so a connection made meanwhile only waits.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use crate::broker::Listeners;

use super::{DNS_PORT, DaemonError, PROXY_PORTS};

/// Binds them all, or names the first that is taken.
pub(super) fn bind(gateway: Ipv4Addr) -> Result<Listeners, DaemonError> {
    let address = |port: u16| SocketAddr::from((gateway, port));
    let failed = |port: u16| move |source| DaemonError::Listen { address: address(port), source };
    let tcp = |port: u16| TcpListener::bind(address(port)).map_err(failed(port));
    let [explicit, tls, plain] = PROXY_PORTS;
    Ok(Listeners {
        explicit: tcp(explicit)?,
        tls: tcp(tls)?,
        plain: tcp(plain)?,
        dns_udp: UdpSocket::bind(address(DNS_PORT)).map_err(failed(DNS_PORT))?,
        dns_tcp: tcp(DNS_PORT)?,
    })
}
