//! Where a request is to go. Every place that names a host must name the same.
//!
//! Pure: heads in, a target or a refusal out.

use std::net::Ipv4Addr;

use hyper::http::header::HOST;
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, Scheme, Uri};
use thiserror::Error;

use crate::domain::{Host, RefusalReason};

/// Port of plain HTTP.
pub(super) const PLAIN_PORT: u16 = 80;
/// Port of HTTP over TLS.
pub(super) const TLS_PORT: u16 = 443;

/// Why there is no single host to go to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum TargetError {
    /// Neither SNI, CONNECT, URI nor Host names one.
    #[error("the request names no host")]
    Missing,
    /// An address: what may be reached is told by names.
    #[error("no route leads to an address: name the host")]
    Address,
    /// A name that is none, or several names in one place.
    #[error("the request's host is not one host name")]
    Malformed,
    /// A CONNECT without a port, or two ports for one request.
    #[error("the request does not name one port")]
    Port,
    /// Two places name different hosts.
    #[error("CONNECT target, SNI and Host name different hosts: {0} and {1}")]
    Differ(Host, Host),
}

impl TargetError {
    /// What it is called when a request is refused for it.
    pub(super) fn reason(&self) -> RefusalReason {
        match self {
            Self::Address => RefusalReason::HostNotAllowed,
            Self::Missing | Self::Malformed | Self::Port | Self::Differ(..) => RefusalReason::Misdirected,
        }
    }
}

/// A place to go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) is_tls: bool,
}

/// Where a connection leads, once that is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leads {
    pub(super) port: u16,
    pub(super) is_tls: bool,
}

impl Leads {
    /// Plain HTTP, transparently.
    pub(super) const PLAIN: Self = Self { port: PLAIN_PORT, is_tls: false };
    /// HTTP over TLS, transparently.
    pub(super) const TLS: Self = Self { port: TLS_PORT, is_tls: true };
}

