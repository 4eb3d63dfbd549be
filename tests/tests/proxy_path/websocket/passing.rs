//! What passes, passes unchanged, and is counted.

use std::time::Duration;

use egress_userspace::domain::{Ending, Known, Tokens, Usage};
use futures_util::SinkExt;
use hyper::Response;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::*;

#[tokio::test]
async fn a_response_is_metered_to_the_token_whichever_way_the_client_takes() {
    for provider_speaks_h2 in [true, false] {
        for way in [Way::Transparent, Way::Connect, Way::Plain] {
            let (world, _serving) = World::start_with(provider_speaks_h2).await;
            let (mut client, mut provider) = open_by(&world, way).await;
            let request = create(&json!({"stream": true, "ä": "\u{1f980}"}));
            say(&mut client, &request).await;
            expect(&mut provider, &request).await;
            // Nothing follows until this has arrived: a proxy that waits for more would hang here.
            for event in [created("resp_1"), delta("one"), json!({"type": "codex.rate_limits"}), delta("two")] {
                say(&mut provider, &event).await;
                expect(&mut client, &event).await;
            }
            say(&mut provider, completed("resp_1", 21, 7)).await;
            expect(&mut client, completed("resp_1", 21, 7)).await;
            let settlement = settlements(&world, 1).await.remove(0);
            assert_eq!((settlement.usage, settlement.known), (usage(21, 7), Known::Reported), "{way:?}");
            assert_eq!((settlement.ending, settlement.status), (Ending::Complete, None));
            assert_eq!(settlement.model.as_deref(), Some("gpt-x-1"));
            assert_eq!(settlement.provider_request_id.as_deref(), Some("resp_1"));
            let heard = world.heard.borrow().clone();
            let (handshake, admit) = (&heard.admits[0], &heard.admits[1]);
            assert_eq!((handshake.target.as_str(), handshake.is_metered), ("GET /v1/responses", false));
            assert_eq!((admit.target.as_str(), admit.is_metered), ("WS /v1/responses", true));
            assert_eq!((admit.model.as_deref(), admit.output_cap), (Some("gpt-x"), Tokens(100)));
            assert_eq!(admit.provider.as_str(), "codex");
        }
    }
}

#[tokio::test]
async fn no_extension_is_offered_and_none_accepted() {
    let world = World::start().await;
    let (asked, answered) = tokio::join!(
        ask(&world, Way::Transparent, PATH, &[OFFER, ("x-api-key", "k"), ("sec-websocket-protocol", "a, b")]),
        async {
            let asked = world.provider.asked().await;
            let seen = asked.head.headers.clone();
            asked.switch(Response::builder().header("sec-websocket-protocol", "b").header("alt-svc", "h3")).await;
            seen
        }
    );
    let (_, answer) = asked.unwrap();
    assert!(!answered.contains_key("sec-websocket-extensions"), "the offer went through");
    assert_eq!(answered["x-api-key"], "k");
    assert_eq!(answered["sec-websocket-protocol"], "a, b");
    assert_eq!((answer.status().as_u16(), &answer.headers()["sec-websocket-protocol"]), (101, &"b".parse().unwrap()));
    assert!(!answer.headers().contains_key("sec-websocket-extensions") && !answer.headers().contains_key("alt-svc"));

    // A provider that answers with what nobody offered.
    let switch = async { world.provider.asked().await.switch(Response::builder().header(OFFER.0, OFFER.1)).await };
    let (asked, mut provider) = tokio::join!(ask(&world, Way::Transparent, PATH, &[OFFER]), switch);
    let Err(Error::Http(answer)) = asked else { panic!("{asked:?}") };
    assert_eq!(answer.status(), 502);
    assert_eq!(hear(&mut provider).await, None);
}

#[tokio::test]
async fn a_providers_no_is_passed_on() {
    let world = World::start().await;
    let (asked, ()) = tokio::join!(ask(&world, Way::Transparent, PATH, &[OFFER]), async {
        let head = Response::builder().status(401).header("request-id", "req_1");
        world.provider.asked().await.whole(head, "{\"error\":{\"message\":\"who?\"}}");
    });
    let Err(Error::Http(answer)) = asked else { panic!("{asked:?}") };
    assert_eq!((answer.status().as_u16(), &answer.headers()["request-id"]), (401, &"req_1".parse().unwrap()));
    let settlement = world.only_settlement().await;
    assert_eq!((settlement.known, settlement.status), (Known::Unmetered, Some(401)));
}

