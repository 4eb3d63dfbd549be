//! What an operator says of where bottles may go: the entries of routes files, as they are written.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Host, ProviderName};

/// Labels that a suffix must have: `*.com` would be the whole internet.
const SUFFIX_LABELS_MIN: usize = 2;
/// Where a route leads that names no ports.
const USUAL_PORTS: [u16; 2] = [80, 443];

/// Text that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RouteError {
    /// Neither a host name nor all names below one.
    #[error("{0:?} is not a host of a route: write one name, or \"*.example.com\" for every name below example.com")]
    Host(String),
    /// Not a path.
    #[error(
        "{0:?} is not a path: begin with '/'; '*' stands for any characters, and a '?' and what follows is left out"
    )]
    Path(String),
    /// Not a method.
    #[error("{0:?} is not an HTTP method: write GET, POST …")]
    Method(String),
    /// Not a ref.
    #[error("{0:?} is not a ref: write refs/heads/NAME, in which a '*' at the end stands for the rest")]
    Ref(String),
    /// Not a way to present a credential.
    #[error("{0:?} is not a scheme: write bearer, basic, header:NAME or sigv4")]
    Scheme(String),
}

/// The hosts that a route is about: one, or every name below one, however deep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RouteHost {
    name: Host,
    is_suffix: bool,
}

impl RouteHost {
    /// Is it about this host?
    #[must_use]
    pub fn matches(&self, host: &Host) -> bool {
        if !self.is_suffix {
            return self.name == *host;
        }
        let below = host.as_str().strip_suffix(self.name.as_str());
        below.is_some_and(|below| below.len() > 1 && below.ends_with('.'))
    }

    /// The host, if it is one.
    #[must_use]
    pub fn exact(&self) -> Option<&Host> {
        (!self.is_suffix).then_some(&self.name)
    }
}

impl From<Host> for RouteHost {
    fn from(name: Host) -> Self {
        Self { name, is_suffix: false }
    }
}

impl std::str::FromStr for RouteHost {
    type Err = RouteError;
    fn from_str(text: &str) -> Result<Self, RouteError> {
        let (name, is_suffix) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        let name: Host = name.parse().map_err(|_| RouteError::Host(text.to_owned()))?;
        if is_suffix && name.as_str().split('.').count() < SUFFIX_LABELS_MIN {
            return Err(RouteError::Host(text.to_owned()));
        }
        Ok(Self { name, is_suffix })
    }
}

impl std::fmt::Display for RouteHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_suffix { "*." } else { "" })?;
        self.name.fmt(f)
    }
}

/// Text in which `*` stands for any characters, also none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Glob(String);

impl Glob {
    fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == text };
        let Some(mut text) = text.strip_prefix(first) else { return false };
        let mut pieces = rest.split('*').peekable();
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                return text.ends_with(piece);
            }
            let Some(at) = text.find(piece) else { return false };
            text = text.get(at + piece.len()..).unwrap_or_default();
        }
        true
    }
}

/// Paths that a route is about; `*` stands for any characters, `/` among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PathPattern(Glob);

impl PathPattern {
    /// Is it about this path? It has no query.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.0.matches(path)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.0
    }
}

impl std::str::FromStr for PathPattern {
    type Err = RouteError;
    fn from_str(text: &str) -> Result<Self, RouteError> {
        let is_path =
            text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
        if is_path { Ok(Self(Glob(text.to_owned()))) } else { Err(RouteError::Path(text.to_owned())) }
    }
}

/// Refs that may be pushed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RefPattern(Glob);

impl RefPattern {
    /// Is this ref among them?
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.matches(name)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.0
    }
}

impl std::str::FromStr for RefPattern {
    type Err = RouteError;
    fn from_str(text: &str) -> Result<Self, RouteError> {
        let stars = text.matches('*').count();
        let is_ref = text.strip_prefix("refs/").is_some_and(|rest| !rest.is_empty())
            && !text.contains("..")
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?[\\^~:".contains(&byte))
            && (stars == 0 || (stars == 1 && text.ends_with('*')));
        if is_ref { Ok(Self(Glob(text.to_owned()))) } else { Err(RouteError::Ref(text.to_owned())) }
    }
}

/// An HTTP method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MethodName(String);

impl MethodName {
    /// As it stands in a request.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for MethodName {
    type Err = RouteError;
    fn from_str(text: &str) -> Result<Self, RouteError> {
        let is_method = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        if is_method { Ok(Self(text.to_owned())) } else { Err(RouteError::Method(text.to_owned())) }
    }
}

/// Where a secret is read from. The controller reads it; its value is nowhere but in memory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// A variable of the daemon's environment.
    Env(String),
    /// A file, relative to the directory of the settings.
    File(PathBuf),
}

