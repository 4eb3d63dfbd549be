//! WebSockets with hosts whose tokens nobody counts.

use std::time::Duration;

use egress_userspace::broker::Phase;
use egress_userspace::domain::{Route, RouteFile};
use futures_util::{SinkExt, StreamExt};
use hyper::Response;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::super::client::Way;
use super::super::provider::Socket;
use super::super::world::{PATIENCE, ROUTED, World};
use super::{Client, OFFER, ask_at};

async fn world(routes: &[&str]) -> World {
    let world = World::start().await;
    let routes = routes.iter().map(|host| Route::to(host.parse().unwrap(), "routes.yaml:1".to_owned())).collect();
    world.route(RouteFile { routes, ..RouteFile::default() });
    // Until the snapshot has arrived.
    sleep(Duration::from_millis(50)).await;
    world
}

async fn open(world: &World, way: Way) -> (Client, Socket) {
    let (client, host) = tokio::join!(ask_at(world, way, ROUTED, "/socket", &[OFFER]), async {
        world.provider.asked().await.switch(Response::builder()).await
    });
    let (client, answer) = client.unwrap();
    assert!(!answer.headers().contains_key("sec-websocket-extensions"), "what is compressed cannot be read");
    (client, host)
}

async fn next<S>(socket: &mut S) -> Option<Result<Message, Error>>
where
    S: StreamExt<Item = Result<Message, Error>> + Unpin,
{
    timeout(PATIENCE, socket.next()).await.expect("no message in time")
}

#[tokio::test]
async fn messages_pass_both_ways_until_both_have_closed() {
    let world = world(&[ROUTED]).await;
    for way in [Way::Transparent, Way::Connect] {
        let (mut client, mut host) = open(&world, way).await;
        let large = "x".repeat(3 << 20);
        for message in [Message::text("hello"), Message::binary(vec![0, 255, 7]), Message::text(large)] {
            client.send(message.clone()).await.unwrap();
            assert_eq!(next(&mut host).await.unwrap().unwrap(), message);
            host.send(message.clone()).await.unwrap();
            assert_eq!(next(&mut client).await.unwrap().unwrap(), message);
        }
        client.send(Message::Ping(vec![1].into())).await.unwrap();
        assert_eq!(next(&mut host).await.unwrap().unwrap(), Message::Ping(vec![1].into()));
        host.flush().await.unwrap();
        assert_eq!(next(&mut client).await.unwrap().unwrap(), Message::Pong(vec![1].into()));
        client.close(None).await.unwrap();
        assert!(matches!(next(&mut host).await, Some(Ok(Message::Close(_)))));
        // Its answer leaves.
        host.flush().await.ok();
        assert!(matches!(next(&mut client).await, Some(Ok(Message::Close(_)))), "{way:?}");
    }
    let heard = world.heard.borrow();
    assert_eq!((heard.admits.len(), heard.settlements.len()), (0, 0));
}

#[tokio::test]
async fn a_cut_ends_it() {
    let world = world(&[ROUTED]).await;
    let (mut client, mut host) = open(&world, Way::Transparent).await;
    world.phase(Phase::Cut);
    assert!(next(&mut client).await.is_none_or(|message| message.is_err()));
    assert!(next(&mut host).await.is_none_or(|message| message.is_err()));
}

#[tokio::test]
async fn an_unlisted_host_is_not_even_asked() {
    let world = world(&[]).await;
    for way in [Way::Transparent, Way::Connect, Way::Plain] {
        let Err(Error::Http(answer)) = ask_at(&world, way, ROUTED, "/socket", &[]).await else { panic!("{way:?}") };
        assert_eq!(answer.status(), 403, "{way:?}");
    }
    assert!(world.provider.is_untouched().await);
}
