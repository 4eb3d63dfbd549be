//! A stream that is ended before its provider ends it: by the words with which its provider ends one whose output was too
//! long, so that clients read a regular, truncated message.
//!
//! Apart from the readers, which look at as little of each event as they can: this follows what the client has been given, and
//! only where a stream may have to be ended. [`EarlyEnd`] hands a stream on in whole events (`pieces`), each dialect follows
//! them (`anthropic`, `chat`, …) and knows what has to come yet.

mod anthropic;
mod bedrock;
mod chat;
mod gemini;
mod ollama;
mod pieces;
mod responses;

use std::fmt::Debug;

use bytes::Bytes;
use serde_json::Value;

use super::ask::Ask;
use super::eventstream;
use super::sse::Frames;
use super::surface::Dialect;
use super::usage_asked::UsageAsked;
use super::values::Values;
use super::{Reading, ResponseHead};

use pieces::{Framing, Pieces};

/// Most blocks, choices or items of one message that are followed; those beyond stay open.
const PARTS_MAX: usize = 1024;

/// What a dialect knows of a stream, from the events that the client has been given.
trait Follower: Debug + Send + Sync {
    /// The client gets an event of this name, where its framing names it in front, and with this data.
    fn see(&mut self, name: &str, data: &[u8]);

    /// What is missing at the end of the message; `None` when nobody knows how it ends.
    fn end(&self, so_far: &Reading) -> Option<Vec<Word>>;
}

/// An event of the proxy's own.
#[derive(Debug)]
struct Word {
    /// What its framing calls it; empty where events have no names.
    name: &'static str,
    data: Vec<u8>,
}

impl Word {
    fn of(name: &'static str, value: &Value) -> Self {
        Self { name, data: value.to_string().into_bytes() }
    }

    /// Its data names it.
    fn typed(name: &'static str, mut value: Value) -> Self {
        if let Some(fields) = value.as_object_mut() {
            fields.insert("type".to_owned(), name.into());
        }
        Self::of(name, &value)
    }
}

/// A stream that can be ended after any event.
#[derive(Debug)]
pub struct EarlyEnd {
    pieces: Pieces,
    events: Frames,
    objects: Values,
    follower: Option<Box<dyn Follower>>,
    has_begun: bool,
}

impl EarlyEnd {
    /// For the response to `ask` that begins with `head`. What cannot be ended well passes as it comes.
    #[must_use]
    pub fn new(ask: &Ask, head: &ResponseHead<'_>) -> Self {
        let encoding = head.content_encoding.unwrap_or("").trim();
        let is_plain = encoding.is_empty() || encoding.eq_ignore_ascii_case("identity");
        let media_type = head.content_type.and_then(|value| value.split(';').next()).unwrap_or("").trim();
        // Gemini calls a stream so, too.
        let is_one = media_type.eq_ignore_ascii_case("application/json") && ask.dialect != Some(Dialect::Gemini);
        let dialect = ask.dialect.filter(|_| is_plain && !is_one && head.status < 300);
        Self {
            pieces: Pieces::new(dialect),
            events: Frames::default(),
            objects: Values::default(),
            follower: dialect.and_then(|dialect| follower(dialect, ask)),
            has_begun: false,
        }
    }

    /// For a response whose events come over a WebSocket, each whole.
    #[must_use]
    pub fn of_events(ask: &Ask) -> Self {
        Self::new(ask, &ResponseHead::default())
    }

    /// Can the response turn out to be one that can be ended?
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.follower.is_some()
    }

    /// Takes bytes of the body. They come out of [`Self::next_piece`].
    pub fn push(&mut self, bytes: &[u8]) {
        self.pieces.push(bytes);
    }

    /// The next bytes up to the end of an event, which the client is given with them.
    pub fn next_piece(&mut self) -> Option<Bytes> {
        let piece = self.pieces.next()?;
        self.follow(&piece);
        Some(piece)
    }

    /// What has come of an event that is not whole, when nothing more comes.
    pub fn rest(&mut self) -> Bytes {
        self.pieces.rest()
    }

    /// The client is given an event that came over a WebSocket.
    pub fn event(&mut self, event: &[u8]) {
        self.has_begun = true;
        if let Some(follower) = &mut self.follower {
            follower.see("", event);
        }
    }

    /// The bytes that end the body after the last piece, given what it has shown so far; `None` when it cannot be ended.
    #[must_use]
    pub fn end(&self, so_far: &Reading) -> Option<Vec<u8>> {
        let words = self.follower.as_ref()?.end(so_far)?;
        self.pieces.framing().close(&words)
    }

    /// The events that end a response over a WebSocket; none where it has not begun.
    #[must_use]
    pub fn end_events(&self, so_far: &Reading) -> Vec<Vec<u8>> {
        let follower = self.follower.as_ref().filter(|_| self.has_begun);
        let words = follower.and_then(|follower| follower.end(so_far)).unwrap_or_default();
        words.into_iter().map(|word| word.data).collect()
    }

    fn follow(&mut self, piece: &[u8]) {
        let Self { pieces, events, objects, follower: Some(follower), .. } = self else { return };
        match pieces.framing() {
            Framing::Events { .. } => drop(events.push(piece, &mut |data| follower.see("", data))),
            Framing::Lines | Framing::Array { .. } => {
                objects.push(piece, &mut |object| follower.see("", object));
            }
            Framing::Messages => {
                if let Some((name, payload)) = eventstream::event(piece) {
                    follower.see(name, payload);
                }
            }
            Framing::Unknown | Framing::Opaque => {}
        }
    }
}

impl Framing {
    /// These words, and what closes the body, as bytes; `None` where nothing can be added.
    fn close(self, words: &[Word]) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        match self {
            Self::Unknown | Self::Opaque => return None,
            Self::Events { is_crlf } => {
                let line_end: &[u8] = if is_crlf { b"\r\n" } else { b"\n" };
                for word in words {
                    if !word.name.is_empty() {
                        bytes.extend([b"event: ", word.name.as_bytes(), line_end].concat());
                    }
                    bytes.extend([b"data: ", word.data.as_slice(), line_end, line_end].concat());
                }
            }
            Self::Lines => words.iter().for_each(|word| bytes.extend([word.data.as_slice(), b"\n"].concat())),
            Self::Array { has_objects, is_closed } if !is_closed => {
                let objects: Vec<&[u8]> = words.iter().map(|word| word.data.as_slice()).collect();
                bytes.extend_from_slice(if has_objects && !objects.is_empty() { b",\r\n" } else { b"" });
                bytes.extend(objects.join(b",\r\n".as_slice()));
                bytes.extend_from_slice(b"\n]\n");
            }
            Self::Array { .. } => {}
            Self::Messages => words.iter().for_each(|word| bytes.extend(eventstream::message(word.name, &word.data))),
        }
        Some(bytes)
    }
}

fn follower(dialect: Dialect, ask: &Ask) -> Option<Box<dyn Follower>> {
    Some(match dialect {
        Dialect::AnthropicMessages => Box::<anthropic::Messages>::default(),
        Dialect::OpenAiChat => Box::new(chat::Chat::new(ask.usage_asked == UsageAsked::Yes)),
        Dialect::OpenAiResponses => Box::<responses::Responses>::default(),
        Dialect::Gemini => Box::<gemini::Gemini>::default(),
        Dialect::Bedrock => Box::<bedrock::Bedrock>::default(),
        Dialect::Ollama => Box::<ollama::Ollama>::default(),
        Dialect::OpenAiEmbeddings => return None,
    })
}

/// A field's text.
fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}
