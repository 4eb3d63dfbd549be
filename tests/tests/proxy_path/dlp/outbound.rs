//! Requests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use egress_userspace::domain::{InboundOnMatch, OutboundOnMatch, RefusalReason};
use hyper::http::request::{Builder, Parts};
use hyper::{Request, Response, StatusCode, Version};
use serde_json::json;

use super::super::client::{Client, Way, refusal, whole};
use super::super::world::{Heard, PROVIDER, ROUTED, World};
use super::{SECRET, brotli, gzip, open, private_key, samples, token, world, zstd};

/// Sends a request that is to be refused, naming this detector.
pub(super) async fn check_refused(
    world: &World,
    client: &mut Client,
    detector: &str,
    request: Builder,
    path: &str,
    body: Vec<u8>,
) {
    let told_before = world.heard.borrow().refused.len();
    let response = client.send_to(ROUTED, request, path, body).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN, "{detector}");
    let body = refusal(response).await;
    assert_eq!(body["egress_reason"], "sensitive_data");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("the detector {detector} ")), "{message}");
    let shown = body.to_string();
    assert!(samples().iter().all(|(_, value)| !shown.contains(value.as_str())), "{shown}");
    let heard = world.wait("the refusal is told", |heard: &Heard| heard.refused.len() > told_before).await;
    let told = heard.refused.last().unwrap();
    assert_eq!((told.reason, told.rule.as_deref()), (RefusalReason::SensitiveData, Some(detector)));
    assert!(samples().iter().all(|(_, value)| !told.target.contains(value.as_str())), "{}", told.target);
}

/// Sends a request that passes; what reaches the host.
pub(super) async fn passed(
    world: &World,
    client: &mut Client,
    host: &str,
    request: Builder,
    path: &str,
    body: Vec<u8>,
) -> (Parts, Bytes) {
    let answering = async {
        let asked = world.provider.asked().await;
        let seen = (asked.head.clone(), asked.body.clone());
        asked.whole(Response::builder(), "fine");
        seen
    };
    let (response, seen) = tokio::join!(client.send_to(host, request, path, body), answering);
    let response = response.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(&whole(response).await[..], b"fine");
    seen
}

/// The ways in which a body may be written.
fn written(value: &str) -> Vec<(Builder, Vec<u8>)> {
    let post = || Request::post("/");
    let text = format!("before {value} after").into_bytes();
    let unicode: String = value.chars().map(|char| format!("\\u{:04x}", u32::from(char))).collect();
    vec![
        (post(), text.clone()),
        (
            post().header("content-type", "application/json"),
            json!({"text": format!("a\n{value}\n")}).to_string().into(),
        ),
        (post(), format!("{{\"text\":\"{unicode}\"}}").into()),
        // The arguments of a call: JSON in a string of JSON.
        (post(), json!({"arguments": format!("{{\"text\":\"{unicode}\"}}")}).to_string().into()),
        (post(), json!({"data": STANDARD.encode(&text)}).to_string().into()),
        (post().header("content-encoding", "gzip"), gzip(&text)),
        (post().header("content-encoding", "br"), brotli(&text)),
        (post().header("content-encoding", "zstd"), zstd(&text)),
        (post().header("content-encoding", "gzip, zstd"), zstd(&gzip(&text))),
        // What says nothing of being compressed is looked into all the same.
        (post(), gzip(&text)),
        (post(), padded(gzip(&text))),
        (post(), skipped(zstd(&text))),
        (post().header("content-encoding", "gzip"), skipped(zstd(&text))),
        (post(), [zstd(b"nothing"), zstd(&text), b"more".to_vec()].concat()),
    ]
}

/// Behind it the zeros that archives are filled up with.
fn padded(body: Vec<u8>) -> Vec<u8> {
    [body, vec![0; 512]].concat()
}

/// In front of it a frame that readers of zstd skip.
fn skipped(body: Vec<u8>) -> Vec<u8> {
    [b"\x5a\x2a\x4d\x18\x04\0\0\0skip".to_vec(), body].concat()
}

#[tokio::test]
async fn what_a_detector_finds_is_refused_by_its_name_however_it_is_written() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for (detector, value) in samples() {
            let world = world(OutboundOnMatch::Block, InboundOnMatch::Off).await;
            for (request, body) in written(&value) {
                let mut client = open(&world, version).await;
                check_refused(&world, &mut client, detector, request, "/upload", body).await;
            }
            assert!(world.provider.is_untouched().await);
        }
    }
}

