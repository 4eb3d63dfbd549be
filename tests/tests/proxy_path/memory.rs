//! One bottle makes the proxy hold all that it may, and another is served.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use egress_userspace::domain::{Route, RouteFile};
use futures_util::SinkExt;
use hyper::{Request, Response, Version};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::client::{Client, Way, tcp, whole};
use super::websocket::{self, ask_at};
use super::world::{PATIENCE, PROVIDER, ROUTED, World};

/// What one bottle may make the proxy hold.
const BYTES: usize = 128 << 20;
/// What is read of a request before it is admitted.
const PREFIX_BYTES: usize = 4 << 20;
/// A message that is held until it is whole.
const MESSAGE_BYTES: usize = 15 << 20;
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Sends a request that does not end.
async fn stalled(world: &World, head: &str, body: &[u8]) -> TcpStream {
    let mut stream = tcp(world.doors.plain).await.unwrap();
    let head = format!("POST /v1/messages HTTP/1.1\r\nHost: {PROVIDER}\r\n{head}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    timeout(PATIENCE, stream.write_all(body)).await.expect("it is not read").unwrap();
    stream
}

/// The answer to it, if there is one.
async fn answer(stream: &mut TcpStream) -> Option<String> {
    let mut answer = vec![0; 4 << 10];
    let length = timeout(Duration::from_secs(2), stream.read(&mut answer)).await.ok()?.unwrap();
    answer.truncate(length);
    Some(String::from_utf8(answer).unwrap())
}

/// Of these requests, those that wait for their end. The others have been answered: it is too much at once.
async fn held(streams: Vec<TcpStream>) -> Vec<TcpStream> {
    let asking = streams.into_iter().map(|mut stream| async move { (answer(&mut stream).await, stream) });
    let mut held = Vec::new();
    for (answer, stream) in futures_util::future::join_all(asking).await {
        let Some(answer) = answer else {
            held.push(stream);
            continue;
        };
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["type"], &body["error"]["type"]), (&"error".into(), &"api_error".into()), "{body}");
        assert_eq!(body["egress_reason"], "too_much_at_once");
    }
    held
}

