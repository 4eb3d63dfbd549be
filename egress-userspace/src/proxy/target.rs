//! Which host a request is for. Every place that names one must name the same.
//!
//! Pure: heads in, a name or a refusal out.

use hyper::http::header::HOST;
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, Uri};
use thiserror::Error;

use crate::domain::Host;

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
    /// A name that is none, an address, or several names in one place.
    #[error("the request's host is not one host name")]
    Malformed,
    /// Another port than the web's.
    #[error("only ports {PLAIN_PORT} and {TLS_PORT} are reachable")]
    Port,
    /// Two places name different hosts.
    #[error("CONNECT target, SNI and Host name different hosts: {0} and {1}")]
    Differ(Host, Host),
}

/// The host that `head` is for, given what its connection has already been told (`expected`: CONNECT target and SNI).
pub(super) fn agree(head: &Parts, expected: &[Host]) -> Result<Host, TargetError> {
    let mut names: Vec<Host> = expected.to_vec();
    if let Some(authority) = head.uri.authority() {
        names.push(web_host(authority)?.0);
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    if let Some(value) = hosts.next() {
        let authority: Authority = value.as_bytes().try_into().map_err(|_| TargetError::Malformed)?;
        names.push(web_host(&authority)?.0);
    }
    if hosts.next().is_some() {
        return Err(TargetError::Malformed);
    }
    // The connection alone is not enough: HTTP wants every request to say whom it means.
    if names.len() == expected.len() {
        return Err(TargetError::Missing);
    }
    let mut names = names.into_iter();
    let first = names.next().ok_or(TargetError::Missing)?;
    match names.find(|name| *name != first) {
        None => Ok(first),
        Some(other) => Err(TargetError::Differ(first, other)),
    }
}

/// Host and port of a CONNECT.
pub(super) fn connect_target(uri: &Uri) -> Result<(Host, u16), TargetError> {
    let authority = uri.authority().ok_or(TargetError::Missing)?;
    let (host, port) = web_host(authority)?;
    Ok((host, port.ok_or(TargetError::Port)?))
}

/// A name, and a port of the web if any.
fn web_host(authority: &Authority) -> Result<(Host, Option<u16>), TargetError> {
    let text = authority.as_str();
    if text.contains('@') {
        return Err(TargetError::Malformed);
    }
    let host = authority.host().parse().map_err(|_| TargetError::Malformed)?;
    match (authority.port_u16(), text.contains(':')) {
        (None, false) => Ok((host, None)),
        (Some(port @ (PLAIN_PORT | TLS_PORT)), _) => Ok((host, Some(port))),
        (Some(_), _) => Err(TargetError::Port),
        (None, true) => Err(TargetError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn check(uri: &str, hosts: &[&str], expected: &[&str], host: Result<&str, TargetError>) {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let expected: Vec<Host> = expected.iter().map(|name| name.parse().unwrap()).collect();
        let found = agree(&head, &expected);
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
        check("/", &["127.0.0.1"], &[], Err(TargetError::Malformed));
        check("/", &["[::1]:443"], &[], Err(TargetError::Malformed));
        check("/", &["user@a.com"], &[], Err(TargetError::Malformed));
        check("/", &["a.com:8443"], &[], Err(TargetError::Port));
        check("/", &["a.com:"], &[], Err(TargetError::Malformed));
    }

    #[test]
    fn a_tunnel_leads_to_a_name_and_a_port_of_the_web() {
        let connect = |text: &str| connect_target(&text.parse::<Uri>().unwrap());
        assert_eq!(connect("a.com:443"), Ok(("a.com".parse().unwrap(), TLS_PORT)));
        assert_eq!(connect("a.com:22"), Err(TargetError::Port));
        assert_eq!(connect("a.com"), Err(TargetError::Port));
        assert_eq!(connect("10.0.0.1:443"), Err(TargetError::Malformed));
        assert_eq!(connect("/"), Err(TargetError::Missing));
    }
}