#[tokio::test]
async fn urls_headers_and_forms_are_looked_at() {
    let world = world(OutboundOnMatch::Block, InboundOnMatch::Off).await;
    let percent = |value: &str| value.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    for (detector, value) in samples() {
        let mut client = open(&world, Version::HTTP_11).await;
        check_refused(&world, &mut client, detector, Request::get("/"), &format!("/x?q={}", percent(&value)), vec![])
            .await;
        check_refused(&world, &mut client, detector, Request::get("/"), &format!("/x/{}", percent(&value)), vec![])
            .await;
        let form = Request::post("/").header("content-type", "application/x-www-form-urlencoded");
        check_refused(&world, &mut client, detector, form, "/x", format!("q={}", percent(&value)).into()).await;
        if !value.contains('\n') {
            let request = Request::get("/").header("x-note", &value);
            check_refused(&world, &mut client, detector, request, "/x", vec![]).await;
        }
    }
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn a_request_brings_its_own_credential_but_none_that_is_not_its_own() {
    let world = world(OutboundOnMatch::Block, InboundOnMatch::Off).await;
    let mut client = open(&world, Version::HTTP_11).await;
    let own = || {
        Request::get("/")
            .header("authorization", format!("Bearer {}", token()))
            .header("cookie", format!("s={}", token()))
    };
    let (head, _) = passed(&world, &mut client, ROUTED, own(), "/x", vec![]).await;
    assert_eq!(head.headers["authorization"], format!("Bearer {}", token()));
    let other = Request::get("/").header("authorization", format!("Bearer {SECRET}"));
    check_refused(&world, &mut client, "injected-secret", other, "/x", vec![]).await;
}

#[tokio::test]
async fn what_cannot_be_looked_at_does_not_pass() {
    let world = world(OutboundOnMatch::Block, InboundOnMatch::Off).await;
    let bomb = zstd(&vec![0; 64 << 20]);
    let broken = || [&gzip(b"x")[..10], b"\xff no deflate"].concat();
    for (encoding, body) in [
        ("lzw", b"x".to_vec()),
        ("gzip", broken()),
        ("zstd", bomb.clone()),
        ("identity", broken()),
        ("identity", [gzip(b"x"), gzip(b"y")[1..].to_vec()].concat()),
        ("identity", [bomb, zstd(token().as_bytes())].concat()),
    ] {
        let mut client = open(&world, Version::HTTP_11).await;
        let request = Request::post("/").header("content-encoding", encoding);
        let response = client.send_to(ROUTED, request, "/x", body).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{encoding}");
        assert_eq!(refusal(response).await["egress_reason"], "sensitive_data");
    }
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn what_is_compressed_and_does_not_say_so_passes_as_it_is_if_all_of_it_can_be_read() {
    let world = world(OutboundOnMatch::Block, InboundOnMatch::Off).await;
    let text = "nothing to be found ".repeat(1000);
    let gzipped = gzip(text.as_bytes());
    for body in [
        gzipped.clone(),
        padded(gzipped.clone()),
        [padded(gzipped.clone()), gzipped.clone()].concat(),
        skipped(zstd(text.as_bytes())),
        // The first part of an upload in parts.
        gzipped[..gzipped.len() / 2].to_vec(),
        // No method of gzip.
        b"\x1f\x8b\x07 and so on".to_vec(),
    ] {
        let mut client = open(&world, Version::HTTP_11).await;
        let (_, seen) = passed(&world, &mut client, ROUTED, Request::post("/"), "/x", body.clone()).await;
        assert!(seen == body);
    }
}

#[tokio::test]
async fn what_is_redacted_leaves_in_its_length_and_in_no_encoding() {
    let world = world(OutboundOnMatch::Redact, InboundOnMatch::Off).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for (_, value) in samples() {
            // A body that is compressed and does not say so cannot be changed.
            let ways = written(&value);
            for (request, body) in ways.into_iter().take(8) {
                let mut client = open(&world, version).await;
                let request = request.header("content-md5", "x");
                let (head, seen) = passed(&world, &mut client, ROUTED, request, "/x", body.clone()).await;
                assert!(!head.headers.contains_key("content-encoding") && !head.headers.contains_key("content-md5"));
                if let Some(length) = head.headers.get("content-length") {
                    assert_eq!(length.to_str().unwrap(), seen.len().to_string());
                }
                let shown = String::from_utf8(seen.to_vec()).unwrap();
                assert!(!shown.contains(&value) && (shown.contains('*') || shown.contains("Kio")), "{shown}");
                if shown.starts_with('{') {
                    let json: serde_json::Value = serde_json::from_str(&shown).unwrap();
                    if let Some(data) = json["data"].as_str() {
                        let data = STANDARD.decode(data).unwrap();
                        assert!(!String::from_utf8_lossy(&data).contains(&value));
                    }
                }
            }
        }
    }
    let mut client = open(&world, Version::HTTP_11).await;
    let request = Request::get("/").header("x-note", token());
    let (head, _) = passed(&world, &mut client, ROUTED, request, &format!("/x?q={}&z=1", token()), vec![]).await;
    let stars = "*".repeat(token().len());
    assert_eq!(head.uri.path_and_query().unwrap().as_str(), format!("/x?q={stars}&z=1"));
    assert_eq!(head.headers["x-note"], stars);
    let heard = world.wait("it is told", |heard: &Heard| heard.redacted.len() > 8).await;
    let last = heard.redacted.last().unwrap();
    assert_eq!(last, &("github-token".to_owned(), ROUTED.to_owned(), "GET /x".to_owned(), true, 2));
    assert_eq!(heard.refused, []);
}

#[tokio::test]
async fn a_long_body_is_looked_at_as_it_comes_and_refused_although_some_has_left() {
    let world = world(OutboundOnMatch::Block, InboundOnMatch::Off).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut body = b"0123456789 abcdef ".repeat(500_000);
        let mut client = open(&world, version).await;
        let (_, seen) = passed(&world, &mut client, ROUTED, Request::post("/"), "/x", body.clone()).await;
        assert!(seen == body);
        body.extend_from_slice(private_key().as_bytes());
        check_refused(&world, &mut client, "private-key", Request::post("/"), "/x", body).await;
    }
}

