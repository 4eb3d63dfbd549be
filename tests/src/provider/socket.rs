//! OpenAI's Responses over a WebSocket: requests of one lane are answered one after another, lanes side by side.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use hyper::http::request::Parts;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{HeaderMap, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::World;
use super::delivery::Delivery;
use super::encode::Encoding;
use super::log::{Counts, Log, Served};
use super::render::{self, Form};
use super::script::{Fault, Script};

/// Where it is.
pub(super) const PATH: &str = "/v1/responses";
/// Frames of a message in fragments.
const FRAGMENTS: usize = 3;

/// What a request for a WebSocket is accepted with.
pub(super) fn accepts(head: &Parts) -> Option<String> {
    let is_asked = head.uri.path() == PATH && head.headers.get("upgrade").is_some_and(|name| name == "websocket");
    let key = head.headers.get("sec-websocket-key").filter(|_| is_asked)?;
    Some(derive_accept_key(key.as_bytes()))
}

/// The head that says yes.
pub(super) fn switch(nothing: Delivery, accept: &str, headers: HeaderMap) -> Response<Delivery> {
    let mut response = Response::new(nothing);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", accept)] {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// A connection that becomes a WebSocket.
pub(super) struct Socket {
    upgrade: OnUpgrade,
    talk: Talk,
}

/// What every response on it needs.
#[derive(Clone)]
struct Talk {
    head: Arc<Parts>,
    world: Arc<World>,
}

type Sink = Arc<Mutex<SplitSink<WebSocketStream<TokioIo<Upgraded>>, Message>>>;

/// What of a request matters here; the rest is the script's.
#[derive(Debug, Default, Deserialize)]
struct Create {
    stream_id: Option<String>,
    generate: Option<bool>,
    #[serde(skip)]
    text: String,
}

/// A response in the log, however it ends.
struct Entry {
    served: Served,
    log: Arc<Log>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.log.push(std::mem::take(&mut self.served));
    }
}

impl Socket {
    /// Asked for by `head`.
    pub(super) fn new(upgrade: OnUpgrade, head: Parts, world: Arc<World>) -> Self {
        Self { upgrade, talk: Talk { head: Arc::new(head), world } }
    }

    /// Until either side hangs up.
    pub(super) async fn serve(self) {
        let Ok(stream) = self.upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
        let (sink, mut messages) = socket.split();
        let sink: Sink = Arc::new(Mutex::new(sink));
        let (hang_up, mut hangs_up) = watch::channel(false);
        let mut lanes: HashMap<Option<String>, mpsc::UnboundedSender<Create>> = HashMap::new();
        // Dropped with this, and with it every response under way.
        let mut tasks = JoinSet::new();
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                _ = hangs_up.wait_for(|hangs_up| *hangs_up) => return,
            };
            let text = match message {
                Some(Ok(Message::Text(text))) => text.to_string(),
                Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            };
            let create = Create { text, ..Create::default() }.read();
            let lane = lanes.entry(create.stream_id.clone()).or_insert_with(|| {
                let (sender, requests) = mpsc::unbounded_channel();
                tasks.spawn(answer_in_order(self.talk.clone(), Arc::clone(&sink), requests, hang_up.clone()));
                sender
            });
            // The other end lives as long as this loop.
            let _ = lane.send(create);
        }
    }
}

impl Create {
    fn read(self) -> Self {
        let read: Self = serde_json::from_str(&self.text).unwrap_or_default();
        Self { text: self.text, ..read }
    }
}

async fn answer_in_order(
    talk: Talk,
    sink: Sink,
    mut requests: mpsc::UnboundedReceiver<Create>,
    hang_up: watch::Sender<bool>,
) {
    while let Some(create) = requests.recv().await {
        if !answer(&talk, &sink, &create).await.unwrap_or(false) {
            hang_up.send_replace(true);
        }
    }
}

/// Answers one request; `false` when the script says to hang up.
async fn answer(talk: &Talk, sink: &Sink, create: &Create) -> Result<bool, Error> {
    let mut script = Script::read(&talk.head, create.text.as_bytes(), &talk.world.standing());
    (script.is_streaming, script.encoding) = (true, Encoding::Identity);
    if create.generate == Some(false) {
        (script.deltas, script.usage) = (0, Counts::default());
    }
    if script.status != 200 {
        let mut entry = talk.entry(&script);
        entry.served.status = script.status;
        let error: Value = serde_json::from_slice(&render::error(script.status)).unwrap_or_default();
        let event = json!({"type": "error", "status": script.status, "error": error.get("error")});
        return say(sink, &script, create, &event.to_string()).await.map(|()| true);
    }
    for _ in 0..=u8::from(script.has_successor) {
        if !respond(talk, sink, create, &script).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One response, as far as the script lets it come.
async fn respond(talk: &Talk, sink: &Sink, create: &Create, script: &Script) -> Result<bool, Error> {
    let mut entry = talk.entry(script);
    entry.served.usage = script.usage;
    let id = entry.served.id.trim_start_matches("resp_").to_owned();
    let pieces = render::response(Form::Responses, script, &id).map_err(Error::Io)?;
    for piece in pieces {
        sleep(piece.delay).await;
        // The events of a stream, of which each is a message here.
        for line in piece.bytes.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data: ")) {
            say(sink, script, create, &String::from_utf8_lossy(line)).await?;
        }
        entry.served.output_sent = piece.output_sent;
        entry.served.reported = piece.reported;
    }
    match script.fault {
        Fault::None => entry.served.is_complete = true,
        Fault::Error(_) => {}
        Fault::Abort(_) => return Ok(false),
        Fault::Stall(_) => std::future::pending().await,
    }
    Ok(true)
}

/// Sends an event, on the lane of its request.
async fn say(sink: &Sink, script: &Script, create: &Create, event: &str) -> Result<(), Error> {
    let lane = create.stream_id.as_ref().map(|lane| format!(",\"stream_id\":{}}}", Value::from(lane.as_str())));
    let event = lane.zip(event.strip_suffix('}')).map_or(event.to_owned(), |(lane, rest)| format!("{rest}{lane}"));
    let mut sink = sink.lock().await;
    if !script.is_fragmented {
        return sink.send(Message::text(event)).await;
    }
    let chunks: Vec<&[u8]> = event.as_bytes().chunks(event.len().div_ceil(FRAGMENTS)).collect();
    for (at, chunk) in chunks.iter().enumerate() {
        let opcode = OpCode::Data(if at == 0 { Data::Text } else { Data::Continue });
        let frame = Frame::message(Bytes::copy_from_slice(chunk), opcode, at + 1 == chunks.len());
        sink.send(Message::Frame(frame)).await?;
        sink.send(Message::Ping(Bytes::from_static(b"between"))).await?;
    }
    Ok(())
}

impl Talk {
    fn entry(&self, script: &Script) -> Entry {
        let number = self.world.requests.fetch_add(1, Ordering::Relaxed);
        let served = Served {
            id: format!("resp_test_{number:08}"),
            bottle: super::text_header(&self.head.headers, "x-test-bottle"),
            method: "WS".to_owned(),
            path: self.head.uri.path().to_owned(),
            model: (!script.model.is_empty()).then(|| script.model.clone()),
            encoding: script.encoding.name().to_owned(),
            status: 200,
            ..Served::default()
        };
        Entry { served, log: Arc::clone(&self.world.log) }
    }
}
