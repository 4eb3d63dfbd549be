//! However a socket ends, each response in flight is settled once, and the other side hears of it.

use std::time::Duration;

use egress_userspace::broker::Phase;
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::*;

/// A response in the middle: five tokens have been written.
async fn in_the_middle(client: &mut Client, provider: &mut Socket) {
    say(client, create(&Value::Null)).await;
    hear(provider).await.unwrap();
    for event in [created("resp_1"), delta("0123456789")] {
        say(provider, &event).await;
        expect(client, &event).await;
    }
}

/// What is settled of it when its end was not seen.
async fn check(world: &World, ending: Ending) {
    let settlement = only_settlements(world, 1).await.remove(0);
    let input = world.heard.borrow().admits[1].input_estimate;
    assert_eq!((settlement.ending, settlement.known), (ending, Known::Estimated));
    assert_eq!(settlement.usage, usage(input.0, 5));
    assert!(input > Tokens::ZERO);
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_socket_upstream() {
    for way in [Way::Transparent, Way::Plain] {
        let world = World::start().await;
        let (mut client, mut provider) = open_by(&world, way).await;
        in_the_middle(&mut client, &mut provider).await;
        drop(client);
        assert_eq!(hear(&mut provider).await, None);
        check(&world, Ending::Cancelled).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_its_request_waits_pays_nothing() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    world.holds_admissions.send_replace(true);
    say(&mut client, create(&Value::Null)).await;
    world.wait("the ledger is asked", |heard| heard.admits.len() == 2).await;
    drop(client);
    assert_eq!(hear(&mut provider).await, None);
    world.holds_admissions.send_replace(false);
    let settlement = only_settlements(&world, 1).await.remove(0);
    assert_eq!((settlement.usage, settlement.ending), (Usage::default(), Ending::Cancelled));
}

#[tokio::test]
async fn a_farewell_is_passed_on_and_answered() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    in_the_middle(&mut client, &mut provider).await;
    let close = CloseFrame { code: CloseCode::Normal, reason: "enough".into() };
    client.close(Some(close.clone())).await.unwrap();
    assert_eq!(hear(&mut provider).await, Some(Message::Close(Some(close.clone()))));
    // The provider's library has answered; it says so when it is asked for more.
    assert_eq!(hear(&mut provider).await, None);
    assert_eq!(hear(&mut client).await, Some(Message::Close(Some(close))));
    assert_eq!(hear(&mut client).await, None);
    check(&world, Ending::Cancelled).await;
}

#[tokio::test]
async fn a_provider_that_hangs_up_is_told_of() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    in_the_middle(&mut client, &mut provider).await;
    drop(provider);
    assert_eq!(hear(&mut client).await, None);
    check(&world, Ending::HungUp).await;
}

#[tokio::test]
async fn a_providers_farewell_is_passed_on_when_what_is_in_flight_is_settled() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    in_the_middle(&mut client, &mut provider).await;
    world.holds_settlements.send_replace(true);
    let close = CloseFrame { code: CloseCode::Restart, reason: "later".into() };
    provider.close(Some(close.clone())).await.unwrap();
    settlements(&world, 1).await;
    silence(&mut client).await;
    world.holds_settlements.send_replace(false);
    assert_eq!(hear(&mut client).await, Some(Message::Close(Some(close))));
    check(&world, Ending::HungUp).await;
}

#[tokio::test]
async fn a_provider_that_sends_no_frames_is_given_up() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    in_the_middle(&mut client, &mut provider).await;
    // A reserved bit, as if an extension had been agreed on.
    tokio::io::AsyncWriteExt::write_all(provider.get_mut(), b"\xc1\x02{}").await.unwrap();
    tokio::io::AsyncWriteExt::flush(provider.get_mut()).await.unwrap();
    assert!(matches!(hear(&mut client).await, Some(Message::Close(Some(ref close))) if u16::from(close.code) == 1011));
    check(&world, Ending::Error).await;
}

#[tokio::test]
async fn a_provider_may_be_silent_between_responses_and_not_within_one() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    // Longer than the world's providers may be silent.
    sleep(Duration::from_millis(2_500)).await;
    in_the_middle(&mut client, &mut provider).await;
    for _ in 0..5 {
        // What it answers to the client's pings says nothing of the response.
        client.send(Message::Ping("still there?".into())).await.unwrap();
        assert_eq!(hear(&mut provider).await, Some(Message::Ping("still there?".into())));
        provider.flush().await.unwrap();
        assert_eq!(hear(&mut client).await, Some(Message::Pong("still there?".into())));
        sleep(Duration::from_millis(300)).await;
    }
    assert!(matches!(hear(&mut client).await, Some(Message::Close(Some(ref close))) if u16::from(close.code) == 1011));
    assert_eq!(hear(&mut provider).await, None);
    check(&world, Ending::TimedOut).await;
}

#[tokio::test]
async fn a_cut_severs_the_socket() {
    let world = World::start().await;
    let (mut idle, mut far) = open(&world).await;
    let (mut client, mut provider) = open(&world).await;
    in_the_middle(&mut client, &mut provider).await;
    world.phase(Phase::Cut);
    assert_eq!(hear(&mut client).await, None, "something passed after the cut");
    assert_eq!(hear(&mut provider).await, None);
    assert_eq!(hear(&mut idle).await, None, "an idle socket outlives the cut");
    assert_eq!(hear(&mut far).await, None);
    sleep(Duration::from_millis(100)).await;
    let heard = world.heard.borrow().clone();
    let settled = &heard.settlements[2..];
    assert_eq!(settled.len(), 1, "{settled:?}");
    assert_eq!(
        (settled[0].ending, settled[0].known, settled[0].usage.output),
        (Ending::Cut, Known::Estimated, Tokens(5))
    );
}

#[tokio::test]
async fn without_its_controller_the_socket_ends() {
    let (world, serving) = World::start_with(true).await;
    let (mut client, mut provider) = open(&world).await;
    in_the_middle(&mut client, &mut provider).await;
    world.kill_controller();
    timeout(PATIENCE, serving).await.expect("the proxy goes on").unwrap().ok();
    assert_eq!(hear(&mut client).await, None);
    assert_eq!(hear(&mut provider).await, None);
}

#[tokio::test]
async fn an_error_in_the_middle_ends_the_response_and_not_the_socket() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    in_the_middle(&mut client, &mut provider).await;
    let error = json!({"type": "error", "sequence_number": 3, "code": "server_error", "message": "sorry"});
    say(&mut provider, &error).await;
    expect(&mut client, &error).await;
    check(&world, Ending::Error).await;
    say(&mut client, create(&Value::Null)).await;
    expect(&mut provider, create(&Value::Null)).await;
}

#[tokio::test]
async fn a_crossing_response_is_reported_when_it_has_arrived() {
    let world = World::start().await;
    let (mut client, mut provider) = open(&world).await;
    world.script.lock().unwrap().crossed = true;
    in_the_middle(&mut client, &mut provider).await;
    sleep(Duration::from_millis(20)).await;
    assert_eq!(world.heard.borrow().delivered, 0, "said before the end");
    say(&mut provider, completed("resp_1", 21, 7)).await;
    expect(&mut client, completed("resp_1", 21, 7)).await;
    world.wait("delivered", |heard| heard.delivered == 1).await;
    assert_eq!(only_settlements(&world, 1).await[0].usage, usage(21, 7));
}
