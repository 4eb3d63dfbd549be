//! What goes through, goes through unchanged, at once, and is accounted for once.

use std::time::Duration;

use bytes::Bytes;
use egress_userspace::domain::{Ending, Known, RateLimits, Tokens, Usage, UsageDetails};
use hyper::http::response::Builder;
use hyper::{Method, Request, Response, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::client::{Client, Way, next, tcp, whole};
use super::world::{PROVIDER, World};

const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":11,\"output_tokens\":1}}}\n\n";
const DELTA: &str = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":5}}\n\n";
const STOP: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
const ANSWER: &str = r#"{"type":"message","usage":{"input_tokens":11,"output_tokens":5}}"#;

fn events() -> Builder {
    Response::builder().header("content-type", "text/event-stream").header("request-id", "req_1")
}

fn json() -> Builder {
    Response::builder().header("content-type", "application/json")
}

fn usage(input: u64, output: u64) -> Usage {
    Usage { input: Tokens(input), output: Tokens(output), ..Usage::default() }
}

async fn check_stream(world: &World, way: Way, version: Version, settled: usize) {
    let mut client = Client::open(world, way, version).await;
    let (response, sender) = tokio::join!(client.message(), async { world.provider.asked().await.stream(events()) });
    let mut body = response.unwrap().into_body();
    for event in [START, DELTA, STOP] {
        // Nothing follows until this has arrived: a proxy that waits for more would hang here.
        sender.send(Ok(Bytes::from(event))).unwrap();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), event, "{way:?} {version:?}");
    }
    drop(sender);
    assert!(next(&mut body).await.is_none(), "{way:?} {version:?}");
    let heard = world.wait("one more settlement", |heard| heard.settlements.len() > settled).await;
    assert_eq!(heard.settlements.len(), settled + 1);
    let settlement = &heard.settlements[settled];
    assert_eq!((settlement.usage, settlement.known), (usage(11, 5), Known::Reported));
    assert_eq!((settlement.ending, settlement.status), (Ending::Complete, Some(200)));
    assert_eq!(settlement.provider_request_id.as_deref(), Some("req_1"));
    let admit = &heard.admits[settled];
    assert_eq!((admit.target.as_str(), admit.is_metered), ("POST /v1/messages", true));
    assert_eq!((admit.model.as_deref(), admit.output_cap), (Some("claude-x"), Tokens(100)));
}

const WAYS: [(Way, Version); 6] = [
    (Way::Transparent, Version::HTTP_11),
    (Way::Transparent, Version::HTTP_2),
    (Way::Connect, Version::HTTP_11),
    (Way::Connect, Version::HTTP_2),
    (Way::Absolute, Version::HTTP_11),
    (Way::Plain, Version::HTTP_11),
];

#[tokio::test]
async fn events_pass_one_by_one_whichever_way_the_client_takes() {
    for provider_speaks_h2 in [true, false] {
        let (world, _serving) = World::start_with(provider_speaks_h2).await;
        for (settled, (way, version)) in WAYS.into_iter().enumerate() {
            check_stream(&world, way, version, settled).await;
        }
        // Asked for once, used for all connections.
        assert_eq!(world.heard.borrow().minted.len(), 1);
    }
}

async fn check_last_byte(world: &World, way: Way, version: Version, head: Builder, parts: [&str; 2]) {
    let settled = world.heard.borrow().settlements.len();
    world.holds_settlements.send_replace(true);
    let mut client = Client::open(world, way, version).await;
    let (response, ()) = tokio::join!(client.message(), async {
        let sender = world.provider.asked().await.stream(head);
        for part in parts {
            sender.send(Ok(Bytes::from(part.to_owned()))).unwrap();
        }
    });
    let mut body = response.unwrap().into_body();
    world.wait("the settlement", |heard| heard.settlements.len() > settled).await;
    let mut received = String::new();
    let premature = async {
        while let Some(bytes) = next(&mut body).await {
            received.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
        }
    };
    let ended = tokio::time::timeout(Duration::from_millis(100), premature).await.is_ok();
    assert!(!ended, "{way:?} {version:?} ended before the settlement: {received:?}");
    assert!(received.len() < parts.concat().len(), "all of it came before the settlement: {received:?}");
    world.holds_settlements.send_replace(false);
    while let Some(bytes) = next(&mut body).await {
        received.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
    }
    assert_eq!(received, parts.concat());
}

