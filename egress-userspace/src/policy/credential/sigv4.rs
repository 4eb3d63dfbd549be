//! Signatures of AWS, version 4: a request as canonical text, and a key made of date, region and service that signs it.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::time::SystemTime;

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use ring::digest::{SHA256, digest};
use ring::hmac::{HMAC_SHA256, Key, sign as hmac};
use zeroize::Zeroizing;

use crate::domain::{Host, Secret};

use super::super::percent::{decoded, encode};
use super::{Unsigned, sensitive};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SESSION: HeaderName = HeaderName::from_static("x-amz-security-token");
/// Headers of AWS's own, which a signature must cover.
const OWN_HEADERS: &str = "x-amz-";
/// How services sign whose hosts are called otherwise.
const SERVICES: [(&str, &str); 3] =
    [("bedrock-runtime", "bedrock"), ("bedrock-agent-runtime", "bedrock"), ("bedrock-agent", "bedrock")];
/// A host of federal standards signs like the other.
const FIPS: &str = "-fips";
/// What the hosts of services end with.
const DOMAINS: [&str; 3] = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"];

/// Why a request cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsignable {
    /// The secret is not a key.
    Key,
    /// The host names no service and region.
    Host,
    /// A header is no text.
    Header,
    /// It is no time that can be written.
    Clock,
}

impl Unsignable {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Key => "does not hold KEY_ID:SECRET or KEY_ID:SECRET:SESSION_TOKEN, as `auth_scheme: sigv4` needs it",
            Self::Host => "cannot sign: the host is not SERVICE.REGION.amazonaws.com, .amazonaws.com.cn or .api.aws",
            Self::Header => "cannot sign: a header of the request is not text",
            Self::Clock => "cannot sign: the clock of this host is wrong",
        }
    }
}

/// An access key.
struct AccessKey<'a> {
    id: &'a str,
    secret: &'a str,
    session: Option<&'a str>,
}

/// What a signature is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scope<'a> {
    region: &'a str,
    service: &'a str,
}

/// What a signature covers.
#[derive(Clone, Copy)]
struct Covered<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    /// In order.
    headers: &'a [(String, String)],
    body: &'a [u8],
}

/// Signs a request: `Host`, `Content-Type` and all headers of AWS's own, the body, the target.
pub(super) fn sign(
    secret: &Secret,
    request: Unsigned<'_>,
    headers: &mut HeaderMap,
    now: SystemTime,
) -> Result<(), Unsignable> {
    let key = access_key(secret.reveal()).ok_or(Unsignable::Key)?;
    let scope = scope(request.host).ok_or(Unsignable::Host)?;
    let now = Timestamp::try_from(now).map_err(|_| Unsignable::Clock)?;
    let time = now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
    headers.insert(DATE, HeaderValue::from_str(&time).map_err(|_| Unsignable::Header)?);
    if let Some(session) = key.session {
        let session = sensitive(Zeroizing::new(session.to_owned())).ok_or(Unsignable::Key)?;
        headers.insert(SESSION, session);
    }
    let authority = request.uri.authority().map_or(request.host.as_str(), |authority| authority.as_str());
    let mut signed = vec![(HOST.to_string(), authority.to_owned())];
    for name in headers.keys() {
        if *name == CONTENT_TYPE || name.as_str().starts_with(OWN_HEADERS) {
            signed.push((name.to_string(), values(headers, name)?));
        }
    }
    signed.sort();
    let covered = Covered {
        method: request.method.as_str(),
        path: request.uri.path(),
        query: request.uri.query().unwrap_or_default(),
        headers: &signed,
        body: request.body,
    };
    let authorization = authorization(&key, scope, &time, covered);
    let authorization = sensitive(authorization).ok_or(Unsignable::Key)?;
    headers.insert(AUTHORIZATION, authorization);
    Ok(())
}

fn access_key(secret: &str) -> Option<AccessKey<'_>> {
    let mut pieces = secret.splitn(3, ':');
    let (id, secret, session) = (pieces.next()?, pieces.next()?, pieces.next());
    let is_key = !id.is_empty() && !secret.is_empty() && session != Some("");
    is_key.then_some(AccessKey { id, secret, session })
}

