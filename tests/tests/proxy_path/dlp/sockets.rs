//! WebSockets.

use egress_userspace::domain::{InboundOnMatch, OutboundOnMatch, RefusalReason, Supervised};
use futures_util::{SinkExt, StreamExt};
use hyper::Response;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::super::client::Way;
use super::super::provider::Socket;
use super::super::websocket::{Client, ask_at};
use super::super::world::{Heard, OPENAI, PATIENCE, ROUTED, World};
use super::{token, world};

/// More than is held of a message.
const LARGE_BYTES: usize = 17 << 20;

pub(super) async fn open(world: &World, host: &str, path: &str) -> (Client, Socket) {
    let (client, host) = tokio::join!(ask_at(world, Way::Transparent, host, path, &[]), async {
        world.provider.asked().await.switch(Response::builder()).await
    });
    (client.unwrap().0, host)
}

pub(super) async fn next<S>(socket: &mut S) -> Option<Result<Message, Error>>
where
    S: StreamExt<Item = Result<Message, Error>> + Unpin,
{
    timeout(PATIENCE, socket.next()).await.expect("no message in time")
}

async fn check_closed<S>(socket: &mut S)
where
    S: StreamExt<Item = Result<Message, Error>> + Unpin,
{
    match next(socket).await {
        Some(Ok(Message::Close(Some(CloseFrame { code, .. })))) => assert_eq!(u16::from(code), 1008),
        other => panic!("not closed by policy: {other:?}"),
    }
}

/// The socket may end before all of it is sent.
async fn send_all<S>(socket: &mut S, messages: &[Message]) -> Result<(), Error>
where
    S: SinkExt<Message, Error = Error> + Unpin,
{
    for message in messages {
        timeout(PATIENCE, socket.send(message.clone())).await.expect("not sent in time")?;
    }
    Ok(())
}

/// A message in two frames, cut within the token.
fn fragments() -> [Message; 2] {
    let text = format!("look: {}", token());
    let (first, rest) = text.split_at(20);
    let frame = |text: &str, data, is_final| {
        Message::Frame(Frame::message(text.as_bytes().to_vec(), OpCode::Data(data), is_final))
    };
    [frame(first, Data::Text, false), frame(rest, Data::Continue, true)]
}

#[tokio::test]
async fn a_message_in_which_something_is_found_ends_the_socket_for_both_and_is_told_of() {
    let large = format!("{} {}", "x ".repeat(LARGE_BYTES / 2), token());
    let cases = [
        vec![Message::text(token())],
        vec![Message::binary(token().into_bytes())],
        fragments().to_vec(),
        vec![Message::text(large)],
        vec![Message::Ping(token().into_bytes().into())],
    ];
    for messages in cases {
        let world = world(OutboundOnMatch::Block, InboundOnMatch::Block).await;
        for is_outbound in [true, false] {
            let (mut client, mut host) = open(&world, ROUTED, "/socket").await;
            client.send(Message::text("hello")).await.unwrap();
            assert_eq!(next(&mut host).await.unwrap().unwrap(), Message::text("hello"));
            if is_outbound {
                let (sent, ()) = tokio::join!(send_all(&mut client, &messages), check_closed(&mut host));
                drop(sent);
                check_closed(&mut client).await;
            } else {
                let (sent, ()) = tokio::join!(send_all(&mut host, &messages), check_closed(&mut client));
                drop(sent);
                check_closed(&mut host).await;
            }
        }
        let heard = world.wait("both are told", |heard: &Heard| heard.refused.len() >= 2).await;
        for refused in &heard.refused {
            assert_eq!((refused.reason, refused.rule.as_deref()), (RefusalReason::SensitiveData, Some("github-token")));
            assert_eq!(refused.target, "GET /socket");
        }
    }
}

#[tokio::test]
async fn messages_are_overwritten_both_ways() {
    let world = world(OutboundOnMatch::Redact, InboundOnMatch::Redact).await;
    let (mut client, mut host) = open(&world, ROUTED, "/socket").await;
    let stars = "*".repeat(token().len());
    for (front, back) in [("look: ", ""), ("{\"x\":\"", "\"}")] {
        let message = |middle: &str| Message::text(format!("{front}{middle}{back}"));
        client.send(message(&token())).await.unwrap();
        assert_eq!(next(&mut host).await.unwrap().unwrap(), message(&stars));
        host.send(message(&token())).await.unwrap();
        assert_eq!(next(&mut client).await.unwrap().unwrap(), message(&stars));
    }
    host.send(Message::text("say Open Sesame")).await.unwrap();
    assert_eq!(next(&mut client).await.unwrap().unwrap(), Message::text("say ***********"));
    client.close(None).await.unwrap();
    assert!(matches!(next(&mut host).await, Some(Ok(Message::Close(_)))));
    drop((client, host));
    let heard = world.wait("it is told", |heard: &Heard| heard.redacted.len() >= 3).await;
    let mut told = heard.redacted;
    told.sort();
    let row = |detector: &str, is_outbound, count| {
        (detector.to_owned(), ROUTED.to_owned(), "GET /socket".to_owned(), is_outbound, count)
    };
    assert_eq!(told, [row("github-token", false, 2), row("github-token", true, 2), row("spell", false, 1)]);
}

#[tokio::test]
async fn a_request_for_work_that_is_refused_is_not_admitted() {
    for on_match in [OutboundOnMatch::Block, OutboundOnMatch::Supervise] {
        let world = world(on_match, InboundOnMatch::Off).await;
        world.script.lock().unwrap().verdict = Some(Supervised::Expired);
        let (mut client, mut host) = open(&world, OPENAI, "/v1/responses").await;
        let request = format!(r#"{{"type":"response.create","model":"gpt-x","input":"{}"}}"#, token());
        client.send(Message::text(request)).await.unwrap();
        check_closed(&mut client).await;
        check_closed(&mut host).await;
        // Only the handshake.
        assert!(world.heard.borrow().admits.iter().all(|admitted| !admitted.is_metered));
    }
}