#[tokio::test]
async fn the_last_byte_waits_for_the_settlement() {
    let (begin, end) = ANSWER.split_at(20);
    for provider_speaks_h2 in [true, false] {
        let (world, _serving) = World::start_with(provider_speaks_h2).await;
        for (way, version) in WAYS {
            check_last_byte(&world, way, version, events(), [START, &[DELTA, STOP].concat()]).await;
            check_last_byte(&world, way, version, json(), [begin, end]).await;
            let length = ANSWER.len();
            check_last_byte(&world, way, version, json().header("content-length", length), [begin, end]).await;
            let length = START.len() + STOP.len();
            check_last_byte(&world, way, version, events().header("content-length", length), [START, STOP]).await;
        }
    }
}

#[tokio::test]
async fn a_compressed_body_passes_byte_for_byte() {
    let world = World::start().await;
    let compressed = [&[0x1f, 0x8b, 8, 0][..], &[7; 5000]].concat();
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    let request = Request::post("/").header("accept-encoding", "gzip").header("x-api-key", "secret");
    let request = request.header("connection", "x-hop").header("x-hop", "1").header("proxy-authorization", "Basic x");
    let (response, seen) = tokio::join!(client.send_to(PROVIDER, request, "/v1/messages", "{}"), async {
        let asked = world.provider.asked().await;
        let seen = (asked.head.headers.clone(), asked.head.uri.clone());
        let head = json().header("content-encoding", "gzip").header("alt-svc", "h3=\":443\"");
        asked.whole(head, compressed.clone());
        seen
    });
    let response = response.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(response.headers()["content-length"], compressed.len().to_string());
    assert!(!response.headers().contains_key("alt-svc"));
    assert_eq!(whole(response).await, compressed);
    let (headers, uri) = seen;
    assert_eq!(
        (headers["accept-encoding"].as_bytes(), headers["x-api-key"].as_bytes()),
        (&b"gzip"[..], &b"secret"[..])
    );
    for hop in ["x-hop", "proxy-authorization", "x-forwarded-for", "via", "forwarded"] {
        assert!(!headers.contains_key(hop), "{hop}");
    }
    assert_eq!(uri.host().or_else(|| headers.get("host")?.to_str().ok()), Some(PROVIDER));
}

#[tokio::test]
async fn heads_without_a_body_pass() {
    for provider_speaks_h2 in [true, false] {
        let (world, _serving) = World::start_with(provider_speaks_h2).await;
        for (way, version) in WAYS {
            let mut client = Client::open(&world, way, version).await;
            for (method, status) in [(Method::HEAD, 200), (Method::GET, 204), (Method::GET, 304), (Method::HEAD, 404)] {
                let settled = world.heard.borrow().settlements.len();
                let request = Request::builder().method(&method);
                let (response, ()) = tokio::join!(client.send_to(PROVIDER, request, "/", ""), async {
                    let head = Response::builder().status(status).header("x-seen", "1");
                    let head = if method == Method::HEAD { head.header("content-length", 1234) } else { head };
                    world.provider.asked().await.empty(head);
                });
                let response = response.unwrap();
                assert_eq!(
                    (response.status().as_u16(), &response.headers()["x-seen"]),
                    (status, &"1".parse().unwrap())
                );
                if method == Method::HEAD {
                    assert_eq!(response.headers()["content-length"], "1234", "{way:?} {version:?}");
                }
                assert_eq!(whole(response).await, "");
                let heard = world.wait("one more settlement", |heard| heard.settlements.len() > settled).await;
                assert_eq!(heard.settlements[settled].known, Known::Unmetered);
            }
        }
    }
}