/// Service and region by the host's name.
fn scope(host: &Host) -> Option<Scope<'_>> {
    let name = DOMAINS.iter().find_map(|domain| host.as_str().strip_suffix(domain))?;
    let (service, region) = name.split_once('.')?;
    let service = service.strip_suffix(FIPS).unwrap_or(service);
    let service = SERVICES.iter().find(|(host, _)| *host == service).map_or(service, |(_, signs)| *signs);
    (!region.contains('.')).then_some(Scope { region, service })
}

/// All values of a header, as they are signed.
fn values(headers: &HeaderMap, name: &HeaderName) -> Result<String, Unsignable> {
    let mut joined = String::new();
    for (number, value) in headers.get_all(name).iter().enumerate() {
        let value = value.to_str().map_err(|_| Unsignable::Header)?;
        joined.push_str(if number == 0 { "" } else { "," });
        let words: Vec<&str> = value.split_ascii_whitespace().collect();
        joined.push_str(&words.join(" "));
    }
    Ok(joined)
}

/// The header's value.
fn authorization(key: &AccessKey<'_>, scope: Scope<'_>, time: &str, covered: Covered<'_>) -> Zeroizing<String> {
    let names: Vec<&str> = covered.headers.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let lines: Vec<String> = covered.headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{}\n{names}\n{}",
        covered.method,
        canonical_path(covered.path),
        canonical_query(covered.query),
        lines.concat(),
        hex(digest(&SHA256, covered.body).as_ref()),
    );
    let date = time.split('T').next().unwrap_or_default();
    let Scope { region, service } = scope;
    let credential = format!("{date}/{region}/{service}/aws4_request");
    let hash = hex(digest(&SHA256, canonical.as_bytes()).as_ref());
    let text = format!("{ALGORITHM}\n{time}\n{credential}\n{hash}");
    let secret = Zeroizing::new(format!("AWS4{}", key.secret));
    let mut signing = Key::new(HMAC_SHA256, secret.as_bytes());
    for part in [date, region, service, "aws4_request"] {
        signing = Key::new(HMAC_SHA256, hmac(&signing, part.as_bytes()).as_ref());
    }
    let signature = hex(hmac(&signing, text.as_bytes()).as_ref());
    let id = key.id;
    Zeroizing::new(format!("{ALGORITHM} Credential={id}/{credential}, SignedHeaders={names}, Signature={signature}"))
}

/// The path as it is sent, without dots and empty pieces, encoded once more: `%3A` is signed as `%253A`.
fn canonical_path(path: &str) -> String {
    let mut pieces: Vec<&str> = Vec::new();
    for piece in path.split('/') {
        match piece {
            "" | "." => {}
            ".." => drop(pieces.pop()),
            piece => pieces.push(piece),
        }
    }
    let end = if path.ends_with('/') && !pieces.is_empty() { "/" } else { "" };
    encode(format!("/{}{end}", pieces.join("/")).as_bytes(), b"/")
}