impl std::fmt::Display for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Env(name) => write!(f, "the variable {name}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

/// How a credential is presented.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthScheme {
    /// `Authorization: Bearer SECRET`
    Bearer,
    /// `Authorization: Basic …` of a secret `USER:PASSWORD`.
    Basic,
    /// The secret as the value of a header of this name, in lower case.
    Header(String),
    /// The request is signed anew for AWS by a secret `KEY_ID:SECRET[:SESSION_TOKEN]`.
    SigV4,
}

impl std::str::FromStr for AuthScheme {
    type Err = RouteError;
    fn from_str(text: &str) -> Result<Self, RouteError> {
        let error = || RouteError::Scheme(text.to_owned());
        match text.to_ascii_lowercase().as_str() {
            "bearer" => Ok(Self::Bearer),
            "basic" => Ok(Self::Basic),
            "sigv4" => Ok(Self::SigV4),
            scheme => {
                let name = scheme.strip_prefix("header:").ok_or_else(error)?;
                let is_name =
                    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
                if is_name { Ok(Self::Header(name.to_owned())) } else { Err(error()) }
            }
        }
    }
}

/// What becomes of the credentials of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// What the agent brings passes, but to no metered host.
    #[default]
    Unsaid,
    /// What the agent brings passes.
    Passthrough,
    /// What the agent brings is taken out, this is put in.
    Inject(AuthScheme, SecretSource),
}

/// What becomes of a request in which a detector finds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboundOnMatch {
    /// Nothing is looked for but secrets that are injected.
    Off,
    /// It is refused.
    Block,
    /// It goes without what was found.
    Redact,
    /// It waits for an operator.
    Supervise,
}

impl OutboundOnMatch {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Off, Self::Block, Self::Redact, Self::Supervise];

    /// As it stands in routes files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Block => "block",
            Self::Redact => "redact",
            Self::Supervise => "supervise",
        }
    }
}

/// What becomes of a response in which a detector finds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InboundOnMatch {
    /// Nothing is looked for.
    Off,
    /// It ends there.
    Block,
    /// It goes on without what was found.
    Redact,
}

impl InboundOnMatch {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Off, Self::Block, Self::Redact];

    /// As it stands in routes files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Block => "block",
            Self::Redact => "redact",
        }
    }
}

impl TryFrom<String> for RouteHost {
    type Error = RouteError;
    fn try_from(text: String) -> Result<Self, RouteError> {
        text.parse()
    }
}

impl From<RouteHost> for String {
    fn from(host: RouteHost) -> Self {
        host.to_string()
    }
}

/// Which requests of a route are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestLog {
    /// None.
    Off,
    /// Those that are refused.
    #[default]
    Blocks,
    /// Every one.
    All,
}

impl RequestLog {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Off, Self::Blocks, Self::All];

    /// As it stands in routes files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Blocks => "blocks",
            Self::All => "all",
        }
    }
}

/// One allowed destination, and what may happen on the way there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it is written: `routes.yaml:12`.
    pub place: String,
    /// `host:`
    pub host: RouteHost,
    /// `ports:`
    pub ports: Vec<u16>,
    /// `paths:`; all when empty.
    pub paths: Vec<PathPattern>,
    /// `methods:`; all when empty.
    pub methods: Vec<MethodName>,
    /// `intercept:` whether TLS is ended here. Where it is not, nothing but the name and the port is looked at.
    pub intercept: bool,
    /// `private:` whether the name may lead to an address of this network.
    pub private: bool,
    /// `auth:`, `auth_scheme:`, `token_env:` and `token_file:`
    pub auth: Auth,
    /// `git_fetch:`
    pub git_fetch: bool,
    /// `git_push:`
    pub git_push: Vec<RefPattern>,
    /// `outbound_on_match:`; as the file says when `None`.
    pub outbound: Option<OutboundOnMatch>,
    /// `inbound_on_match:`; as the file says when `None`.
    pub inbound: Option<InboundOnMatch>,
    /// `log:`; as the file says when `None`.
    pub log: Option<RequestLog>,
}

impl Route {
    /// A route that says nothing but where it leads.
    #[must_use]
    pub fn to(host: RouteHost, place: String) -> Self {
        Self {
            place,
            host,
            ports: USUAL_PORTS.to_vec(),
            paths: Vec::new(),
            methods: Vec::new(),
            intercept: true,
            private: false,
            auth: Auth::Unsaid,
            git_fetch: false,
            git_push: Vec::new(),
            outbound: None,
            inbound: None,
            log: None,
        }
    }
}

/// Something that is looked for in what passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectorRule {
    /// What it is called in refusals, logs and the audit.
    pub name: String,
    /// What it looks for.
    pub looks_for: LooksFor,
    /// The line of the file it is written in.
    pub line: usize,
}