#[tokio::test]
async fn responses_side_by_side_each_settle_for_themselves() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    for lane in ["s1", "s2"] {
        let request = create(&json!({"stream_id": lane, "max_output_tokens": if lane == "s1" { 10 } else { 20 }}));
        say(&mut client, &request).await;
        expect(&mut provider, &request).await;
    }
    let events = [
        on("s2", created("resp_b")),
        on("s1", created("resp_a")),
        on("s2", delta("of the second")),
        on("s1", delta("of the first")),
        on("s2", completed("resp_b", 31, 2)),
        on("s1", completed("resp_a", 17, 5)),
    ];
    for event in events {
        say(&mut provider, &event).await;
        expect(&mut client, &event).await;
    }
    let settled = settlements(&world, 2).await;
    let found: Vec<_> =
        settled.iter().map(|one| (one.permit.0, one.provider_request_id.as_deref(), one.usage)).collect();
    // The handshake's permit is the first.
    assert_eq!(found, [(3, Some("resp_b"), usage(31, 2)), (2, Some("resp_a"), usage(17, 5))]);
    assert!(settled.iter().all(|one| (one.known, one.ending) == (Known::Reported, Ending::Complete)));
}

#[tokio::test]
async fn without_lanes_they_are_told_apart_by_name() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    for _ in 0..2 {
        say(&mut client, create(&Value::Null)).await;
        hear(&mut provider).await.unwrap();
    }
    let events =
        [created("resp_a"), created("resp_b"), completed("resp_b", 31, 2), delta("x"), completed("resp_a", 17, 5)];
    for event in events {
        say(&mut provider, &event).await;
        expect(&mut client, &event).await;
    }
    let found: Vec<_> = settlements(&world, 2).await.iter().map(|one| (one.permit.0, one.usage)).collect();
    assert_eq!(found, [(3, usage(31, 2)), (2, usage(17, 5))]);
}

/// A message in this many frames, a ping in between.
fn fragments(message: &str, count: usize) -> Vec<Message> {
    let size = message.len().div_ceil(count);
    let chunks: Vec<&[u8]> = message.as_bytes().chunks(size).collect();
    let last = chunks.len() - 1;
    let frame = |(at, chunk): (usize, &&[u8])| {
        let data = if at == 0 { Data::Text } else { Data::Continue };
        let frame = Frame::message(Bytes::copy_from_slice(chunk), OpCode::Data(data), at == last);
        [Message::Frame(frame), Message::Ping(format!("between {at}").into())]
    };
    chunks.iter().enumerate().flat_map(frame).collect()
}

#[tokio::test]
async fn fragments_are_one_message_and_pings_go_through() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    let request = create(&json!({"max_output_tokens": 77}));
    for frame in fragments(&request, 5) {
        client.send(frame).await.unwrap();
    }
    // The last ping may overtake the request, which waits for its permit.
    let (mut requests, mut pings) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let heard = hear(&mut provider).await.unwrap();
        if heard.is_ping() { pings.push(heard) } else { requests.push(heard) }
    }
    assert_eq!(requests, [Message::text(request)]);
    assert_eq!(pings, (0..5).map(|at| Message::Ping(format!("between {at}").into())).collect::<Vec<_>>());
    for event in [created("resp_1"), completed("resp_1", 21, 7)] {
        for frame in fragments(&event.to_string(), 3) {
            provider.send(frame).await.unwrap();
        }
    }
    let mut heard = Vec::new();
    while heard.len() < 13 {
        heard.push(hear(&mut client).await.unwrap());
    }
    let (texts, control): (Vec<_>, Vec<_>) = heard.into_iter().partition(Message::is_text);
    assert_eq!(texts, [created("resp_1"), completed("resp_1", 21, 7)].map(|event| Message::text(event.to_string())));
    // What the provider's library answered to the client's pings, and the provider's own.
    assert_eq!(control.iter().filter(|frame| frame.is_pong()).count(), 5);
    assert_eq!(control.iter().filter(|frame| frame.is_ping()).count(), 6);
    assert_eq!(settlements(&world, 1).await[0].usage, usage(21, 7));
    assert_eq!(world.heard.borrow().admits[1].output_cap, Tokens(77));
}

