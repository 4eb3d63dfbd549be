//! The test provider speaks WebSocket as it is asked to, and says truly what it did.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use harness::provider::{OPENAI_HOST, Provider, Served};
use harness::socket::{Opened, Socket, is_last};
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::time::{sleep, timeout};

async fn start() -> (Provider, NamedTempFile) {
    let provider = Provider::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let mut ca = NamedTempFile::new().unwrap();
    ca.write_all(provider.ca_pem.as_bytes()).unwrap();
    (provider, ca)
}

async fn open(provider: &Provider, ca: &NamedTempFile, headers: &[(&str, &str)]) -> anyhow::Result<Opened> {
    Socket::open(provider.address, OPENAI_HOST, ca.path(), headers).await
}

async fn socket(provider: &Provider, ca: &NamedTempFile) -> Box<Socket> {
    match open(provider, ca, &[]).await.unwrap() {
        Opened::Socket(socket) => socket,
        Opened::Refused(status, body) => panic!("{status} {body}"),
    }
}

/// Events up to the last of so many responses.
async fn events(socket: &mut Socket, responses: usize) -> Vec<Value> {
    let mut events = Vec::new();
    while events.iter().filter(|event| is_last(event)).count() < responses {
        let event = timeout(Duration::from_secs(10), socket.event()).await.unwrap();
        events.push(event.unwrap());
    }
    events
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// What the provider says of its responses, in the order of their ends.
async fn logged(provider: &Provider, count: usize) -> Vec<Served> {
    for _ in 0..500 {
        let served: Vec<_> = provider.log().into_iter().filter(|served| served.method == "WS").collect();
        if served.len() >= count {
            assert_eq!(served.len(), count, "{served:?}");
            return served;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("never logged: {:?}", provider.log());
}

#[tokio::test]
async fn requests_of_one_socket_are_answered_in_order() {
    let (provider, ca) = start().await;
    let mut socket = socket(&provider, &ca).await;
    for model in ["gpt-test+deltas-3+input-40+cache-read-7", "gpt-test+deltas-2+fragments"] {
        socket.create(model, None).await.unwrap();
    }
    let events = events(&mut socket, 2).await;
    let deltas = kinds(&events).iter().filter(|kind| **kind == "response.output_text.delta").count();
    assert_eq!((deltas, kinds(&events)[0]), (5, "response.created"));
    let served = logged(&provider, 2).await;
    for (served, end) in served.iter().zip(events.iter().filter(|event| is_last(event))) {
        assert_eq!(end["response"]["id"], served.id.as_str());
        assert_eq!(end["response"]["usage"]["input_tokens"], served.usage.input_total());
        assert_eq!(end["response"]["usage"]["output_tokens"], served.usage.output);
        assert!(served.is_complete && served.reported == served.usage, "{served:?}");
    }
    assert_eq!(served[0].usage.input_total(), 47);
}

#[tokio::test]
async fn lanes_run_side_by_side_and_events_name_theirs() {
    let (provider, ca) = start().await;
    let mut socket = socket(&provider, &ca).await;
    socket.create("gpt-test+deltas-5+delay-20", Some("a")).await.unwrap();
    socket.create("gpt-test+deltas-5+delay-20", Some("b")).await.unwrap();
    let events = events(&mut socket, 2).await;
    let lanes: Vec<_> = events.iter().map(|event| event["stream_id"].as_str().unwrap()).collect();
    let first_end = events.iter().position(is_last).unwrap();
    assert!(lanes[..first_end].contains(&"a") && lanes[..first_end].contains(&"b"), "{lanes:?}");
}

#[tokio::test]
async fn scripts_break_where_they_say() {
    let (provider, ca) = start().await;
    let mut rejected = socket(&provider, &ca).await;
    rejected.create("gpt-test+rate-limited", None).await.unwrap();
    let error = events(&mut rejected, 1).await.remove(0);
    assert_eq!((&error["type"], &error["status"]), (&"error".into(), &429.into()));
    rejected.create("gpt-test+deltas-9+error-after-4", None).await.unwrap();
    assert_eq!(kinds(&events(&mut rejected, 1).await).last(), Some(&"error"));
    rejected.create("gpt-test+no-usage", None).await.unwrap();
    assert_eq!(events(&mut rejected, 1).await.last().unwrap()["response"]["usage"], Value::Null);
    rejected.create("gpt-test+successor", None).await.unwrap();
    assert_eq!(events(&mut rejected, 2).await.iter().filter(|event| is_last(event)).count(), 2);
    let mut broken = socket(&provider, &ca).await;
    broken.create("gpt-test+deltas-9+delay-1+abort-after-4", None).await.unwrap();
    while timeout(Duration::from_secs(10), broken.event()).await.unwrap().is_some() {}
    let served = logged(&provider, 6).await;
    let (aborted, failed) = (&served[5], &served[1]);
    assert!(!aborted.is_complete && !failed.is_complete);
    assert_eq!((aborted.output_sent, failed.output_sent), (4, 4));
}

#[tokio::test]
async fn headers_say_how_the_upgrade_is_answered() {
    let (provider, ca) = start().await;
    let refused = open(&provider, &ca, &[("x-test-status", "401")]).await.unwrap();
    assert!(matches!(refused, Opened::Refused(401, _)));
    // This client takes no extension.
    let extended = [("x-test-reply-sec-websocket-extensions", "permessage-deflate")];
    assert!(open(&provider, &ca, &extended).await.is_err());
}
