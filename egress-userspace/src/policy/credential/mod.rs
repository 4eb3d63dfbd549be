//! What becomes of the credentials of a request: an agent's own, and the one that a route puts in their place.
//!
//! Pure. A secret is in no message, no error and no debug output, and wiped from memory with the last request that holds it.

mod brought;
mod sigv4;

use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Uri};
use zeroize::Zeroizing;

use crate::domain::{Auth, AuthScheme, Host, Refusal, RefusalReason, Secret, SecretSource};

use super::percent;

/// What the controller has read.
pub type Secrets = BTreeMap<SecretSource, Secret>;

/// What becomes of a request's credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// It goes with what it has, or has not.
    Own,
    /// What it has is taken out; this is put in.
    Ours {
        /// How.
        scheme: AuthScheme,
        /// For messages.
        source: SecretSource,
        /// Never empty.
        secret: Secret,
    },
}

/// Decides it. `uri` and `headers` are those of the request.
///
/// # Errors
///
/// The agent may not bring what it brings, or what belongs in its place is not to be had.
pub fn credential(
    auth: &Auth,
    is_metered: bool,
    host: &Host,
    (uri, headers): (&Uri, &HeaderMap),
    secrets: &Secrets,
) -> Result<Credential, Refusal> {
    match auth {
        Auth::Passthrough => Ok(Credential::Own),
        Auth::Unsaid if !is_metered => Ok(Credential::Own),
        Auth::Unsaid => {
            brought::found(uri, headers).map_or(Ok(Credential::Own), |found| Err(not_allowed(host, &found)))
        }
        Auth::Inject(scheme, source) => {
            let secret = secrets.get(source).filter(|secret| !secret.reveal().is_empty());
            let secret = secret.ok_or_else(|| missing(host, source, "is not to be had"))?.clone();
            if leads_elsewhere(uri.path()) {
                return Err(Refusal::of(
                    RefusalReason::RouteForbids,
                    format!("a path with \".\" or \"..\" in it gets no credential: write out where {host} is asked"),
                ));
            }
            Ok(Credential::Ours { scheme: scheme.clone(), source: source.clone(), secret })
        }
    }
}

impl Credential {
    /// Takes out what the agent brought, if ours takes its place.
    pub fn strip(&self, uri: &mut Uri, headers: &mut HeaderMap) {
        let Self::Ours { scheme, .. } = self else { return };
        brought::strip(uri, headers);
        if let AuthScheme::Header(name) = scheme {
            headers.remove(name);
        }
    }

    /// Must all of the request's body be known before ours can be put in?
    #[must_use]
    pub fn signs_body(&self) -> bool {
        matches!(self, Self::Ours { scheme: AuthScheme::SigV4, .. })
    }

    /// Puts ours in, if it is ours that goes. `body` is what a signature covers: all of it.
    ///
    /// # Errors
    ///
    /// It cannot be presented so.
    pub fn present(&self, request: Unsigned<'_>, headers: &mut HeaderMap, now: SystemTime) -> Result<(), Refusal> {
        let Self::Ours { scheme, source, secret } = self else { return Ok(()) };
        let fault = |fault: &str| missing(request.host, source, fault);
        let (name, value) = match scheme {
            AuthScheme::Bearer => (AUTHORIZATION, Zeroizing::new(format!("Bearer {}", secret.reveal()))),
            AuthScheme::Basic => {
                let pair = secret.reveal();
                if !pair.contains(':') {
                    return Err(fault("does not hold USER:PASSWORD, as `auth_scheme: basic` needs it"));
                }
                let encoded = Zeroizing::new(STANDARD.encode(pair));
                (AUTHORIZATION, Zeroizing::new(format!("Basic {}", *encoded)))
            }
            AuthScheme::Header(name) => {
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| fault("belongs into no header"))?;
                (name, Zeroizing::new(secret.reveal().to_owned()))
            }
            AuthScheme::SigV4 => {
                return sigv4::sign(secret, request, headers, now).map_err(|error| fault(error.as_str()));
            }
        };
        let value = sensitive(value).ok_or_else(|| fault("holds characters that no header may"))?;
        headers.insert(name, value);
        Ok(())
    }
}

