//! With `preflight: exact` the provider says how large a request is before it is admitted; or else it is estimated.

use std::time::{Duration, Instant};

use bytes::Bytes;
use egress_userspace::domain::{
    Ending, Known, Preflight, Refusal, RefusalReason, Settlement, SpendRequest, Tokens, Usage,
};
use hyper::{Request, Response, Version};
use tokio::time::sleep;

use super::client::{Client, Names, Way, refusal, whole};
use super::provider::Asked;
use super::world::{OPENAI, PROVIDER, World};

const BODY: &str = r#"{"model":"claude-x","max_tokens":100,"stream":false,"messages":[{"role":"user","content":"Why?"}],"metadata":{}}"#;
const QUESTION: &str = r#"{"model":"claude-x","messages":[{"role":"user","content":"Why?"}]}"#;
const ANSWER: &str = r#"{"type":"message","usage":{"input_tokens":11,"output_tokens":5}}"#;
/// Longer than a provider may take to count.
const COUNT_TIME: Duration = Duration::from_secs(2);

async fn world(preflight: Preflight) -> World {
    let world = World::start().await;
    world.preflight(preflight);
    sleep(Duration::from_millis(50)).await;
    world
}

fn json() -> hyper::http::response::Builder {
    Response::builder().header("content-type", "application/json")
}

fn post() -> hyper::http::request::Builder {
    Request::post("/").header("x-api-key", "k").header("anthropic-beta", "b").header("accept-encoding", "gzip")
}

/// Sends [`BODY`] and answers it; what was asked before it goes to `count`.
async fn exchange(world: &World, version: Version, count: impl AsyncFnOnce()) -> Response<hyper::body::Incoming> {
    let mut client = Client::open(world, Way::Transparent, version).await;
    let (response, ()) = tokio::join!(client.send_to(PROVIDER, post(), "/v1/messages?beta=true", BODY), async {
        count().await;
        let asked = world.provider.asked().await;
        assert_eq!((asked.head.uri.path(), &asked.body[..]), ("/v1/messages", BODY.as_bytes()));
        asked.whole(json(), ANSWER);
    });
    response.unwrap()
}

/// What was admitted and settled, once so much of it is there.
async fn ledger(world: &World, rows: usize) -> (Vec<SpendRequest>, Vec<Settlement>) {
    let heard = world.wait("all settlements", |heard| heard.settlements.len() >= rows).await;
    assert_eq!((heard.admits.len(), heard.settlements.len()), (rows, rows), "{heard:?}");
    (heard.admits, heard.settlements)
}

#[tokio::test]
async fn the_provider_counts_and_then_answers() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let world = world(Preflight::Exact).await;
        let response = exchange(&world, version, async || {
            let asked = world.provider.asked().await;
            let (path, headers) = (asked.head.uri.path_and_query().unwrap(), &asked.head.headers);
            assert_eq!(path.as_str(), "/v1/messages/count_tokens?beta=true");
            assert_eq!(asked.body, QUESTION);
            assert_eq!((headers["x-api-key"].as_bytes(), headers["anthropic-beta"].as_bytes()), (&b"k"[..], &b"b"[..]));
            assert!(!headers.contains_key("accept-encoding"), "{headers:?}");
            let head = json().header("request-id", "req_count");
            asked.whole(head, r#"{"input_tokens":2095}"#);
        });
        assert_eq!(whole(response.await).await, ANSWER);
        let (admits, settlements) = ledger(&world, 2).await;
        let (question, request) = (&admits[0], &admits[1]);
        assert_eq!((question.target.as_str(), question.is_metered), ("POST /v1/messages/count_tokens", false));
        assert_eq!((question.input_estimate, question.output_cap), (Tokens::ZERO, Tokens::ZERO));
        assert_eq!((request.target.as_str(), request.is_metered), ("POST /v1/messages", true));
        assert_eq!(request.input_estimate, Tokens(2095));
        let (question, request) = (&settlements[0], &settlements[1]);
        assert_eq!((question.usage, question.known), (Usage::default(), Known::Unmetered));
        assert_eq!((question.ending, question.status), (Ending::Complete, Some(200)));
        assert_eq!(question.provider_request_id.as_deref(), Some("req_count"));
        assert_eq!((request.usage.total(), request.known), (Tokens(16), Known::Reported));
    }
}