#[tokio::test]
async fn a_warm_up_is_admitted_and_settled_like_any_other() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    say(&mut client, create(&json!({"generate": false, "input": []}))).await;
    hear(&mut provider).await.unwrap();
    for event in [created("resp_0"), completed("resp_0", 0, 0)] {
        say(&mut provider, &event).await;
        expect(&mut client, &event).await;
    }
    let settlement = settlements(&world, 1).await.remove(0);
    assert_eq!((settlement.usage, settlement.known), (Usage::default(), Known::Reported));
    assert_eq!(world.heard.borrow().admits[1].output_cap, Tokens::ZERO);
}

#[tokio::test]
async fn a_request_that_goes_on_asks_for_what_is_read_again() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    say(&mut client, create(&Value::Null)).await;
    hear(&mut provider).await.unwrap();
    for event in [created("resp_1"), completed("resp_1", 9_000, 700)] {
        say(&mut provider, &event).await;
        expect(&mut client, &event).await;
    }
    let first = world.heard.borrow().admits[1].input_estimate;
    let request = create(&json!({"previous_response_id": "resp_1"}));
    say(&mut client, &request).await;
    expect(&mut provider, &request).await;
    let second = world.heard.borrow().admits[2].input_estimate;
    assert!(first < Tokens(100) && second > Tokens(9_700), "{first:?} {second:?}");
}

#[tokio::test]
async fn the_end_of_a_response_waits_for_its_settlement() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    for request in 1..=2 {
        say(&mut client, create(&Value::Null)).await;
        hear(&mut provider).await.unwrap();
        let id = format!("resp_{request}");
        say(&mut provider, created(&id)).await;
        expect(&mut client, created(&id)).await;
        world.holds_settlements.send_replace(true);
        say(&mut provider, completed(&id, 21, 7)).await;
        settlements(&world, request).await;
        silence(&mut client).await;
        world.holds_settlements.send_replace(false);
        expect(&mut client, completed(&id, 21, 7)).await;
    }
}

#[tokio::test]
async fn a_response_without_usage_is_estimated_and_its_end_waits_too() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    say(&mut client, create(&Value::Null)).await;
    hear(&mut provider).await.unwrap();
    for event in [created("resp_1"), delta("0123456789")] {
        say(&mut provider, &event).await;
        expect(&mut client, &event).await;
    }
    world.holds_settlements.send_replace(true);
    let end = json!({"type": "response.incomplete", "response": {"id": "resp_1", "usage": null}});
    say(&mut provider, &end).await;
    let settlement = settlements(&world, 1).await.remove(0);
    let estimate = world.heard.borrow().admits[1].input_estimate;
    assert_eq!((settlement.known, settlement.usage), (Known::Estimated, usage(estimate.0, 5)));
    silence(&mut client).await;
    world.holds_settlements.send_replace(false);
    expect(&mut client, &end).await;
}

#[tokio::test]
async fn an_end_told_twice_is_counted_once() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    say(&mut client, create(&Value::Null)).await;
    hear(&mut provider).await.unwrap();
    let done = json!({"type": "response.done", "response": {"id": "resp_1", "usage": {"input_tokens": 21, "output_tokens": 7}}});
    for event in [created("resp_1"), completed("resp_1", 21, 7), done] {
        say(&mut provider, &event).await;
        expect(&mut client, &event).await;
    }
    assert_eq!(only_settlements(&world, 1).await[0].usage, usage(21, 7));
    // And when it says more the second time, that is not delivered.
    say(&mut provider, completed("resp_1", 21, 8)).await;
    let farewell = hear(&mut client).await;
    assert!(matches!(farewell, Some(Message::Close(Some(ref close))) if u16::from(close.code) == 1011), "{farewell:?}");
    assert_eq!(hear(&mut client).await, None);
}

#[tokio::test]
async fn a_response_that_nobody_asked_for_is_admitted_and_settled() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    say(&mut client, create(&Value::Null)).await;
    hear(&mut provider).await.unwrap();
    let mut steered = completed("resp_1", 2_100, 7);
    steered["type"] = "response.incomplete".into();
    steered["response"]["incomplete_details"] = json!({"reason": "steered"});
    for event in [created("resp_1"), steered, created("resp_2"), delta("more"), completed("resp_2", 2_200, 9)] {
        say(&mut provider, &event).await;
        expect(&mut client, &event).await;
    }
    let found: Vec<_> = only_settlements(&world, 2).await.iter().map(|one| (one.usage, one.known)).collect();
    assert_eq!(found, [(usage(2_100, 7), Known::Reported), (usage(2_200, 9), Known::Reported)]);
    assert_eq!(world.heard.borrow().admits[2].input_estimate, Tokens(2_107));
}

