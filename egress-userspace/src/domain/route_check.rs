//! What `egress routes check` finds out.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{BottleName, Host, MethodName, ProviderName};

/// Neither a URL nor a host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a URL: write https://api.example.com/path, or a host name for https://HOST/")]
pub struct UrlError(String);

/// Where a request would go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Url {
    /// HTTP over TLS.
    pub is_tls: bool,
    /// Its name.
    pub host: Host,
    /// As written, or the scheme's.
    pub port: u16,
    /// Without a query.
    pub path: String,
}

impl std::str::FromStr for Url {
    type Err = UrlError;
    fn from_str(text: &str) -> Result<Self, UrlError> {
        let error = || UrlError(text.to_owned());
        let (is_tls, rest) = match text.split_once("://") {
            Some(("https" | "wss", rest)) => (true, rest),
            Some(("http" | "ws", rest)) => (false, rest),
            Some(_) => return Err(error()),
            None => (true, text),
        };
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?),
            None => (authority, if is_tls { 443 } else { 80 }),
        };
        let path = path.split(['?', '#']).next().unwrap_or("/").to_owned();
        Ok(Self { is_tls, host: host.parse().map_err(|_| error())?, port, path })
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { is_tls, host, port, path } = self;
        let (scheme, usual) = if *is_tls { ("https", 443) } else { ("http", 80) };
        if *port == usual { write!(f, "{scheme}://{host}{path}") } else { write!(f, "{scheme}://{host}:{port}{path}") }
    }
}

/// A request that is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteQuestion {
    /// Where to.
    pub url: Url,
    /// How.
    pub method: MethodName,
    /// Whose; one without a file of its own when `None`.
    pub bottle: Option<BottleName>,
}

/// The routes files, and what would become of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteCheck {
    /// Every file there is.
    pub files: Vec<CheckedFile>,
    /// What was asked for.
    pub answer: Option<RouteAnswer>,
}

/// A routes file without a mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedFile {
    /// Where it is.
    pub path: PathBuf,
    /// How many routes are in it.
    pub routes: usize,
}

/// What would become of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteAnswer {
    /// Which.
    #[serde(flatten)]
    pub question: RouteQuestion,
    /// It would go.
    pub is_allowed: bool,
    /// The route that allows it; `None` for a metered host that no route names, or when nothing does.
    pub rule: Option<String>,
    /// Whose tokens are counted, if any are.
    pub provider: Option<ProviderName>,
    /// What would happen on the way, or why it would not go: lines for people.
    pub says: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_they_are_written_elsewhere() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(text.parse::<Url>().ok().map(|url| url.to_string()).as_deref(), expected, "{text}");
        };
        check("https://a.com/x?y#z", Some("https://a.com/x"));
        check("A.com", Some("https://a.com/"));
        check("http://a.com:80", Some("http://a.com/"));
        check("a.com:8443/x", Some("https://a.com:8443/x"));
        check("ftp://a.com/", None);
        check("https://10.0.0.1/", None);
        check("https://a.com:0/", None);
        check("", None);
    }
}