#[tokio::test]
async fn openai_counts_responses() {
    let world = world(Preflight::Exact).await;
    let names = Names { connect: OPENAI, sni: OPENAI };
    let mut client = Client::open_as(&world, Way::Transparent, Version::HTTP_2, names).await.unwrap();
    let body = r#"{"model":"gpt-x","input":"Why?","stream":false,"store":false}"#;
    let (response, ()) = tokio::join!(client.send_to(OPENAI, post(), "/v1/responses", body), async {
        let asked = world.provider.asked().await;
        assert_eq!(asked.head.uri.path(), "/v1/responses/input_tokens");
        assert_eq!(asked.body, r#"{"model":"gpt-x","input":"Why?"}"#);
        asked.whole(json(), r#"{"object":"response.input_tokens","input_tokens":77}"#);
        let asked = world.provider.asked().await;
        assert_eq!(asked.head.uri.path(), "/v1/responses");
        asked.whole(json(), r#"{"usage":{"input_tokens":70,"output_tokens":5}}"#);
    });
    whole(response.unwrap()).await;
    let (admits, _) = ledger(&world, 2).await;
    assert_eq!((admits[0].target.as_str(), admits[0].is_metered), ("POST /v1/responses/input_tokens", false));
    assert_eq!((admits[1].provider.as_str(), admits[1].input_estimate), ("codex", Tokens(77)));
}

/// What the same request is estimated at.
async fn estimate() -> Tokens {
    let world = world(Preflight::Estimate).await;
    whole(exchange(&world, Version::HTTP_11, async || {}).await).await;
    let (admits, _) = ledger(&world, 1).await;
    admits[0].input_estimate
}

async fn check_fallback(fault: &str, answer: impl AsyncFnOnce(Asked), status: Option<u16>) {
    let world = world(Preflight::Exact).await;
    let begun = Instant::now();
    let response = exchange(&world, Version::HTTP_11, async || answer(world.provider.asked().await).await).await;
    assert_eq!(whole(response).await, ANSWER, "{fault}");
    assert!(begun.elapsed() < COUNT_TIME * 2, "{fault}: {:?}", begun.elapsed());
    let (admits, settlements) = ledger(&world, 2).await;
    assert_eq!(admits[1].input_estimate, estimate().await, "{fault}");
    assert_eq!((settlements[0].known, settlements[0].usage), (Known::Unmetered, Usage::default()), "{fault}");
    assert_eq!((settlements[0].ending, settlements[0].status), (Ending::Error, status), "{fault}");
    assert_eq!(settlements[1].usage.total(), Tokens(16), "{fault}");
}

#[tokio::test]
async fn whatever_goes_wrong_the_request_is_estimated() {
    check_fallback("status 500", async |asked| asked.whole(json().status(500), ANSWER), Some(500)).await;
    check_fallback("status 429", async |asked| asked.whole(json().status(429), "{}"), Some(429)).await;
    check_fallback("no count", async |asked| asked.whole(json(), "{}"), Some(200)).await;
    check_fallback("no JSON", async |asked| asked.whole(json(), "<html>"), Some(200)).await;
    let long = format!(r#"{{"a":"{}","input_tokens":1}}"#, "a".repeat(70_000));
    check_fallback("too long", async |asked| asked.whole(json(), long), Some(200)).await;
    check_fallback("hangs up", async |asked| drop(asked), None).await;
    let broken = async |asked: Asked| {
        let sender = asked.stream(json());
        sender.send(Ok(Bytes::from_static(b"{\"input_"))).unwrap();
        sleep(Duration::from_millis(100)).await;
        sender.send(Err(std::io::Error::other("breaks off"))).unwrap();
    };
    check_fallback("breaks off", broken, Some(200)).await;
}

#[tokio::test]
async fn a_provider_that_does_not_count_in_time_is_not_waited_for() {
    let world = world(Preflight::Exact).await;
    let begun = Instant::now();
    let response = exchange(&world, Version::HTTP_2, async || {
        let asked = world.provider.asked().await;
        sleep(COUNT_TIME + Duration::from_millis(300)).await;
        drop(asked);
    });
    assert_eq!(whole(response.await).await, ANSWER);
    assert!(begun.elapsed() < COUNT_TIME * 2, "{:?}", begun.elapsed());
    let (admits, settlements) = ledger(&world, 2).await;
    assert_eq!(admits[1].input_estimate, estimate().await);
    assert_eq!((settlements[0].ending, settlements[0].known), (Ending::Error, Known::Unmetered));
}

async fn check_unasked(preflight: Preflight, path: &str, body: impl Into<Bytes>) {
    let world = world(preflight).await;
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    let (response, ()) = tokio::join!(client.send_to(PROVIDER, post(), path, body), async {
        let asked = world.provider.asked().await;
        assert_eq!(asked.head.uri.path(), path, "{preflight:?}");
        asked.whole(json(), ANSWER);
    });
    whole(response.unwrap()).await;
    ledger(&world, 1).await;
}

#[tokio::test]
async fn nobody_is_asked_in_vain() {
    check_unasked(Preflight::Estimate, "/v1/messages", BODY).await;
    check_unasked(Preflight::Off, "/v1/messages", BODY).await;
    check_unasked(Preflight::Exact, "/v1/models", "").await;
    check_unasked(Preflight::Exact, "/v1/messages/count_tokens", BODY).await;
    check_unasked(Preflight::Exact, "/v1/chat/completions", BODY).await;
    check_unasked(Preflight::Exact, "/v1/messages", "no JSON").await;
    // More than is looked at.
    check_unasked(Preflight::Exact, "/v1/messages", format!(r#"{{"system":"{}"}}"#, "a".repeat(5_000_000))).await;
}

#[tokio::test]
async fn a_request_that_is_refused_anyway_is_not_counted() {
    let world = world(Preflight::Exact).await;
    world.script.lock().unwrap().refusal = Some(Refusal::of(RefusalReason::BudgetExhausted, "used up"));
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    let response = client.send_to(PROVIDER, post(), "/v1/messages", BODY).await.unwrap();
    assert_eq!(response.status(), 402);
    assert_eq!(refusal(response).await["egress_reason"], "budget_exhausted");
    assert!(world.provider.is_untouched().await);
    assert_eq!(world.heard.borrow().settlements, []);
}
