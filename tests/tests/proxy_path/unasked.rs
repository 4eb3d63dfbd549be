//! A streamed chat that does not ask for its usage: it is metered all the same, and the client sees what it asked for.

use bytes::Bytes;
use egress_userspace::domain::{Ending, Known, Tokens, Usage};
use hyper::http::request::Builder;
use hyper::{Request, Response, Version};

use super::client::{Client, Way, next, whole};
use super::provider::Asked;
use super::world::{PROVIDER, World};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m", "stream":true,"messages":[]}"#;
const ASKING: &str = r#"{"stream_options":{"include_usage":true},"model":"m", "stream":true,"messages":[]}"#;

const DELTA: &str = "data: {\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"},\"finish_reason\":null}],\"usage\":null}\n\n";
const STOP: &str =
    "data: {\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n";
const USAGE: &str = "data: {\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":5,\"total_tokens\":16}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

fn events() -> hyper::http::response::Builder {
    Response::builder().header("content-type", "text/event-stream; charset=utf-8")
}

fn post() -> Builder {
    Request::post("/").header("content-type", "application/json").header("accept-encoding", "gzip, br")
}

/// Sends `body` with `head`; what the provider was asked, and the client's response once `answer` has been given.
async fn exchange(
    world: &World,
    version: Version,
    (head, body): (Builder, Bytes),
    answer: impl FnOnce(Asked),
) -> (Bytes, hyper::HeaderMap, Response<hyper::body::Incoming>) {
    let mut client = Client::open(world, Way::Transparent, version).await;
    let (response, (sent, headers)) = tokio::join!(client.send_to(PROVIDER, head, CHAT, body), async {
        let asked = world.provider.asked().await;
        let said = (asked.body.clone(), asked.head.headers.clone());
        answer(asked);
        said
    });
    (sent, headers, response.unwrap())
}

async fn check_settled(world: &World) {
    let settlement = world.only_settlement().await;
    let usage = Usage { input: Tokens(11), output: Tokens(5), ..Usage::default() };
    assert_eq!((settlement.usage, settlement.known, settlement.ending), (usage, Known::Reported, Ending::Complete));
}

fn stream(asked: Asked, pieces: &[&[u8]], head: hyper::http::response::Builder) {
    let sender = asked.stream(head);
    for piece in pieces {
        sender.send(Ok(Bytes::copy_from_slice(piece))).unwrap();
    }
}

#[tokio::test]
async fn usage_is_asked_for_and_taken_out_again() {
    for version in VERSIONS {
        let world = World::start().await;
        let pieces = [DELTA, STOP, USAGE, DONE].map(str::as_bytes);
        let (sent, headers, response) =
            exchange(&world, version, (post(), BODY.into()), |asked| stream(asked, &pieces, events())).await;
        assert_eq!(sent, ASKING, "{version:?}");
        assert_eq!(headers["accept-encoding"], "identity");
        assert_eq!(headers["content-length"], ASKING.len().to_string().as_str());
        assert_eq!(whole(response).await, [DELTA, STOP, DONE].concat(), "{version:?}");
        check_settled(&world).await;
    }
}

#[tokio::test]
async fn usage_and_the_end_in_one_piece_and_no_end_at_all() {
    for (pieces, expected) in [
        ([[DELTA, STOP, USAGE, DONE].concat(), String::new()], [DELTA, STOP, DONE].concat()),
        ([[DELTA, STOP].concat(), USAGE.trim_end().to_owned()], [DELTA, STOP].concat()),
        ([[DELTA, STOP, &USAGE[..30]].concat(), USAGE[30..].to_owned()], [DELTA, STOP].concat()),
    ] {
        let world = World::start().await;
        let pieces = pieces.each_ref().map(String::as_bytes);
        let (.., response) =
            exchange(&world, Version::HTTP_11, (post(), BODY.into()), |asked| stream(asked, &pieces, events())).await;
        assert_eq!(whole(response).await, expected);
        check_settled(&world).await;
    }
}

#[tokio::test]
async fn who_asks_is_told_and_nothing_is_changed() {
    let body = r#"{"model":"m","stream":true, "stream_options":{"include_usage":true}}"#;
    let world = World::start().await;
    let all = [DELTA, STOP, USAGE, DONE].concat();
    let (sent, headers, response) = exchange(&world, Version::HTTP_11, (post(), body.into()), |asked| {
        asked.whole(events(), all.clone());
    })
    .await;
    assert_eq!(sent, body);
    assert_eq!(headers["accept-encoding"], "gzip, br");
    assert_eq!(response.headers()["content-length"], all.len().to_string().as_str());
    assert_eq!(whole(response).await, all);
    check_settled(&world).await;
}

