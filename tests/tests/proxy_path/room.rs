//! One bottle takes all that it may have, and another is served.

use std::net::Ipv4Addr;
use std::time::Duration;

use hyper::{Request, Response, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::client::{Client, Way, tcp, tls, whole};
use super::world::{PATIENCE, PROVIDER, World};

/// What one bottle may hold.
const CONNECTIONS: usize = 2_048;
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A connection from the second bottle.
async fn neighbours(world: &World) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((NEIGHBOUR, 0).into()).unwrap();
    timeout(PATIENCE, socket.connect(world.doors.plain)).await.expect("no connection in time").unwrap()
}

/// Is it served at once?
async fn is_served(mut stream: TcpStream) -> bool {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: _egress.local\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("no answer in time");
    read.is_ok() && answer.starts_with("HTTP/1.1 200 ")
}

#[tokio::test]
async fn a_bottle_that_holds_all_its_connections_keeps_nobody_else_from_being_served() {
    let world = World::start().await;
    world.neighbour(NEIGHBOUR);
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = tcp(world.doors.plain).await.unwrap();
        // Begun, so that each of them is in the middle of a head.
        stream.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        held.push(stream);
    }
    let mut more = tcp(world.doors.plain).await.unwrap();
    let end = timeout(PATIENCE, more.read(&mut [0; 8])).await.expect("one more than it may have is not closed");
    assert_eq!(end.unwrap_or(0), 0);
    for _ in 0..10 {
        assert!(is_served(neighbours(&world).await).await);
    }
    let mut client = Client::speak(Way::Plain, Version::HTTP_11, neighbours(&world).await).await;
    let (response, ()) = tokio::join!(client.send_to(PROVIDER, Request::get("/"), "/v1/models", ""), async {
        world.provider.asked().await.whole(Response::builder(), "done");
    });
    assert_eq!(whole(response.unwrap()).await, "done");
    drop(held.pop());
    let again = async {
        while !is_served(tcp(world.doors.plain).await.unwrap()).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("the place of one that has left is not free");
}

#[tokio::test]
async fn requests_wait_for_their_turn_and_only_those_of_their_bottle() {
    // Over HTTP/1, where each has a connection of its own: a provider's limit of streams holds nobody up.
    let (world, _serving) = World::start_with(false).await;
    world.neighbour(NEIGHBOUR);
    let mut answers = Vec::new();
    for _ in 0..CONNECTIONS / 64 {
        let mut client = Client::open(&world, Way::Transparent, Version::HTTP_2).await;
        for sender in client.many(64) {
            answers.push(tokio::spawn(sender));
        }
        // Dropped, it would end its streams.
        answers.push(tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(client);
        }));
    }
    let mut asked = Vec::new();
    for _ in 0..CONNECTIONS {
        asked.push(world.provider.asked().await);
    }
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_2).await;
    let one_more = tokio::spawn(client.many(1).remove(0));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(world.provider.is_untouched().await, "one more than at once is sent");
    assert!(is_served(neighbours(&world).await).await);
    asked.pop().unwrap().whole(Response::builder(), "done");
    world.provider.asked().await.whole(Response::builder(), "done");
    timeout(PATIENCE, one_more).await.expect("its turn does not come").unwrap();
    answers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_providers_limit_of_streams_holds_up_only_who_fills_it() {
    let world = World::start().await;
    world.neighbour(NEIGHBOUR);
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Client::open(&world, Way::Transparent, Version::HTTP_2).await;
        // More than providers allow on a connection, most of which wait.
        client.many(100).into_iter().for_each(|sending| drop(tokio::spawn(sending)));
        clients.push(client);
    }
    let mut asked = vec![world.provider.asked().await];
    tokio::time::sleep(Duration::from_millis(500)).await;
    while !world.provider.is_untouched().await {
        asked.push(world.provider.asked().await);
    }
    assert!(asked.len() < 400, "the provider has no limit");
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((NEIGHBOUR, 0).into()).unwrap();
    let stream = socket.connect(world.doors.tls).await.unwrap();
    let stream = tls(&world, stream, Version::HTTP_2, PROVIDER).await.unwrap();
    let mut other = Client::speak(Way::Transparent, Version::HTTP_2, stream).await;
    let (response, ()) = tokio::join!(other.send_to(PROVIDER, Request::get("/"), "/v1/other", ""), async {
        let asked = world.provider.asked().await;
        assert_eq!(asked.head.uri.path(), "/v1/other");
        asked.whole(Response::builder(), "done");
    });
    assert_eq!(whole(response.unwrap()).await, "done");
}