/// What a detector of an operator's looks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LooksFor {
    /// A regular expression.
    Pattern(String),
    /// Exactly this.
    Secret(SecretSource),
}

/// One routes file. What it leaves out is as the next file of the chain says: that of a bottle's parents, then the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFile {
    /// `inherit:` whether there is a next file.
    pub inherit: bool,
    /// `providers:` whose metered hosts are allowed without a route.
    pub providers: Option<Vec<ProviderName>>,
    /// `auth: passthrough`: what agents bring may pass to metered hosts without a route.
    pub passthrough: Option<bool>,
    /// `outbound_on_match:`
    pub outbound: Option<OutboundOnMatch>,
    /// `inbound_on_match:`
    pub inbound: Option<InboundOnMatch>,
    /// `log:`
    pub log: Option<RequestLog>,
    /// `approval_timeout:` how long an operator may take.
    pub approval_timeout: Option<Duration>,
    /// `detectors:` what is looked for beside what is built in.
    pub detectors: Vec<DetectorRule>,
    /// `without:` built-in detectors that are left out.
    pub without: Vec<String>,
    /// `markers:` what is looked for in responses beside that.
    pub markers: Vec<DetectorRule>,
    /// `routes:` the first that matches decides.
    pub routes: Vec<Route>,
}

impl Default for RouteFile {
    fn default() -> Self {
        Self {
            inherit: true,
            providers: None,
            passthrough: None,
            outbound: None,
            inbound: None,
            log: None,
            approval_timeout: None,
            detectors: Vec::new(),
            without: Vec::new(),
            markers: Vec::new(),
            routes: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_is_every_name_below_and_not_the_name() {
        let check = |pattern: &str, host: &str, expected| {
            let pattern: RouteHost = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&host.parse().unwrap()), expected, "{pattern} {host}");
        };
        check("example.com", "example.com", true);
        check("Example.com", "a.example.com", false);
        check("*.example.com", "a.example.com", true);
        check("*.example.com", "a.b.example.com", true);
        check("*.example.com", "example.com", false);
        check("*.example.com", "badexample.com", false);
        for bad in ["*.com", "*", "a.*.com", "*example.com", "10.0.0.1", "", "*.", "https://a.com", "a.com:443"] {
            assert_eq!(bad.parse::<RouteHost>(), Err(RouteError::Host(bad.to_owned())));
        }
    }

    #[test]
    fn a_star_stands_for_any_characters_of_a_path() {
        let check = |pattern: &str, path: &str, expected| {
            let found = pattern.parse::<PathPattern>().unwrap().matches(path);
            assert_eq!(found, expected, "{pattern} {path}");
        };
        check("/v1/messages", "/v1/messages", true);
        check("/v1/messages", "/v1/messages/x", false);
        check("/v1/*", "/v1/", true);
        check("/v1/*", "/v1/a/b", true);
        check("/v1/*", "/v1", false);
        check("/*/info/refs", "/a/b.git/info/refs", true);
        check("/*/info/refs", "/a/b.git/info/refs/x", false);
        check("/a*b*b", "/ab", false);
        check("/a*b*b", "/abb", true);
        check("/repos/*/*/pulls", "/repos/o/r/pulls", true);
        check("/repos/*/*/pulls", "/repos/o/pulls", false);
        for bad in ["v1", "", "/a b", "/a?b=c", "/a#b", "/ü"] {
            assert_eq!(bad.parse::<PathPattern>(), Err(RouteError::Path(bad.to_owned())));
        }
    }

    #[test]
    fn refs_methods_and_schemes_are_what_they_are_elsewhere() {
        let pattern: RefPattern = "refs/heads/bottle/*".parse().unwrap();
        assert!(pattern.matches("refs/heads/bottle/x/y") && !pattern.matches("refs/heads/main"));
        assert!("refs/heads/main".parse::<RefPattern>().unwrap().matches("refs/heads/main"));
        for bad in ["main", "refs/", "refs/*/x", "refs/heads/..", "refs/heads/a b", "refs/heads/a^b", "refs/**"] {
            assert_eq!(bad.parse::<RefPattern>(), Err(RouteError::Ref(bad.to_owned())));
        }
        assert!("get".parse::<MethodName>().is_err() && "GET".parse::<MethodName>().is_ok());
        assert_eq!("Bearer".parse(), Ok(AuthScheme::Bearer));
        assert_eq!("header:X-Api-Key".parse(), Ok(AuthScheme::Header("x-api-key".to_owned())));
        assert!("header:".parse::<AuthScheme>().is_err() && "digest".parse::<AuthScheme>().is_err());
    }
}