/// Has a request from the bottle or its neighbour an answer?
async fn is_served(world: &World, from: Ipv4Addr) -> bool {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = socket.connect(world.doors.plain).await.unwrap();
    let mut client = Client::speak(Way::Plain, Version::HTTP_11, stream).await;
    let body = format!(r#"{{"model":"claude-x","max_tokens":9,"system":"{}"}}"#, "x".repeat(PREFIX_BYTES / 8));
    let asking = client.send_to(PROVIDER, Request::post("/"), "/v1/messages", body);
    tokio::pin!(asking);
    tokio::select! {
        response = &mut asking => return response.unwrap().status() == 200,
        asked = world.provider.next() => asked.whole(Response::builder(), "done"),
    }
    whole(asking.await.unwrap()).await == "done"
}

/// The neighbour is served while of these requests, so large each, as many are held as may be, and the bottle again when they
/// are gone.
async fn check_held(world: &World, streams: Vec<TcpStream>, bytes: usize) {
    let (count, few, many) = (streams.len(), BYTES * 3 / 4 / bytes, BYTES / bytes);
    let mut streams = held(streams).await;
    // On a busy machine some have not been read yet.
    let since = Instant::now();
    while streams.len() > many && since.elapsed() < PATIENCE {
        streams = held(streams).await;
    }
    assert!((few..=many).contains(&streams.len()), "{} of {count}", streams.len());
    assert!(is_served(world, NEIGHBOUR).await);
    drop(streams);
    let again = async {
        while !is_served(world, Ipv4Addr::LOCALHOST).await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("what was held is not given back");
}

#[tokio::test]
async fn beginnings_that_stall_are_refused_beyond_what_a_bottle_may_hold_and_others_are_served() {
    let world = World::start().await;
    world.neighbour(NEIGHBOUR);
    let (head, body) = (format!("Content-Length: {PREFIX_BYTES}\r\n"), vec![b'x'; PREFIX_BYTES - 1]);
    let mut streams = Vec::new();
    for _ in 0..BYTES / PREFIX_BYTES + 8 {
        streams.push(stalled(&world, &head, &body).await);
    }
    check_held(&world, streams, PREFIX_BYTES - 1).await;
}

#[tokio::test]
async fn so_are_those_that_are_small_until_they_are_decoded() {
    let world = World::start().await;
    world.neighbour(NEIGHBOUR);
    // What is known is looked for, so that bodies are decoded.
    world.secrets(&[("DEPLOY_KEY", "s3cr3t/Value+with=bits&42")]);
    sleep(Duration::from_millis(50)).await;
    // What the second decoder skips fills the window of the first, and what it decodes is in its own as well.
    let (skipped, decoded) = (7 << 20, 1 << 20);
    let bytes = skipped + 2 * decoded + (512 << 10);
    let skip = [&0x184d_2a50_u32.to_le_bytes()[..], &u32::try_from(skipped).unwrap().to_le_bytes()].concat();
    let inner = zstd::encode_all(&vec![b' '; decoded][..], 3).unwrap();
    let body = zstd::encode_all(&[skip, vec![0; skipped], inner].concat()[..], 3).unwrap();
    assert!(body.len() < 2_000);
    let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat();
    let mut streams = Vec::new();
    for _ in 0..BYTES / bytes + 4 {
        streams.push(stalled(&world, "Content-Encoding: zstd, zstd\r\nTransfer-Encoding: chunked\r\n", &chunk).await);
    }
    check_held(&world, streams, bytes).await;
}

/// The beginning of a message.
fn beginning() -> Message {
    Message::Frame(Frame::message(vec![b'x'; MESSAGE_BYTES], OpCode::Data(Data::Text), false))
}

#[tokio::test]
async fn sockets_with_messages_beyond_what_a_bottle_may_hold_are_closed() {
    let world = World::start().await;
    world.neighbour(NEIGHBOUR);
    let routes = vec![Route::to(ROUTED.parse().unwrap(), "routes.yaml:1".to_owned())];
    world.route(RouteFile { routes, passthrough: Some(true), ..RouteFile::default() });
    sleep(Duration::from_millis(50)).await;
    for is_metered in [true, false] {
        let open = async || {
            if is_metered {
                return websocket::open(&world).await;
            }
            let (client, host) = tokio::join!(ask_at(&world, Way::Transparent, ROUTED, "/socket", &[]), async {
                world.provider.asked().await.switch(Response::builder()).await
            });
            (client.unwrap().0, host)
        };
        let mut sockets = Vec::new();
        for _ in 0..BYTES / MESSAGE_BYTES {
            let (mut client, host) = open().await;
            client.send(beginning()).await.unwrap();
            sockets.push((client, host));
        }
        // Until all of it has arrived.
        sleep(Duration::from_millis(500)).await;
        let (mut client, host) = open().await;
        // It may be closed before all of this has been read.
        let _ = client.send(beginning()).await;
        let farewell = websocket::hear(&mut client).await;
        let Some(Message::Close(Some(close))) = farewell else { panic!("{farewell:?}") };
        assert_eq!(u16::from(close.code), 1013, "metered: {is_metered}");
        drop((client, host));
        assert!(is_served(&world, NEIGHBOUR).await);
        let (mut first, mut firsts_host) = sockets.swap_remove(0);
        drop(sockets);
        let end = Frame::message(&b"x"[..], OpCode::Data(Data::Continue), true);
        first.send(Message::Frame(end)).await.unwrap();
        let whole = websocket::hear(&mut firsts_host).await.unwrap();
        assert_eq!(whole.len(), MESSAGE_BYTES + 1);
        drop((first, firsts_host));
        let again = async {
            while !is_served(&world, Ipv4Addr::LOCALHOST).await {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, again).await.expect("what was held is not given back");
    }
}