#[tokio::test]
async fn a_stream_of_known_length_is_sent_without_it() {
    let world = World::start().await;
    let (.., response) = exchange(&world, Version::HTTP_11, (post(), BODY.into()), |asked| {
        asked.whole(events(), [DELTA, STOP, USAGE, DONE].concat());
    })
    .await;
    assert!(!response.headers().contains_key("content-length"));
    assert_eq!(whole(response).await, [DELTA, STOP, DONE].concat());
    check_settled(&world).await;
}

#[tokio::test]
async fn a_provider_that_compresses_all_the_same_is_decoded() {
    let world = World::start().await;
    let encoded = zstd::bulk::compress([DELTA, STOP, USAGE, DONE].concat().as_bytes(), 3).unwrap();
    let (head, tail) = encoded.split_at(40);
    let (.., response) = exchange(&world, Version::HTTP_11, (post(), BODY.into()), |asked| {
        stream(asked, &[head, tail], events().header("content-encoding", "zstd"));
    })
    .await;
    assert!(!response.headers().contains_key("content-encoding"));
    assert_eq!(whole(response).await, [DELTA, STOP, DONE].concat());
    check_settled(&world).await;
}

#[tokio::test]
async fn a_request_that_is_signed_goes_as_it_is() {
    let world = World::start().await;
    let signed = post().header("authorization", "AWS4-HMAC-SHA256 Credential=x");
    let all = [DELTA, STOP, DONE].concat();
    let (sent, _, response) =
        exchange(&world, Version::HTTP_11, (signed, BODY.into()), |asked| asked.whole(events(), all.clone())).await;
    assert_eq!(sent, BODY);
    assert_eq!(whole(response).await, all);
    assert_eq!(world.only_settlement().await.known, Known::Estimated);
}

#[tokio::test]
async fn a_long_or_compressed_request_asks_too() {
    let long = format!("{{\"stream\":true,\"messages\":\"{}\"}}", "x ".repeat(3 << 20));
    let compressed = zstd::bulk::compress(BODY.as_bytes(), 3).unwrap();
    let expected = long.replacen('{', "{\"stream_options\":{\"include_usage\":true},", 1);
    for (head, body, expected) in
        [(post(), long.into_bytes(), expected), (post().header("content-encoding", "zstd"), compressed, ASKING.into())]
    {
        let world = World::start().await;
        let pieces = [[DELTA, STOP, USAGE, DONE].concat()];
        let pieces = pieces.each_ref().map(String::as_bytes);
        let (sent, headers, response) =
            exchange(&world, Version::HTTP_11, (head, body.into()), |asked| stream(asked, &pieces, events())).await;
        assert!(sent == expected, "{} bytes arrived, {} expected", sent.len(), expected.len());
        assert!(!headers.contains_key("content-encoding"));
        assert_eq!(whole(response).await, [DELTA, STOP, DONE].concat());
        check_settled(&world).await;
    }
}

#[tokio::test]
async fn an_error_passes_as_it_is() {
    let world = World::start().await;
    let error = r#"{"error":{"message":"no"},"usage":null}"#;
    let json = Response::builder().status(400).header("content-type", "application/json");
    let (.., response) =
        exchange(&world, Version::HTTP_11, (post(), BODY.into()), |asked| asked.whole(json, error)).await;
    assert_eq!(response.headers()["content-length"], error.len().to_string().as_str());
    assert_eq!(whole(response).await, error);
    assert_eq!(world.only_settlement().await.usage, Usage::default());
}

#[tokio::test]
async fn the_end_waits_for_the_settlement_here_too() {
    let world = World::start().await;
    world.holds_settlements.send_replace(true);
    let pieces = [DELTA, STOP, USAGE, DONE].map(str::as_bytes);
    let (.., response) =
        exchange(&world, Version::HTTP_11, (post(), BODY.into()), |asked| stream(asked, &pieces, events())).await;
    let mut body = response.into_body();
    world.wait("the settlement", |heard| !heard.settlements.is_empty()).await;
    let mut received = String::new();
    while received.len() < DELTA.len() + STOP.len() {
        received.push_str(std::str::from_utf8(&next(&mut body).await.unwrap().unwrap()).unwrap());
    }
    assert_eq!(received, [DELTA, STOP].concat());
    let end = tokio::time::timeout(std::time::Duration::from_millis(100), next(&mut body)).await;
    assert!(end.is_err(), "the end came before the settlement: {end:?}");
    world.holds_settlements.send_replace(false);
    assert_eq!(next(&mut body).await.unwrap().unwrap(), DONE);
    assert!(next(&mut body).await.is_none());
}