#[tokio::test]
async fn steering_is_admitted_and_its_successor_settles_it() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    say(&mut client, create(&json!({"stream_id": "s1"}))).await;
    hear(&mut provider).await.unwrap();
    say(&mut provider, on("s1", created("resp_1"))).await;
    hear(&mut client).await.unwrap();
    let steer = json!({"type": "response.steer", "previous_response_id": "resp_1", "input": "the other"});
    for _ in 0..2 {
        say(&mut client, &steer).await;
        expect(&mut provider, &steer).await;
    }
    let failed = json!({"type": "response.steer.failed", "steer": {}, "stream_id": "s1"});
    for event in [
        failed,
        on("s1", completed("resp_1", 20, 3)),
        on("s1", created("resp_2")),
        on("s1", completed("resp_2", 30, 4)),
    ] {
        say(&mut provider, &event).await;
        expect(&mut client, &event).await;
    }
    let found: Vec<_> = only_settlements(&world, 3).await.iter().map(|one| (one.permit.0, one.usage)).collect();
    assert_eq!(found, [(3, Usage::default()), (2, usage(20, 3)), (4, usage(30, 4))]);
    assert_eq!(world.heard.borrow().admits.len(), 4);
}

#[tokio::test]
async fn what_asks_for_no_work_passes_without_a_permit() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    let processed = json!({"type": "response.processed", "response_id": "resp_1"});
    say(&mut client, &processed).await;
    expect(&mut provider, &processed).await;
    assert_eq!(world.heard.borrow().admits.len(), 1);
}

#[tokio::test]
async fn a_rejected_request_costs_nothing() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    say(&mut client, create(&Value::Null)).await;
    hear(&mut provider).await.unwrap();
    let error = json!({"type": "error", "status": 429, "error": {"code": "rate_limit_exceeded", "message": "slowly"}});
    say(&mut provider, &error).await;
    expect(&mut client, &error).await;
    let settlement = settlements(&world, 1).await.remove(0);
    assert_eq!((settlement.usage, settlement.known), (Usage::default(), Known::Reported));
    assert_eq!((settlement.ending, settlement.status), (Ending::Error, Some(429)));
}

#[tokio::test]
async fn pings_pass_while_a_request_waits_for_its_permit_and_messages_keep_their_order() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    world.holds_admissions.send_replace(true);
    let (first, second) = (create(&json!({"number": 1})), create(&json!({"number": 2})));
    say(&mut client, &first).await;
    client.send(Message::Ping("are you there?".into())).await.unwrap();
    assert_eq!(hear(&mut provider).await, Some(Message::Ping("are you there?".into())));
    say(&mut client, &second).await;
    silence(&mut provider).await;
    world.holds_admissions.send_replace(false);
    expect(&mut provider, &first).await;
    expect(&mut provider, &second).await;
}

#[tokio::test]
async fn a_message_too_large_to_hold_passes_after_what_it_may_end_is_settled() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    say(&mut client, create(&Value::Null)).await;
    hear(&mut provider).await.unwrap();
    say(&mut provider, created("resp_1")).await;
    hear(&mut client).await.unwrap();
    world.holds_settlements.send_replace(true);
    let mut end = completed("resp_1", 21, 7);
    end["response"]["output"] = "x".repeat(17 << 20).into();
    let end = end.to_string();
    let receiving = async {
        let settlement = settlements(&world, 1).await.remove(0);
        assert_eq!(settlement.known, Known::Estimated);
        assert!(settlement.usage.output >= Tokens(7), "{settlement:?}");
        silence(&mut client).await;
        world.holds_settlements.send_replace(false);
        hear(&mut client).await.unwrap()
    };
    let ((), received) = tokio::join!(say(&mut provider, &end), receiving);
    assert!(received == Message::text(end), "not the same");
    say(&mut provider, json!({"type": "codex.rate_limits"})).await;
    expect(&mut client, json!({"type": "codex.rate_limits"})).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_provider() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    say(&mut client, create(&Value::Null)).await;
    hear(&mut provider).await.unwrap();
    say(&mut provider, created("resp_1")).await;
    let large = delta(&"x".repeat(1 << 20)).to_string();
    let mut sent = 0;
    while timeout(Duration::from_millis(500), provider.send(Message::text(large.clone()))).await.is_ok() {
        sent += 1;
        assert!(sent < 200, "the proxy takes whatever comes");
    }
    // And goes on where it stopped.
    expect(&mut client, created("resp_1")).await;
    for _ in 0..sent {
        expect(&mut client, &large).await;
    }
}
