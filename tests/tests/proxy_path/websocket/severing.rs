//! `crossing: sever` on a WebSocket: what is in flight ends incomplete, and the socket with it.

use super::*;

const LEFT: u64 = 120;

/// Everything the client hears until the socket closes.
async fn heard_until_close(client: &mut Client) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        match hear(client).await {
            Some(Message::Text(text)) => events.push(serde_json::from_str(&text).unwrap()),
            Some(Message::Close(Some(frame))) => {
                assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1000, "the budget is used up"));
                return events;
            }
            other => panic!("{other:?} after {events:?}"),
        }
    }
}

#[tokio::test]
async fn a_response_ends_incomplete_when_its_budget_does() {
    let world = World::start().await;
    world.sever_at(LEFT);
    let (mut client, mut provider) = open(&world).await;
    say(&mut client, create(&json!({"max_output_tokens": 9_000}))).await;
    hear(&mut provider).await.unwrap();
    say(&mut provider, created("resp_1")).await;
    expect(&mut client, created("resp_1")).await;
    let piece = delta("sixteen letters ");
    for _ in 0..200 {
        if provider.send(Message::text(piece.to_string())).await.is_err() {
            break;
        }
    }
    let events = heard_until_close(&mut client).await;
    let deltas = events.iter().take_while(|event| **event == piece).count();
    assert!(deltas > 3 && deltas + 1 == events.len(), "{events:?}");
    assert_eq!(events[deltas]["type"], "response.incomplete");
    let response = &events.last().unwrap()["response"];
    assert_eq!((&response["id"], &response["status"]), (&json!("resp_1"), &json!("incomplete")));
    assert_eq!(response["incomplete_details"]["reason"], "max_output_tokens");
    let settlement = only_settlements(&world, 1).await.remove(0);
    assert_eq!((settlement.ending, settlement.known), (Ending::Cut, Known::Estimated));
    assert_eq!(response["usage"]["total_tokens"], settlement.usage.total().0);
    assert!((LEFT..LEFT + 16).contains(&settlement.usage.total().0), "{settlement:?}");
}

#[tokio::test]
async fn all_that_is_in_flight_on_the_socket_ends_together() {
    let world = World::start().await;
    world.sever_at(LEFT);
    let (mut client, mut provider) = open(&world).await;
    for lane in ["s1", "s2"] {
        say(&mut client, create(&json!({"max_output_tokens": 9_000, "stream_id": lane}))).await;
        hear(&mut provider).await.unwrap();
        let event = on(lane, created(&format!("resp_{lane}")));
        say(&mut provider, &event).await;
        expect(&mut client, &event).await;
    }
    let long = "sixteen letters ".repeat(100);
    say(&mut provider, on("s2", delta(&long))).await;
    let events = heard_until_close(&mut client).await;
    let ended: Vec<_> = events[1..].iter().map(|event| (&event["type"], &event["stream_id"])).collect();
    let incomplete = json!("response.incomplete");
    assert_eq!(ended, [(&incomplete, &json!("s1")), (&incomplete, &json!("s2"))]);
    let settlements = only_settlements(&world, 2).await;
    assert!(settlements.iter().all(|settlement| settlement.ending == Ending::Cut), "{settlements:?}");
}