#[tokio::test]
async fn an_upload_longer_than_what_is_looked_at_passes() {
    let world = World::start().await;
    let upload: Bytes = (0..5_000_000u32).map(|at| at.to_le_bytes()[0]).collect::<Vec<_>>().into();
    for (way, version) in WAYS {
        for path in ["/v1/messages", "/v1/files"] {
            let mut client = Client::open(&world, way, version).await;
            let (response, ()) =
                tokio::join!(client.send_to(PROVIDER, Request::post("/"), path, upload.clone()), async {
                    let asked = world.provider.asked().await;
                    assert!(asked.body == upload, "{way:?} {version:?} {path}");
                    asked.whole(json(), ANSWER);
                });
            assert_eq!(whole(response.unwrap()).await, ANSWER);
        }
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_told_to_go_on() {
    let world = World::start().await;
    let mut stream = tcp(world.doors.plain).await.unwrap();
    let head =
        format!("POST /v1/messages HTTP/1.1\r\nHost: {PROVIDER}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").await.unwrap();
    let asked = world.provider.asked().await;
    assert_eq!(asked.body, "{}");
    assert!(!asked.head.headers.contains_key("expect"));
    asked.whole(json(), ANSWER);
    let mut answer = Vec::new();
    while !answer.ends_with(ANSWER.as_bytes()) {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_crossing_response_is_reported_when_it_has_arrived() {
    let world = World::start().await;
    world.script.lock().unwrap().crossed = true;
    for (way, version) in WAYS {
        let delivered = world.heard.borrow().delivered;
        let mut client = Client::open(&world, way, version).await;
        let (response, sender) =
            tokio::join!(client.message(), async { world.provider.asked().await.stream(events()) });
        sender.send(Ok(Bytes::from(START))).unwrap();
        sender.send(Ok(Bytes::from(DELTA))).unwrap();
        let response = response.unwrap();
        sleep(Duration::from_millis(20)).await;
        assert_eq!(world.heard.borrow().delivered, delivered, "said before the end");
        drop(sender);
        assert_eq!(whole(response).await, [START, DELTA].concat());
        world.wait("delivered", |heard| heard.delivered == delivered + 1).await;
    }
}

#[tokio::test]
async fn an_error_without_usage_costs_nothing() {
    let world = World::start().await;
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_2).await;
    let (response, ()) = tokio::join!(client.message(), async {
        world.provider.asked().await.whole(json().status(529).header("retry-after", "7"), "{\"type\":\"error\"}");
    });
    let response = response.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (529, &"7".parse().unwrap()));
    assert_eq!(whole(response).await, "{\"type\":\"error\"}");
    let settlement = world.only_settlement().await;
    assert_eq!((settlement.usage, settlement.known), (Usage::default(), Known::Reported));
    assert_eq!((settlement.ending, settlement.status), (Ending::Error, Some(529)));
}

#[tokio::test]
async fn an_unknown_path_passes_unmetered_and_is_told_of_once() {
    let world = World::start().await;
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    let paths = ["/v1/novel/12345678/x?key=secret", "/v1/novel/87654321/x", "/api/event_logging/v2/batch", "/v1/other"];
    for path in paths {
        let (response, ()) = tokio::join!(client.send_to(PROVIDER, Request::post("/"), path, "{}"), async {
            world.provider.asked().await.whole(json(), ANSWER);
        });
        assert_eq!(whole(response.unwrap()).await, ANSWER);
    }
    let heard = world.wait("all settlements", |heard| heard.settlements.len() == paths.len()).await;
    assert!(heard.settlements.iter().all(|settlement| settlement.known == Known::Unmetered));
    assert_eq!(heard.unknown_paths, ["POST /v1/novel/*/x", "POST /v1/other"]);
}

#[tokio::test]
async fn what_a_provider_tells_of_limits_is_settled_with_the_usage() {
    const USED: &str = "anthropic-ratelimit-unified-5h-utilization";
    let world = World::start().await;
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    let answer = r#"{"type":"message","usage":{"input_tokens":11,"output_tokens":5,"cache_creation_input_tokens":9,
        "cache_creation":{"ephemeral_1h_input_tokens":7},"service_tier":"standard","output_tokens_details":{"thinking_tokens":3}}}"#;
    let (response, ()) = tokio::join!(client.message(), async {
        let head = json().header("request-id", "req_1").header(USED, "0.42").header("x-secret", "1");
        let head = head.header("x-ratelimit-limit-tokens", "9".repeat(5_000)).header("retry-after", &b"\xff\xfe"[..]);
        world.provider.asked().await.whole(head, answer);
    });
    let response = response.unwrap();
    assert_eq!(response.headers()["retry-after"].as_bytes(), b"\xff\xfe", "the client gets all of it");
    assert_eq!(whole(response).await, answer);
    let settlement = world.only_settlement().await;
    let limits = RateLimits::among([(USED, &b"0.42"[..])].into_iter());
    assert_eq!((settlement.notes.limits, settlement.notes.service_tier.as_deref()), (limits, Some("standard")));
    assert_eq!(settlement.details, UsageDetails { cache_write_1h: Tokens(7), reasoning: Tokens(3) });
    assert_eq!(settlement.provider_request_id.as_deref(), Some("req_1"));
}