/// The place that `head` is for, given what its connection has already been told: names (`expected`: CONNECT target and
/// SNI), and where it leads, unless its client knows that it speaks to a proxy and says so with each request.
pub(super) fn agree(head: &Parts, expected: &[Host], leads: Option<Leads>) -> Result<Target, TargetError> {
    let mut names: Vec<Host> = expected.to_vec();
    let mut ports = Vec::new();
    if let Some(authority) = head.uri.authority() {
        let (name, port) = named(authority)?;
        names.push(name);
        ports.extend(port);
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    if let Some(value) = hosts.next() {
        let authority: Authority = value.as_bytes().try_into().map_err(|_| TargetError::Malformed)?;
        let (name, port) = named(&authority)?;
        names.push(name);
        ports.extend(port);
    }
    if hosts.next().is_some() {
        return Err(TargetError::Malformed);
    }
    // The connection alone is not enough: HTTP wants every request to say whom it means.
    if names.len() == expected.len() {
        return Err(TargetError::Missing);
    }
    let said = leads.unwrap_or_else(|| {
        let usual = if head.uri.scheme() == Some(&Scheme::HTTPS) { Leads::TLS } else { Leads::PLAIN };
        Leads { port: ports.first().copied().unwrap_or(usual.port), ..usual }
    });
    if ports.iter().any(|port| *port != said.port) {
        return Err(TargetError::Port);
    }
    let mut names = names.into_iter();
    let host = names.next().ok_or(TargetError::Missing)?;
    match names.find(|name| *name != host) {
        None => Ok(Target { host, port: said.port, is_tls: said.is_tls }),
        Some(other) => Err(TargetError::Differ(host, other)),
    }
}

/// Host and port of a CONNECT.
pub(super) fn connect_target(uri: &Uri) -> Result<(Host, u16), TargetError> {
    let authority = uri.authority().ok_or(TargetError::Missing)?;
    let (host, port) = named(authority)?;
    Ok((host, port.ok_or(TargetError::Port)?))
}

/// A name, and a port if there is one.
fn named(authority: &Authority) -> Result<(Host, Option<u16>), TargetError> {
    let text = authority.as_str();
    if text.contains('@') {
        return Err(TargetError::Malformed);
    }
    let host = authority.host();
    let is_address = host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
    let host = host.parse().map_err(|_| if is_address { TargetError::Address } else { TargetError::Malformed })?;
    match (authority.port_u16(), text.contains(':')) {
        (None, false) => Ok((host, None)),
        (Some(port), _) if port != 0 => Ok((host, Some(port))),
        (Some(_), _) | (None, true) => Err(TargetError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn found(uri: &str, hosts: &[&str], expected: &[&str], leads: Option<Leads>) -> Result<Target, TargetError> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let expected: Vec<Host> = expected.iter().map(|name| name.parse().unwrap()).collect();
        agree(&head, &expected, leads)
    }

    fn check(uri: &str, hosts: &[&str], expected: &[&str], host: Result<&str, TargetError>) {
        let found = found(uri, hosts, expected, Some(Leads::TLS)).map(|target| target.host);
        assert_eq!(found, host.map(|host| host.parse().unwrap()), "{uri} {hosts:?} {expected:?}");
    }

    #[test]
    fn all_names_agree_or_the_request_is_refused() {
        let differ = || TargetError::Differ("a.com".parse().unwrap(), "b.com".parse().unwrap());
        check("/", &["a.com"], &[], Ok("a.com"));
        check("/", &["A.com:443"], &["a.com", "a.com"], Ok("a.com"));
        check("http://a.com/x", &["a.com"], &[], Ok("a.com"));
        check("https://a.com/x", &[], &["a.com"], Ok("a.com"));
        check("/", &["b.com"], &["a.com"], Err(differ()));
        check("/", &["a.com"], &["a.com", "b.com"], Err(differ()));
        check("http://a.com/", &["b.com"], &[], Err(differ()));
        check("/", &[], &["a.com"], Err(TargetError::Missing));
        check("/", &["a.com", "a.com"], &[], Err(TargetError::Malformed));
        check("/", &["127.0.0.1"], &[], Err(TargetError::Address));
        check("/", &["[::1]:443"], &[], Err(TargetError::Address));
        check("/", &["user@a.com"], &[], Err(TargetError::Malformed));
        check("/", &["a.com:8443"], &[], Err(TargetError::Port));
        check("/", &["a.com:80"], &[], Err(TargetError::Port));
        check("/", &["a.com:"], &[], Err(TargetError::Malformed));
        check("/", &["a.com:0"], &[], Err(TargetError::Malformed));
    }

    #[test]
    fn a_request_to_a_proxy_says_where_it_leads() {
        let leads = |uri: &str, hosts: &[&str]| found(uri, hosts, &[], None).map(|target| (target.port, target.is_tls));
        assert_eq!(leads("http://a.com/x", &["a.com"]), Ok((80, false)));
        assert_eq!(leads("https://a.com/x", &["a.com"]), Ok((443, true)));
        assert_eq!(leads("http://a.com:8080/x", &["a.com:8080"]), Ok((8080, false)));
        assert_eq!(leads("http://a.com:8080/x", &["a.com"]), Ok((8080, false)));
        assert_eq!(leads("http://a.com:8080/x", &["a.com:80"]), Err(TargetError::Port));
        assert_eq!(leads("/", &["a.com:8080"]), Ok((8080, false)));
    }

    #[test]
    fn a_tunnel_names_host_and_port() {
        let target = |uri: &str| connect_target(&uri.parse().unwrap()).map(|(host, port)| (host.to_string(), port));
        assert_eq!(target("A.com:8443"), Ok(("a.com".to_owned(), 8443)));
        assert_eq!(target("a.com"), Err(TargetError::Port));
        assert_eq!(target("1.2.3.4:443"), Err(TargetError::Address));
        assert_eq!(target("/"), Err(TargetError::Missing));
    }
}