/// The parameters in order, each encoded in the one way.
fn canonical_query(query: &str) -> String {
    let pieces = query.split('&').filter(|piece| !piece.is_empty());
    let pair = |piece: &str| {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        [name, value].map(|part| encode(&decoded(part), b""))
    };
    let mut pairs: Vec<[String; 2]> = pieces.map(pair).collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|[name, value]| format!("{name}={value}")).collect();
    pairs.join("&")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::credential::{Method, Uri};

    /// Published by AWS.
    const SUITE: &str = include_str!("testdata/aws4_testsuite.txt");
    const SUITE_CASES: usize = 34;
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    /// The headers of a request of the suite, as they are signed; a line that begins with a space goes on with the one before.
    fn headers(lines: &[&str]) -> Vec<(String, String)> {
        let mut read = HeaderMap::new();
        let unfolded = lines.join("\n").replace("\n ", " ");
        for line in unfolded.lines() {
            let (name, value) = line.split_once(':').unwrap();
            read.append(name.parse::<HeaderName>().unwrap(), value.trim().parse().unwrap());
        }
        let mut signed: Vec<_> = read.keys().map(|name| (name.to_string(), values(&read, name).unwrap())).collect();
        signed.sort();
        signed
    }

    fn check(request: &str, expected: &str) {
        let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
        let lines: Vec<&str> = head.lines().collect();
        let (method, target) = lines[0].strip_suffix(" HTTP/1.1").unwrap().split_once(' ').unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = headers(&lines[1..]);
        let time = &headers.iter().find(|(name, _)| name == "x-amz-date").unwrap().1;
        let key = AccessKey { id: "AKIDEXAMPLE", secret: SECRET, session: None };
        let scope = Scope { region: "us-east-1", service: "service" };
        let covered = Covered { method, path, query, headers: &headers, body: body.as_bytes() };
        assert_eq!(*authorization(&key, scope, time, covered), expected, "{request}");
    }

    #[test]
    fn requests_of_the_published_suite_are_signed_as_it_says() {
        let cases: Vec<_> = SUITE.split("\n=== ").skip(1).collect();
        assert_eq!(cases.len(), SUITE_CASES);
        for case in cases {
            let (request, expected) = case.split_once('\n').unwrap().1.split_once("\n---\n").unwrap();
            check(request, expected.trim());
        }
    }

    #[test]
    fn the_host_says_region_and_service() {
        let check = |host: &str, expected: Option<(&str, &str)>| {
            let host: Host = host.parse().unwrap();
            assert_eq!(scope(&host).map(|scope| (scope.service, scope.region)), expected, "{host}");
        };
        check("bedrock-runtime.eu-central-1.amazonaws.com", Some(("bedrock", "eu-central-1")));
        check("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", Some(("bedrock", "us-gov-west-1")));
        check("bedrock-runtime.cn-north-1.amazonaws.com.cn", Some(("bedrock", "cn-north-1")));
        check("bedrock-runtime.us-west-2.api.aws", Some(("bedrock", "us-west-2")));
        check("bedrock-mantle.us-east-1.api.aws", Some(("bedrock-mantle", "us-east-1")));
        check("aws-external-anthropic.us-east-1.api.aws", Some(("aws-external-anthropic", "us-east-1")));
        check("sqs.us-east-1.amazonaws.com", Some(("sqs", "us-east-1")));
        check("s3.amazonaws.com", None);
        check("bucket.s3.us-east-1.amazonaws.com", None);
        check("example.com", None);
    }

    #[test]
    fn a_request_is_signed_with_what_its_service_looks_at() {
        let host: Host = "bedrock-runtime.us-east-1.amazonaws.com".parse().unwrap();
        let uri: Uri = "/model/anthropic.claude-3%3A0/invoke".parse().unwrap();
        let request = Unsigned { method: &Method::POST, host: &host, uri: &uri, body: b"{}" };
        let sign = |secret: &str, lines: &[(&str, &str)]| {
            let line = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            let mut headers: HeaderMap = lines.iter().map(line).collect();
            let now = "2015-08-30T12:36:00Z".parse::<Timestamp>().unwrap().into();
            sign(&Secret::new(secret.to_owned()), request, &mut headers, now).map(|()| headers)
        };
        let lines = [("content-type", "application/json"), ("accept", "*/*"), ("x-amzn-bedrock-trace", "ENABLED")];
        let headers = sign(&format!("AKIDEXAMPLE:{SECRET}:session/token=="), &lines).unwrap();
        assert_eq!(headers["x-amz-date"], "20150830T123600Z");
        assert!(headers["x-amz-security-token"].is_sensitive() && headers["authorization"].is_sensitive());
        let authorization = headers["authorization"].to_str().unwrap();
        let expected = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/bedrock/aws4_request, \
            SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature=";
        assert!(authorization.starts_with(expected), "{authorization}");
        assert!(!sign(&format!("AKIDEXAMPLE:{SECRET}"), &[]).unwrap().contains_key("x-amz-security-token"));
        for secret in ["AKIDEXAMPLE", "AKIDEXAMPLE:", ":secret", "a:b:"] {
            assert_eq!(sign(secret, &[]).unwrap_err(), Unsignable::Key, "{secret}");
        }
    }
}
