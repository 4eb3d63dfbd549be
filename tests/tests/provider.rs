//! The test provider does what it is asked and says truly what it did; the meter reads it as a client would.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use egress_userspace::domain::{Api, Ending, Known, Tokens};
use egress_userspace::meter::{Reading, ResponseHead, ResponseMeter, ask};
use harness::provider::{Counts, HOST, OPENAI_HOST, Provider, Served};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What a client saw of one exchange.
struct Seen {
    status: u16,
    id: String,
    reading: Reading,
    is_whole: bool,
}

async fn start() -> Provider {
    Provider::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap()
}

async fn connect(provider: &Provider, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(provider.ca_pem.as_bytes()).unwrap()).unwrap();
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let tcp = TcpStream::connect(provider.address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(HOST).unwrap(), tcp).await.unwrap()
}

/// Sends a request and meters what comes back; `leave_after` frames, if any.
async fn exchange(provider: &Provider, request: Request<Full<Bytes>>, body: &str, leave_after: Option<usize>) -> Seen {
    let (mut sender, connection) = http1::handshake(TokioIo::new(connect(provider, b"http/1.1").await)).await.unwrap();
    tokio::spawn(connection);
    let is_openai = request.headers().get("host").is_some_and(|host| host == OPENAI_HOST);
    let api = if is_openai { Api::OpenAi } else { Api::Anthropic };
    let ask = ask(api, request.method().as_str(), request.uri().path(), body.as_bytes(), None);
    let response = sender.send_request(request).await.unwrap();
    let (head, mut body) = response.into_parts();
    let text = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap());
    let meter_head = ResponseHead {
        status: head.status.as_u16(),
        content_type: text("content-type"),
        content_encoding: text("content-encoding"),
        ..ResponseHead::default()
    };
    let mut meter = ResponseMeter::new(&ask, &meter_head);
    let mut frames = 0;
    let ending = loop {
        if leave_after.is_some_and(|after| frames >= after) {
            break Ending::Cancelled;
        }
        frames += 1;
        match body.frame().await {
            None => break Ending::Complete,
            Some(Err(_)) => break Ending::Error,
            Some(Ok(frame)) => meter.push(frame.data_ref().unwrap()),
        }
    };
    let id = text(if is_openai { "x-request-id" } else { "request-id" }).unwrap().to_owned();
    Seen { status: head.status.as_u16(), id, reading: meter.finish(ending), is_whole: ending == Ending::Complete }
}

fn post(body: &str, encoding: &str) -> Request<Full<Bytes>> {
    post_to(HOST, "/v1/messages?beta=true", body, encoding)
}

fn post_to(host: &str, path: &str, body: &str, encoding: &str) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("host", host)
        .header("accept-encoding", encoding)
        .header("x-test-bottle", "web")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap()
}