/// What else a signature covers.
#[derive(Clone, Copy, Debug)]
pub struct Unsigned<'a> {
    /// GET, POST …
    pub method: &'a Method,
    /// Where it is sent.
    pub host: &'a Host,
    /// What it asks for, with host and port.
    pub uri: &'a Uri,
    /// All of its body.
    pub body: &'a [u8],
}

/// A header's value that is wiped when nobody has it any more, and that no HTTP/2 table keeps.
fn sensitive(value: Zeroizing<String>) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(value)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Does a server that resolves its dots read another path than the one that a route was found for?
fn leads_elsewhere(path: &str) -> bool {
    let path = percent::decode(&percent::decode(path)).replace('\\', "/");
    path.split('/').any(|piece| matches!(piece.split(';').next(), Some("." | "..")))
}

fn missing(host: &Host, source: &SecretSource, fault: &str) -> Refusal {
    let message = format!(
        "the credential that a route puts into requests to {host} {fault}: the operator sees to {source}; \
        nothing is sent without it"
    );
    Refusal::of(RefusalReason::CredentialMissing, message)
}

fn not_allowed(host: &Host, found: &str) -> Refusal {
    let message = format!(
        "the request brings a credential of its own ({found}), and no route lets it pass to {host}, which is metered: \
        an operator writes, in routes.yaml, `auth: passthrough` for it, or `auth_scheme:` with `token_env:` or \
        `token_file:` for one of the host's"
    );
    Refusal::of(RefusalReason::CredentialNotAllowed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "KEY";

    fn inject(scheme: &str) -> Auth {
        Auth::Inject(scheme.parse().unwrap(), SecretSource::Env(SOURCE.to_owned()))
    }

    fn host() -> Host {
        "api.anthropic.com".parse().unwrap()
    }

    /// The headers that leave, each with whether it is marked as sensitive.
    fn sent(
        auth: &Auth,
        is_metered: bool,
        target: &str,
        brought: &[(&str, &str)],
        secret: &str,
    ) -> Result<Sent, Refusal> {
        let line = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        let (mut uri, mut headers): (Uri, HeaderMap) = (target.parse().unwrap(), brought.iter().map(line).collect());
        let secrets = Secrets::from([(SecretSource::Env(SOURCE.to_owned()), Secret::new(secret.to_owned()))]);
        let credential = credential(auth, is_metered, &host(), (&uri, &headers), &secrets)?;
        credential.strip(&mut uri, &mut headers);
        assert!(!format!("{credential:?}").contains("s3cret"), "{credential:?}");
        let unsigned = Unsigned { method: &Method::POST, host: &host(), uri: &uri, body: b"" };
        credential.present(unsigned, &mut headers, SystemTime::UNIX_EPOCH)?;
        assert!(!format!("{headers:?}").contains("s3cret"), "{headers:?}");
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned(), value.is_sensitive())
        };
        Ok((uri.to_string(), headers.iter().map(line).collect()))
    }

    type Sent = (String, Vec<(String, String, bool)>);

    fn check(auth: &Auth, secret: &str, expected: Result<(&str, &str), RefusalReason>) {
        let brought =
            [("authorization", "Bearer agent"), ("x-api-key", "agent"), ("cookie", "agent=1"), ("accept", "*/*")];
        let found = sent(auth, true, "/v1/messages?beta=true&key=agent", &brought, secret);
        let expected = expected.map(|(name, value)| {
            let lines = [("accept", "*/*", false), (name, value, true)];
            let line =
                |(name, value, is_sensitive): (&str, &str, bool)| (name.to_owned(), value.to_owned(), is_sensitive);
            ("/v1/messages?beta=true".to_owned(), lines.map(line).to_vec())
        });
        assert_eq!(found.map_err(|refusal| refusal.reason), expected, "{auth:?}");
    }

    #[test]
    fn what_the_agent_brings_is_taken_out_and_the_routes_is_put_in() {
        check(&inject("bearer"), "s3cret", Ok(("authorization", "Bearer s3cret")));
        check(&inject("basic"), "user:s3cret", Ok(("authorization", "Basic dXNlcjpzM2NyZXQ=")));
        check(&inject("header:X-Api-Key"), "s3cret", Ok(("x-api-key", "s3cret")));
        check(&inject("header:x-own"), "s3cret", Ok(("x-own", "s3cret")));
        let found =
            sent(&inject("header:x-own"), false, "/", &[("X-Own", "agent"), ("x-own", "two")], "s3cret").unwrap();
        assert_eq!(found.1, [("x-own".to_owned(), "s3cret".to_owned(), true)]);
    }

    #[test]
    fn nothing_is_sent_without_a_secret_that_fits() {
        check(&inject("bearer"), "", Err(RefusalReason::CredentialMissing));
        check(&inject("basic"), "s3cret", Err(RefusalReason::CredentialMissing));
        check(&inject("header:x-own"), "s3cret\nx: y", Err(RefusalReason::CredentialMissing));
        check(&inject("sigv4"), "s3cret", Err(RefusalReason::CredentialMissing));
        let other = Auth::Inject(AuthScheme::Bearer, SecretSource::Env("OTHER".to_owned()));
        check(&other, "s3cret", Err(RefusalReason::CredentialMissing));
        let refusal = sent(&other, true, "/", &[], "s3cret").unwrap_err();
        assert!(refusal.message.contains("the variable OTHER") && !refusal.message.contains("s3cret"), "{refusal:?}");
    }

    #[test]
    fn an_agents_own_leaves_where_a_route_says_so_or_the_host_is_not_metered() {
        let check = |auth: &Auth, is_metered, brought: &[(&str, &str)], expected: Result<usize, RefusalReason>| {
            let found = sent(auth, is_metered, "/v1/messages", brought, "s3cret");
            assert_eq!(found.map(|(_, lines)| lines.len()).map_err(|refusal| refusal.reason), expected);
        };
        let key = [("x-api-key", "agent")];
        check(&Auth::Passthrough, true, &key, Ok(1));
        check(&Auth::Unsaid, false, &key, Ok(1));
        check(&Auth::Unsaid, true, &key, Err(RefusalReason::CredentialNotAllowed));
        check(&Auth::Unsaid, true, &[("accept", "*/*")], Ok(1));
        let refusal = sent(&Auth::Unsaid, true, "/?key=AIza123", &[], "").unwrap_err();
        for part in ["\"key\" in the query", "auth: passthrough", "token_env:", "api.anthropic.com"] {
            assert!(refusal.message.contains(part), "{refusal:?}");
        }
        assert!(!refusal.message.contains("AIza123"), "{refusal:?}");
    }

    #[test]
    fn no_path_leads_a_secret_elsewhere() {
        let check = |path: &str, expected: Result<(), RefusalReason>| {
            let found = sent(&inject("bearer"), false, path, &[], "s3cret").map(|_| ());
            assert_eq!(found.map_err(|refusal| refusal.reason), expected, "{path}");
        };
        for path in
            ["/v1/../admin", "/v1/%2e%2E/admin", "/v1/.%252e/admin", "/v1/..;x=1/admin", "/v1/..%2fadmin", "/v1/./x"]
        {
            check(path, Err(RefusalReason::RouteForbids));
        }
        for path in ["/v1/messages", "/a..b/.x/x.", "/", "/v1/...", "/a?x=/../"] {
            check(path, Ok(()));
        }
    }
}
