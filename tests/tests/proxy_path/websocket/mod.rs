//! Responses over a WebSocket: each is admitted, metered and settled for itself.

mod ending;
mod passing;
mod refusing;
mod routed;
mod severing;

use std::fmt::Debug;

use egress_userspace::domain::{Ending, Known, Settlement, Tokens, Usage};
use futures_util::{SinkExt, StreamExt};
use hyper::{Response, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response as Answer;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::client::{Way, tcp, tls, tunnel};
use super::provider::Socket;
use super::world::{OPENAI, PATIENCE, World};

const PATH: &str = "/v1/responses";
/// What Codex offers.
const OFFER: (&str, &str) = ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits");

/// A connection to the provider by any way but HTTP/2.
async fn connect(world: &World, way: Way, host: &str) -> Box<dyn Stream> {
    match way {
        Way::Transparent => {
            Box::new(tls(world, tcp(world.doors.tls).await.unwrap(), Version::HTTP_11, host).await.unwrap())
        }
        Way::Connect => {
            let stream = tunnel(world.doors.explicit, host).await.unwrap();
            Box::new(tls(world, stream, Version::HTTP_11, host).await.unwrap())
        }
        Way::Absolute | Way::Plain => Box::new(tcp(world.doors.plain).await.unwrap()),
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Debug + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Debug + Send + Unpin> Stream for S {}

/// A client's end of a socket.
pub(crate) type Client = WebSocketStream<Box<dyn Stream>>;

/// Asks for a socket.
pub(crate) async fn ask(
    world: &World,
    way: Way,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<(Client, Answer), Error> {
    ask_at(world, way, OPENAI, path, headers).await
}

/// The same of another host.
pub(crate) async fn ask_at(
    world: &World,
    way: Way,
    host: &str,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<(Client, Answer), Error> {
    let stream = connect(world, way, host).await;
    let mut request = format!("ws://{host}{path}").into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse()?);
    }
    let config = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
    let asking = client_async_with_config(request, stream, Some(config));
    timeout(PATIENCE, asking).await.expect("no answer in time")
}

/// Both ends of an open socket.
async fn open_by(world: &World, way: Way) -> (Client, Socket) {
    let (client, provider) = tokio::join!(ask(world, way, PATH, &[OFFER]), async {
        world.provider.asked().await.switch(Response::builder()).await
    });
    (client.unwrap().0, provider)
}

pub(crate) async fn open(world: &World) -> (Client, Socket) {
    open_by(world, Way::Transparent).await
}

/// A request for a response, with further fields.
fn create(more: &Value) -> String {
    let mut request = json!({"type": "response.create", "model": "gpt-x", "max_output_tokens": 100, "input": "hello"});
    let fields = request.as_object_mut().unwrap();
    fields.extend(more.as_object().cloned().unwrap_or_default());
    request.to_string()
}

fn created(id: &str) -> Value {
    json!({"type": "response.created", "response": {"id": id, "status": "in_progress", "usage": null}})
}

fn delta(text: &str) -> Value {
    json!({"type": "response.output_text.delta", "item_id": "msg_1", "delta": text})
}

fn completed(id: &str, input: u64, output: u64) -> Value {
    let usage = json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output});
    json!({"type": "response.completed", "response": {"id": id, "status": "completed", "model": "gpt-x-1", "usage": usage}})
}

/// The event on a lane.
fn on(lane: &str, mut event: Value) -> Value {
    event["stream_id"] = lane.into();
    event
}

fn usage(input: u64, output: u64) -> Usage {
    Usage { input: Tokens(input), output: Tokens(output), ..Usage::default() }
}

/// Sends a message.
async fn say<S>(socket: &mut WebSocketStream<S>, message: impl ToString)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let sending = socket.send(Message::text(message.to_string()));
    timeout(PATIENCE, sending).await.expect("not sent in time").unwrap();
}

/// The next message or control frame; `None` when the connection has ended.
pub(crate) async fn hear<S>(socket: &mut WebSocketStream<S>) -> Option<Message>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    timeout(PATIENCE, socket.next()).await.expect("nothing heard in time")?.ok()
}

/// The next message, which is this.
async fn expect<S>(socket: &mut WebSocketStream<S>, expected: impl ToString)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    assert_eq!(hear(socket).await, Some(Message::text(expected.to_string())));
}

/// Nothing comes for a while.
async fn silence<S>(socket: &mut WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let heard = timeout(std::time::Duration::from_millis(100), socket.next()).await;
    assert!(heard.is_err(), "heard {heard:?}");
}

/// A response from its request to its end.
pub(crate) async fn whole(client: &mut Client, provider: &mut Socket, id: &str) {
    say(client, create(&Value::Null)).await;
    expect(provider, create(&Value::Null)).await;
    for event in [created(id), completed(id, 21, 7)] {
        say(provider, &event).await;
        expect(client, &event).await;
    }
}

/// The event with which the proxy refuses a request.
async fn refusal(client: &mut Client) -> Value {
    let event: Value = serde_json::from_str(hear(client).await.unwrap().to_text().unwrap()).unwrap();
    assert_eq!(
        (&event["type"], &event["response"]["status"]),
        (&"response.failed".into(), &"failed".into()),
        "{event}"
    );
    event
}

/// The settlements of responses: the first is the handshake's.
async fn settlements(world: &World, count: usize) -> Vec<Settlement> {
    let heard = world.wait("the settlements", |heard| heard.settlements.len() > count).await;
    assert_eq!(heard.settlements.len(), count + 1, "{:?}", heard.settlements);
    assert_eq!((heard.settlements[0].known, heard.settlements[0].ending), (Known::Unmetered, Ending::Complete));
    heard.settlements[1..].to_vec()
}

/// That no further settlement follows is given some time to show.
async fn only_settlements(world: &World, count: usize) -> Vec<Settlement> {
    settlements(world, count).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    settlements(world, count).await
}
