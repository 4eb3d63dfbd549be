//! What may not go does not go, on an open socket too.

use egress_userspace::broker::Phase;
use egress_userspace::domain::{Refusal, RefusalReason, Scope};
use hyper::Request;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::super::client::{Client as HttpClient, Names};
use super::super::world::PROVIDER;
use super::*;

fn exhausted() -> Refusal {
    Refusal {
        reason: RefusalReason::BudgetExhausted,
        message: "the budget of bottle web is used up".to_owned(),
        scope: Some(Scope::Bottle("web".parse().unwrap())),
        budget: Some(Tokens(10)),
        used: Some(Tokens(12)),
        rule: None,
    }
}

#[tokio::test]
async fn a_request_beyond_the_budget_never_reaches_the_provider_and_the_socket_stays_open() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    let first = create(&json!({"number": 1, "stream_id": "s1"}));
    say(&mut client, &first).await;
    expect(&mut provider, &first).await;
    say(&mut provider, on("s1", created("resp_1"))).await;
    expect(&mut client, on("s1", created("resp_1"))).await;
    world.script.lock().unwrap().refusal = Some(exhausted());
    say(&mut client, create(&json!({"number": 2, "stream_id": "s2"}))).await;
    let refused = refusal(&mut client).await;
    assert_eq!(refused["response"]["error"]["code"], "invalid_prompt");
    assert_eq!(refused["response"]["error"]["message"], "the budget of bottle web is used up");
    assert_eq!((&refused["egress_reason"], &refused["stream_id"]), (&"budget_exhausted".into(), &"s2".into()));
    assert_eq!((&refused["scope"], &refused["name"]), (&"bottle".into(), &"web".into()));
    assert_eq!((&refused["budget"], &refused["used"]), (&10.into(), &12.into()));
    world.wait("the refusal is delivered", |heard| heard.refusals_delivered == 1).await;
    silence(&mut provider).await;
    // The first goes on to its end.
    say(&mut provider, on("s1", completed("resp_1", 21, 7))).await;
    expect(&mut client, on("s1", completed("resp_1", 21, 7))).await;
    assert_eq!(only_settlements(&world, 1).await[0].usage, usage(21, 7));
    // And what fits is sent again.
    world.script.lock().unwrap().refusal = None;
    whole(&mut client, &mut provider, "resp_3").await;
    only_settlements(&world, 2).await;
}

#[tokio::test]
async fn the_last_word_is_said_on_an_open_socket() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    whole(&mut client, &mut provider, "resp_1").await;
    world.phase(Phase::LastWord(exhausted()));
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    say(&mut client, create(&Value::Null)).await;
    assert_eq!(refusal(&mut client).await["egress_reason"], "budget_exhausted");
    world.wait("the refusal is delivered", |heard| heard.refusals_delivered == 1).await;
    silence(&mut provider).await;
    assert_eq!(world.heard.borrow().admits.len(), 2, "the ledger was asked");
}

#[tokio::test]
async fn at_the_last_word_codex_falls_back_to_http_and_hears_it_there() {
    let world = World::start().await;
    world.phase(Phase::LastWord(exhausted()));
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    check_fallback(&world).await;
    assert_eq!(world.heard.borrow().admits, []);
    // The same when the ledger says so.
    let world = World::start().await;
    world.script.lock().unwrap().refusal = Some(exhausted());
    check_fallback(&world).await;
}

async fn check_fallback(world: &World) {
    let asked = ask(world, Way::Transparent, PATH, &[OFFER]).await;
    let Err(Error::Http(answer)) = asked else { panic!("{asked:?}") };
    assert_eq!(answer.status(), 426);
    let names = Names { connect: OPENAI, sni: OPENAI };
    let mut client = HttpClient::open_as(world, Way::Transparent, Version::HTTP_11, names).await.unwrap();
    assert_eq!(world.heard.borrow().refusals_delivered, 0, "an answer to an upgrade is not heard");
    let response = client.send_to(OPENAI, Request::post("/"), PATH, create(&Value::Null)).await.unwrap();
    assert_eq!(response.status(), 400);
    let body = super::super::client::refusal(response).await;
    assert_eq!(body["egress_reason"], "budget_exhausted");
    world.wait("the refusal is delivered", |heard| heard.refusals_delivered == 1).await;
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn what_works_in_the_background_is_not_sent() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    say(&mut client, create(&json!({"background": true}))).await;
    let refused = refusal(&mut client).await;
    assert_eq!((&refused["egress_reason"], &refused["response"]["model"]), (&"not_meterable".into(), &"gpt-x".into()));
    silence(&mut provider).await;
    assert_eq!(world.heard.borrow().admits.len(), 1);
    whole(&mut client, &mut provider, "resp_1").await;
}