/// The log's entry, which is written when the server notices the end.
async fn logged(provider: &Provider, id: &str) -> Served {
    for _ in 0..500 {
        if let Some(served) = provider.log().into_iter().find(|served| served.id == id) {
            return served;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{id} was never logged");
}

fn counts(reading: &Reading) -> Counts {
    let usage = reading.usage;
    Counts {
        input: usage.input.0,
        cache_write: usage.cache_write.0,
        cache_read: usage.cache_read.0,
        output: usage.output.0,
    }
}

#[tokio::test]
async fn whole_responses_meter_to_what_was_served() {
    let provider = start().await;
    for encoding in ["identity", "gzip", "deflate", "br", "zstd"] {
        for (stream, extra) in
            [(true, ""), (false, ""), (true, "+compaction"), (true, "+delay-1"), (true, "+deltas-5000")]
        {
            let model = format!("claude-test+input-40+cache-read-900+cache-write-70+output-300{extra}");
            let body = format!(r#"{{"model":"{model}","stream":{stream},"max_tokens":1000}}"#);
            let seen = exchange(&provider, post(&body, encoding), &body, None).await;
            let expected = Counts { input: 40, cache_write: 70, cache_read: 900, output: 300 };
            assert_eq!(counts(&seen.reading), expected, "{encoding} {body}");
            assert_eq!((seen.status, seen.reading.known, seen.is_whole), (200, Known::Reported, true));
            assert_eq!(seen.reading.model.as_deref(), Some(model.as_str()));
            let served = logged(&provider, &seen.id).await;
            assert_eq!((served.usage, served.reported, served.output_sent), (expected, expected, 300));
            assert!(served.is_complete && served.bottle.as_deref() == Some("web") && served.encoding == encoding);
        }
    }
    assert_eq!(provider.stop().await.len(), 25);
}

#[tokio::test]
async fn thinking_tools_and_lifetimes_are_parts_of_the_usage() {
    let provider = start().await;
    for stream in [true, false] {
        let model = "claude-test+cache-write-70+cache-write-1h-50+output-300+reasoning-200+tool-use";
        let body = format!(r#"{{"model":"{model}","stream":{stream}}}"#);
        let seen = exchange(&provider, post(&body, "gzip"), &body, None).await;
        assert_eq!(counts(&seen.reading), Counts { input: 25, cache_write: 70, cache_read: 0, output: 300 }, "{body}");
        let details = seen.reading.details;
        assert_eq!((details.cache_write_1h, details.reasoning), (Tokens(50), Tokens(200)), "{body}");
    }
}

#[tokio::test]
async fn openais_answers_meter_to_what_was_served() {
    let provider = start().await;
    let all = Counts { input: 40, cache_write: 70, cache_read: 900, output: 300 };
    let asking = r#","stream":true,"stream_options":{"include_usage":true}"#;
    for (path, options, expected) in [
        ("/v1/chat/completions", "", all),
        ("/v1/chat/completions", asking, all),
        ("/v1/completions", "", all),
        ("/v1/completions", asking, all),
        ("/v1/responses", "", all),
        ("/v1/responses", r#","stream":true"#, all),
        ("/v1/embeddings", "", Counts { input: 1010, ..Counts::default() }),
    ] {
        for encoding in ["identity", "gzip"] {
            let model = "gpt-test+input-40+cache-read-900+cache-write-70+output-300+reasoning-200";
            let body = format!(r#"{{"model":"{model}"{options}}}"#);
            let request = post_to(OPENAI_HOST, path, &body, encoding);
            let seen = exchange(&provider, request, &body, None).await;
            assert_eq!((counts(&seen.reading), seen.reading.known), (expected, Known::Reported), "{path} {options}");
            assert!(seen.is_whole && seen.reading.model.as_deref() == Some(model), "{path} {options}");
            let served = logged(&provider, &seen.id).await;
            assert_eq!(served.reported, served.usage, "{path} {options}");
            assert_eq!(served.usage.total(), expected.total(), "{path} {options}");
        }
    }
}

#[tokio::test]
async fn openai_tells_no_usage_in_a_stream_unasked() {
    let provider = start().await;
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let body = r#"{"model":"gpt-test+output-300","stream":true}"#;
        let seen = exchange(&provider, post_to(OPENAI_HOST, path, body, "gzip"), body, None).await;
        assert_eq!((seen.reading.known, seen.is_whole), (Known::Estimated, true), "{path}");
        let served = logged(&provider, &seen.id).await;
        assert_eq!((served.usage.output, served.reported), (300, Counts::default()), "{path}");
    }
}

#[tokio::test]
async fn broken_responses_are_metered_for_at_least_what_was_sent() {
    let provider = start().await;
    for (script, leave_after) in [
        ("abort-after-3", None),
        ("error-event", None),
        ("error-after-4", None),
        ("abort-after-50+deltas-100+delta-bytes-64", None),
        ("deltas-1000+delay-5", Some(6)),
        ("stall-after-2", Some(2)),
        ("no-usage", None),
    ] {
        for encoding in ["identity", "gzip"] {
            let body = format!(r#"{{"model":"{script}","stream":true,"max_tokens":4000}}"#);
            let seen = exchange(&provider, post(&body, encoding), &body, leave_after).await;
            let served = logged(&provider, &seen.id).await;
            assert_ne!(seen.reading.known, Known::Reported, "{script}: {:?}", seen.reading);
            assert!(seen.reading.usage.output <= Tokens(4000), "{script}");
            // A client that left may not have been sent what was handed over last.
            let is_seen = leave_after.is_none();
            assert!(
                !is_seen || seen.reading.usage.output.0 >= served.output_sent,
                "{script} {encoding}: {:?} {served:?}",
                seen.reading
            );
            assert_eq!(seen.reading.usage.input == Tokens(25), script != "no-usage", "{script}: {:?}", seen.reading);
        }
    }
}

#[tokio::test]
async fn errors_and_free_paths_spend_nothing() {
    let provider = start().await;
    for (script, status) in [("overloaded", 529), ("rate-limited", 429), ("status-400", 400)] {
        let body = format!(r#"{{"model":"x+{script}","stream":true}}"#);
        let seen = exchange(&provider, post(&body, "gzip"), &body, None).await;
        assert_eq!((seen.status, counts(&seen.reading)), (status, Counts::default()), "{script}");
        assert_eq!(logged(&provider, &seen.id).await.usage, Counts::default());
    }
    for (method, host, path, status) in [
        ("POST", HOST, "/v1/messages/count_tokens", 200),
        ("POST", OPENAI_HOST, "/v1/responses/input_tokens", 200),
        ("GET", HOST, "/v1/models", 200),
        ("GET", HOST, "/x", 404),
    ] {
        let request = Request::builder().method(method).uri(path).header("host", host).body(Full::default()).unwrap();
        let seen = exchange(&provider, request, "", None).await;
        assert_eq!((seen.status, seen.reading.known), (status, Known::Unmetered), "{path}");
    }
}

#[tokio::test]
async fn counting_says_what_it_is_told_to() {
    let provider = start().await;
    for (script, status, body) in [
        ("", 200, r#"{"input_tokens":25}"#),
        ("input-7+cache-read-3", 200, r#"{"input_tokens":10}"#),
        ("input-7+count-2000", 200, r#"{"input_tokens":2000}"#),
        ("count-garbage", 200, "<html>busy</html>"),
        ("count-status-500", 500, r#"{"error":{"message":"Internal server error","type":"api_error"},"type":"error"}"#),
    ] {
        for (host, path) in [(HOST, "/v1/messages/count_tokens"), (OPENAI_HOST, "/v1/responses/input_tokens")] {
            let request = Request::post(path).header("host", host);
            let asked = Bytes::from(format!(r#"{{"model":"x+{script}"}}"#));
            let request = request.body(Full::new(asked)).unwrap();
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(connect(&provider, b"http/1.1").await)).await.unwrap();
            tokio::spawn(connection);
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), status, "{script}");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body, "{script}");
        }
    }
}

#[tokio::test]
async fn h2_carries_many_exchanges_at_once() {
    let provider = start().await;
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(connect(&provider, b"h2").await)).await.unwrap();
    tokio::spawn(connection);
    let exchanges = (0..20).map(|_| {
        let mut sender = sender.clone();
        tokio::spawn(async move {
            let request = Request::post(format!("https://{HOST}/v1/messages"))
                .header("x-test-deltas", "30")
                .body(Full::new(Bytes::from_static(br#"{"model":"claude-test","stream":true}"#)))
                .unwrap();
            let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
            assert!(body.ends_with(b"data: {\"type\":\"message_stop\"}\n\n"));
        })
    });
    for exchange in exchanges.collect::<Vec<_>>() {
        exchange.await.unwrap();
    }
    let log = provider.stop().await;
    assert_eq!((log.len(), log.iter().map(|served| served.usage.output).sum::<u64>()), (20, 600));
}