#[tokio::test]
async fn a_metered_request_that_is_refused_spends_nothing_and_one_that_is_redacted_is_admitted() {
    let key = private_key();
    let body = |stream: bool| {
        let content = format!("my key is\n{key}");
        json!({"model": "claude-x", "max_tokens": 100, "stream": stream, "messages": [{"role": "user", "content": content}]})
    };
    let blocking = world(OutboundOnMatch::Block, InboundOnMatch::Off).await;
    let mut client = Client::open(&blocking, Way::Transparent, Version::HTTP_2).await;
    let request = Request::post("/").header("x-api-key", format!("sk-ant-api03-{}", "k".repeat(40)));
    let response = client.send_to(PROVIDER, request, "/v1/messages", body(true).to_string()).await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(refusal(response).await["egress_reason"], "sensitive_data");
    assert!(blocking.provider.is_untouched().await);
    assert_eq!(blocking.heard.borrow().admits, []);

    let redacting = world(OutboundOnMatch::Redact, InboundOnMatch::Off).await;
    let mut client = Client::open(&redacting, Way::Transparent, Version::HTTP_2).await;
    let request = Request::post("/").header("x-api-key", "sk-ant-api03-own").header("content-encoding", "gzip");
    let (head, seen) =
        passed(&redacting, &mut client, PROVIDER, request, "/v1/messages", gzip(body(false).to_string().as_bytes()))
            .await;
    assert_eq!(head.headers["x-api-key"], "sk-ant-api03-own");
    assert!(!String::from_utf8_lossy(&seen).contains("BEGIN PRIVATE"));
    assert_eq!(redacting.heard.borrow().admits.len(), 1);
}

#[tokio::test]
async fn secrets_of_routes_never_leave_even_where_nothing_else_is_looked_for() {
    let world = world(OutboundOnMatch::Off, InboundOnMatch::Off).await;
    let mut client = open(&world, Version::HTTP_11).await;
    let (_, seen) = passed(&world, &mut client, ROUTED, Request::post("/"), "/x", token().into()).await;
    assert_eq!(seen, token().as_bytes());
    check_refused(&world, &mut client, "injected-secret", Request::post("/"), "/x", gzip(SECRET.as_bytes())).await;
    let body = STANDARD.encode(format!("u:{SECRET}"));
    check_refused(&world, &mut client, "injected-secret", Request::post("/"), "/x", body.into()).await;
}