#[tokio::test]
async fn as_many_are_in_flight_as_the_limit_and_no_more() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    for _ in 0..64 {
        say(&mut client, create(&Value::Null)).await;
        hear(&mut provider).await.unwrap();
    }
    say(&mut client, create(&Value::Null)).await;
    assert_eq!(refusal(&mut client).await["egress_reason"], "not_meterable");
    silence(&mut provider).await;
    drop(client);
    let settled = only_settlements(&world, 64).await;
    assert!(settled.iter().all(|one| (one.ending, one.known) == (Ending::Cancelled, Known::Estimated)));
}

#[tokio::test]
async fn a_successor_that_may_not_be_does_not_arrive() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    whole(&mut client, &mut provider, "resp_1").await;
    world.script.lock().unwrap().refusal = Some(exhausted());
    say(&mut provider, created("resp_2")).await;
    assert_eq!(refusal(&mut client).await["egress_reason"], "budget_exhausted");
    assert!(matches!(hear(&mut client).await, Some(Message::Close(_))));
    assert_eq!(hear(&mut provider).await, None);
    only_settlements(&world, 1).await;
}

#[tokio::test]
async fn a_message_too_large_or_malformed_ends_the_socket_and_is_not_sent() {
    for is_large in [true, false] {
        let world = World::start().await;
        let (mut client, mut provider) = open(&world).await;
        let code = if is_large {
            let large = create(&json!({"input": "x".repeat(16 << 20)}));
            // The proxy may close before it has read all of it.
            let _ = client.send(Message::text(large)).await;
            1009
        } else {
            // Not masked, as no client may.
            let stream = client.get_mut();
            tokio::io::AsyncWriteExt::write_all(stream, b"\x81\x02{}").await.unwrap();
            1002
        };
        let farewell = hear(&mut client).await;
        let Some(Message::Close(Some(close))) = farewell else { panic!("{farewell:?}") };
        assert_eq!(u16::from(close.code), code);
        let heard = hear(&mut provider).await;
        assert!(heard.is_none(), "{heard:?}");
        assert_eq!(world.heard.borrow().admits.len(), 1);
    }
}

#[tokio::test]
async fn only_sockets_of_responses_are_opened() {
    let world = World::start().await;
    for path in ["/v1/realtime?model=gpt-x", "/v1/live/sessions", "/v1/responses/compact", "/v1/files"] {
        let asked = ask(&world, Way::Transparent, path, &[]).await;
        let Err(Error::Http(answer)) = asked else { panic!("{path}: {asked:?}") };
        assert_eq!(answer.status(), 426, "{path}");
        let body: Value = serde_json::from_slice(answer.body().as_deref().unwrap_or_default()).unwrap();
        assert_eq!(body["egress_reason"], "not_meterable", "{path}");
    }
    // By another method, or with a body, or at a host where the path means nothing.
    for (host, request, body) in
        [(OPENAI, Request::post("/"), ""), (OPENAI, Request::get("/"), "{}"), (PROVIDER, Request::get("/"), "")]
    {
        let names = Names { connect: host, sni: host };
        let mut client = HttpClient::open_as(&world, Way::Transparent, Version::HTTP_11, names).await.unwrap();
        let request = request.header("connection", "upgrade").header("upgrade", "websocket");
        let response = client.send_to(host, request, PATH, body).await.unwrap();
        assert_eq!(response.status(), 426, "{host} {body:?}");
    }
    assert!(world.provider.is_untouched().await);
    assert_eq!(world.heard.borrow().admits, []);
}
