//! `crossing: sever`: a stream ends with its budget, as its provider would have ended it, and no other byte passes.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use egress_userspace::broker::Phase;
use egress_userspace::domain::{Ending, Known, Settlement, Tokens};
use egress_userspace::meter::{Ask, Dialect, ResponseHead, ResponseMeter};
use hyper::{Request, Response, Version};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::client::{Client, Names, Way, next, refusal, whole};
use super::provider::Sender;
use super::world::{BEDROCK, GEMINI, OLLAMA, OPENAI, PATIENCE, PROVIDER, World};

const TEXT: &str = "sixteen letters ";
/// Left of the budget, in tokens.
const LEFT: u64 = 120;
/// What one piece of [`TEXT`] is taken for at most, in tokens: a byte each.
const PIECE_TOKENS_MAX: u64 = TEXT.len() as u64;

/// How a provider streams.
struct Stream {
    dialect: Dialect,
    host: &'static str,
    path: &'static str,
    body: &'static str,
    media_type: &'static str,
    opening: Vec<u8>,
    /// One piece of text.
    piece: Vec<u8>,
    /// Before each piece but the first.
    between: &'static str,
    /// Where the end of the client's body says that it was too long.
    reason: &'static str,
    /// How the settlement is known: in part where the provider tells something at the beginning.
    known: Known,
}

fn named(event: &Value) -> Vec<u8> {
    format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap()).into_bytes()
}

fn frame(kind: &str, payload: &Value) -> Vec<u8> {
    let payload = payload.to_string();
    let mut headers = Vec::new();
    for (name, value) in [(":event-type", kind), (":content-type", "application/json"), (":message-type", "event")] {
        headers.push(u8::try_from(name.len()).unwrap());
        headers.extend_from_slice(name.as_bytes());
        headers.push(7);
        headers.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let length = u32::try_from(16 + headers.len() + payload.len()).unwrap();
    let mut message = [length.to_be_bytes(), u32::try_from(headers.len()).unwrap().to_be_bytes()].concat();
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.extend(headers);
    message.extend(payload.as_bytes());
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message
}

fn message_start() -> Value {
    let usage = json!({"input_tokens": 11, "output_tokens": 1});
    json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage}})
}

fn block_start() -> Value {
    json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
}

fn block_delta() -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}})
}

fn anthropic() -> Stream {
    Stream {
        dialect: Dialect::AnthropicMessages,
        host: PROVIDER,
        path: "/v1/messages",
        body: r#"{"model":"claude-x","max_tokens":9000,"stream":true}"#,
        media_type: "text/event-stream; charset=utf-8",
        opening: [named(&message_start()), named(&block_start())].concat(),
        piece: named(&block_delta()),
        between: "",
        reason: r#""stop_reason":"max_tokens""#,
        known: Known::Partial,
    }
}

fn chunk(object: &str, choice: &Value) -> Vec<u8> {
    let chunk =
        json!({"id": "c1", "object": object, "created": 7, "model": "gpt-x", "choices": [choice], "usage": null});
    format!("data: {chunk}\n\n").into_bytes()
}

fn chat() -> Stream {
    Stream {
        dialect: Dialect::OpenAiChat,
        host: OPENAI,
        path: "/v1/chat/completions",
        body: r#"{"model":"gpt-x","stream":true,"stream_options":{"include_usage":true},"messages":[]}"#,
        opening: chunk(
            "chat.completion.chunk",
            &json!({"index": 0, "delta": {"role": "assistant"}, "finish_reason": null}),
        ),
        piece: chunk("chat.completion.chunk", &json!({"index": 0, "delta": {"content": TEXT}, "finish_reason": null})),
        reason: r#""finish_reason":"length""#,
        known: Known::Estimated,
        ..anthropic()
    }
}

fn completions() -> Stream {
    let choice = |text: &str| json!({"index": 0, "text": text, "logprobs": null, "finish_reason": null});
    Stream {
        path: "/v1/completions",
        body: r#"{"model":"gpt-x","stream":true,"stream_options":{"include_usage":true},"prompt":"x"}"#,
        opening: chunk("text_completion", &choice("")),
        piece: chunk("text_completion", &choice(TEXT)),
        ..chat()
    }
}

fn responses() -> Stream {
    let place = json!({"item_id": "m1", "output_index": 0, "content_index": 0});
    let with = |kind: &str, key: &str, value: Value| {
        let mut event = place.clone();
        event["type"] = kind.into();
        event[key] = value;
        named(&event)
    };
    let created =
        json!({"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "usage": null}});
    let item = json!({"id": "m1", "type": "message", "role": "assistant", "status": "in_progress", "content": []});
    let part = json!({"type": "output_text", "text": "", "annotations": []});
    Stream {
        dialect: Dialect::OpenAiResponses,
        path: "/v1/responses",
        body: r#"{"model":"gpt-x","stream":true,"input":"hello"}"#,
        opening: [
            named(&created),
            with("response.output_item.added", "item", item),
            with("response.content_part.added", "part", part),
        ]
        .concat(),
        piece: with("response.output_text.delta", "delta", TEXT.into()),
        reason: r#""incomplete_details":{"reason":"max_output_tokens"}"#,
        ..chat()
    }
}

fn gemini_chunk() -> Value {
    json!({"candidates": [{"content": {"role": "model", "parts": [{"text": TEXT}]}, "index": 0}], "modelVersion": "gemini-x"})
}

fn gemini() -> Stream {
    Stream {
        dialect: Dialect::Gemini,
        host: GEMINI,
        path: "/v1beta/models/gemini-x:streamGenerateContent?alt=sse",
        body: r#"{"contents":[]}"#,
        opening: Vec::new(),
        piece: format!("data: {}\r\n\r\n", gemini_chunk()).into_bytes(),
        reason: r#""finishReason":"MAX_TOKENS""#,
        ..chat()
    }
}

fn gemini_array() -> Stream {
    Stream {
        path: "/v1beta/models/gemini-x:streamGenerateContent",
        media_type: "application/json; charset=UTF-8",
        opening: b"[".to_vec(),
        piece: gemini_chunk().to_string().into_bytes(),
        between: "\n,\r\n",
        ..gemini()
    }
}

fn converse() -> Stream {
    Stream {
        dialect: Dialect::Bedrock,
        host: BEDROCK,
        path: "/model/some.model/converse-stream",
        body: r#"{"messages":[]}"#,
        media_type: "application/vnd.amazon.eventstream",
        opening: frame("messageStart", &json!({"role": "assistant"})),
        piece: frame("contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": {"text": TEXT}})),
        reason: r#"{"stopReason":"max_tokens"}"#,
        ..chat()
    }
}

fn invoke() -> Stream {
    let chunk = |event: Value| frame("chunk", &json!({"bytes": STANDARD.encode(event.to_string())}));
    Stream {
        path: "/model/anthropic.claude-x/invoke-with-response-stream",
        opening: [chunk(message_start()), chunk(block_start())].concat(),
        piece: chunk(block_delta()),
        reason: "",
        known: Known::Partial,
        ..converse()
    }
}

fn ollama() -> Stream {
    let line = |text: &str| {
        format!(
            "{{\"model\":\"m\",\"created_at\":\"t\",\"message\":{{\"role\":\"assistant\",\"content\":\"{text}\"}},\"done\":false}}\n"
        )
    };
    Stream {
        dialect: Dialect::Ollama,
        host: OLLAMA,
        path: "/api/chat",
        body: r#"{"model":"m","messages":[]}"#,
        media_type: "application/x-ndjson",
        opening: Vec::new(),
        piece: line(TEXT).into_bytes(),
        reason: r#""done_reason":"length""#,
        ..chat()
    }
}

/// What came of one.
struct Severed {
    body: Bytes,
    /// How many pieces of text the provider sent.
    sent: usize,
    head: hyper::HeaderMap,
}

impl Stream {
    async fn begin(&self, world: &World, version: Version) -> (Response<hyper::body::Incoming>, Sender) {
        let names = Names { connect: self.host, sni: self.host };
        let mut client = Client::open_as(world, Way::Transparent, version, names).await.unwrap();
        let head = Response::builder().header("content-type", self.media_type);
        let post = Request::post("/").header("accept-encoding", "gzip, br");
        let (response, sender) = tokio::join!(client.send_to(self.host, post, self.path, self.body), async {
            let asked = world.provider.asked().await;
            assert_eq!(asked.head.headers["accept-encoding"], "identity", "a compressed stream cannot be ended");
            asked.stream(head)
        });
        if !self.opening.is_empty() {
            sender.send(Ok(self.opening.clone().into())).unwrap();
        }
        (response.unwrap(), sender)
    }

    /// A stream that would never end.
    async fn sever(&self, world: &World, version: Version) -> Severed {
        let (response, sender) = self.begin(world, version).await;
        let head = response.headers().clone();
        let sending = async {
            let mut sent = 0;
            while !sender.is_closed() {
                let between = if sent == 0 { "" } else { self.between };
                let _ = sender.send(Ok([between.as_bytes(), &self.piece].concat().into()));
                sent += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            sent
        };
        let (body, sent) = tokio::join!(whole(response), timeout(PATIENCE, sending));
        Severed { body, sent: sent.expect("the provider is listened to for ever"), head }
    }

    /// What our own reader finds in a body.
    fn read(&self, body: &[u8]) -> egress_userspace::meter::Reading {
        let head = ResponseHead { status: 200, content_type: Some(self.media_type), ..ResponseHead::default() };
        let mut meter = ResponseMeter::new(&Ask::unseen(self.dialect), &head);
        meter.push(body);
        meter.finish(Ending::Complete)
    }
}

async fn check(stream: &Stream, version: Version) {
    let world = World::start().await;
    world.sever_at(LEFT);
    let Severed { body, sent, head } = stream.sever(&world, version).await;
    let label = format!("{} {version:?}: {}", stream.path, String::from_utf8_lossy(&body));
    let Settlement { usage, known, ending, .. } = world.only_settlement().await;
    assert_eq!((known, ending), (stream.known, Ending::Cut), "{label}");
    let overshoot = usage.total().0.checked_sub(LEFT).unwrap_or_else(|| panic!("{usage:?} of {LEFT}: {label}"));
    assert!(overshoot <= PIECE_TOKENS_MAX, "{overshoot} tokens too many: {label}");
    let heard = stream.read(&body);
    assert_eq!((heard.known, heard.usage.total()), (Known::Reported, usage.total()), "{label}");
    assert!(String::from_utf8_lossy(&body).contains(stream.reason), "{label}");
    assert!(sent > 3, "{label}");
    // What was left before it, less what it was expected to use.
    let expected = world.heard.borrow().admits[0].input_estimate;
    assert_eq!(head["x-egress-budget-remaining"], (LEFT - expected.0).to_string().as_str(), "{label}");
}

#[tokio::test]
async fn a_stream_of_any_dialect_ends_with_its_budget() {
    for stream in
        [anthropic(), chat(), completions(), responses(), gemini(), gemini_array(), converse(), invoke(), ollama()]
    {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            check(&stream, version).await;
        }
    }
}

#[tokio::test]
async fn events_that_come_in_pieces_and_many_at_once_end_as_well() {
    let stream = anthropic();
    let world = World::start().await;
    world.sever_at(LEFT);
    let (response, sender) = stream.begin(&world, Version::HTTP_11).await;
    let many = stream.piece.repeat(50);
    let (head, tail) = many.split_at(stream.piece.len() * 2 + 30);
    sender.send(Ok(head.to_vec().into())).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    sender.send(Ok(tail.to_vec().into())).unwrap();
    let body = whole(response).await;
    let settlement = world.only_settlement().await;
    assert!(settlement.usage.total().0 <= LEFT + PIECE_TOKENS_MAX, "{settlement:?}");
    assert_eq!(stream.read(&body).usage.total(), settlement.usage.total());
    let pieces = String::from_utf8_lossy(&body).matches(TEXT).count();
    assert!((3..49).contains(&pieces), "{pieces} pieces");
    timeout(PATIENCE, sender.closed()).await.expect("the provider's connection stays open");
}

#[tokio::test]
async fn usage_that_the_client_did_not_ask_for_is_not_in_the_end() {
    let stream = Stream { body: r#"{"model":"gpt-x","stream":true,"messages":[]}"#, ..chat() };
    let world = World::start().await;
    world.sever_at(LEFT);
    let body = stream.sever(&world, Version::HTTP_11).await.body;
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(text.contains(stream.reason) && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(!text.contains("prompt_tokens"), "{text}");
    assert!(world.only_settlement().await.usage.total() >= Tokens(LEFT));
}

#[tokio::test]
async fn the_settlement_commits_before_the_end_is_handed_over() {
    let stream = anthropic();
    let world = World::start().await;
    world.sever_at(LEFT);
    world.holds_settlements.send_replace(true);
    let (response, sender) = stream.begin(&world, Version::HTTP_2).await;
    sender.send(Ok(stream.piece.repeat(50).into())).unwrap();
    let mut body = response.into_body();
    world.wait("the settlement", |heard| !heard.settlements.is_empty()).await;
    let mut received = String::new();
    let premature = async {
        while let Some(bytes) = next(&mut body).await {
            received.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
        }
    };
    assert!(timeout(Duration::from_millis(100), premature).await.is_err(), "it ended before: {received}");
    assert!(!received.contains("max_tokens"), "{received}");
    world.holds_settlements.send_replace(false);
    while let Some(bytes) = next(&mut body).await {
        received.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
    }
    assert!(received.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"), "{received}");
}

#[tokio::test]
async fn what_ends_by_itself_is_not_ended() {
    let total = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 900}});
    let stop = [named(&total), named(&json!({"type": "message_stop"}))].concat();
    let stream = anthropic();
    let world = World::start().await;
    world.sever_at(LEFT);
    let (response, sender) = stream.begin(&world, Version::HTTP_11).await;
    sender.send(Ok(stream.piece.clone().into())).unwrap();
    sender.send(Ok(stop.clone().into())).unwrap();
    drop(sender);
    let body = whole(response).await;
    assert_eq!(body, [stream.opening.as_slice(), &stream.piece, &stop].concat());
    let settlement = world.only_settlement().await;
    assert_eq!((settlement.ending, settlement.known), (Ending::Complete, Known::Reported));
    assert_eq!(settlement.usage.output, Tokens(900));
}

/// Where no end can be written, the response is broken off.
async fn check_hard(encoding: Option<&str>, media_type: &str, pieces: &[Bytes]) {
    // Less than what the request allows.
    let left = LEFT / 2;
    let world = World::start().await;
    world.sever_at(left);
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    let mut head = Response::builder().header("content-type", media_type);
    if let Some(encoding) = encoding {
        head = head.header("content-encoding", encoding);
    }
    let (response, sender) = tokio::join!(client.message(), async { world.provider.asked().await.stream(head) });
    let mut body = response.unwrap().into_body();
    for piece in pieces {
        let _ = sender.send(Ok(piece.clone()));
    }
    let mut received = 0;
    let ended = loop {
        match next(&mut body).await {
            Some(Ok(bytes)) => received += bytes.len(),
            end => break end,
        }
    };
    assert!(ended.is_some_and(|end| end.is_err()), "{media_type} {encoding:?}: a broken response looks whole");
    assert!(received < pieces.iter().map(Bytes::len).sum(), "{media_type} {encoding:?}: all of it passed");
    timeout(PATIENCE, sender.closed()).await.expect("the provider's connection stays open");
    let settlement = world.only_settlement().await;
    assert_eq!(settlement.ending, Ending::Cut);
    assert!(settlement.usage.total() >= Tokens(left), "{settlement:?}");
}

#[tokio::test]
async fn what_cannot_be_ended_is_broken_off() {
    let stream = anthropic();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    let mut encoded = Vec::new();
    for part in std::iter::once(&stream.opening).chain(std::iter::repeat_n(&stream.piece, 100)) {
        std::io::Write::write_all(&mut encoder, part).unwrap();
        std::io::Write::flush(&mut encoder).unwrap();
        encoded.push(Bytes::from(std::mem::take(encoder.get_mut())));
    }
    check_hard(Some("zstd"), "text/event-stream", &encoded).await;
    let begun = Bytes::from(format!(r#"{{"type":"message","content":[{{"type":"text","text":"{}"#, TEXT.repeat(10)));
    let text = Bytes::from(TEXT.repeat(40));
    check_hard(None, "application/json", &[begun, text.clone(), text.clone(), text]).await;
}

/// Streams that share a budget: how much more than it they use together.
async fn overshoot(streams: usize, left: u64) -> u64 {
    let stream = anthropic();
    let world = World::start().await;
    world.sever_at(left);
    let all = (0..streams).map(|_| stream.sever(&world, Version::HTTP_11));
    for severed in futures_util::future::join_all(all).await {
        assert_eq!(stream.read(&severed.body).known, Known::Reported);
    }
    let heard = world.wait("all settlements", |heard| heard.settlements.len() == streams).await;
    assert!(heard.settlements.iter().all(|settlement| settlement.ending == Ending::Cut));
    let used: u64 = heard.settlements.iter().map(|settlement| settlement.usage.total().0).sum();
    used.checked_sub(left).unwrap_or_else(|| panic!("{used} of {left}"))
}

#[tokio::test]
async fn streams_that_share_a_budget_go_over_it_by_a_piece_each() {
    for streams in [1, 16] {
        let over = overshoot(streams, 5_000).await;
        println!("{streams} streams: {over} tokens over a budget of 5000");
        assert!(over <= streams as u64 * PIECE_TOKENS_MAX, "{streams} streams: {over} tokens too many");
    }
}

#[tokio::test]
async fn nothing_begins_on_what_a_stream_has_used_that_is_not_settled() {
    let stream = anthropic();
    let world = World::start().await;
    world.sever_at(LEFT);
    world.holds_settlements.send_replace(true);
    let (response, sender) = stream.begin(&world, Version::HTTP_11).await;
    sender.send(Ok(stream.piece.repeat(50).into())).unwrap();
    world.wait("the settlement", |heard| heard.settlements.len() == 1).await;
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    let refused = client.message().await.unwrap();
    assert_eq!(refused.status(), 402);
    assert_eq!(refusal(refused).await["egress_reason"], "budget_exhausted");
    let heard = world.wait("the permit is given back", |heard| heard.settlements.len() == 2).await;
    assert_eq!((heard.admits.len(), heard.settlements[1].usage.total()), (2, Tokens::ZERO));
    assert!(world.provider.is_untouched().await);
    world.holds_settlements.send_replace(false);
    drop(whole(response).await);
}

#[tokio::test]
async fn finish_lets_a_response_go_on_and_changes_nothing() {
    let stream = anthropic();
    let world = World::start().await;
    world.script.lock().unwrap().left = Some(LEFT);
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    let head = || Response::builder().header("content-type", "text/event-stream");
    let post = Request::post("/").header("accept-encoding", "gzip");
    let (response, sender) = tokio::join!(client.send_to(PROVIDER, post, stream.path, stream.body), async {
        let asked = world.provider.asked().await;
        assert_eq!(asked.head.headers["accept-encoding"], "gzip");
        asked.stream(head())
    });
    let sent = [stream.opening.clone(), stream.piece.repeat(100)].concat();
    sender.send(Ok(sent.clone().into())).unwrap();
    drop(sender);
    let response = response.unwrap();
    assert!(response.headers().contains_key("x-egress-budget-remaining"));
    assert_eq!(whole(response).await, sent);
}

#[tokio::test]
async fn how_much_is_left_is_told_on_metered_responses_with_a_budget_only() {
    let world = World::start().await;
    let told = async |path: &'static str, reply: Option<&'static str>| {
        let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
        let (response, ()) = tokio::join!(client.send_to(PROVIDER, Request::post("/"), path, "{}"), async {
            let mut head = Response::builder();
            if let Some(value) = reply {
                head = head.header("x-egress-budget-remaining", value);
            }
            world.provider.asked().await.empty(head);
        });
        response.unwrap().headers().get("x-egress-budget-remaining").map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(told("/v1/messages", None).await, None);
    world.script.lock().unwrap().left = Some(500_000);
    let left: u64 = told("/v1/messages", Some("7")).await.unwrap().parse().unwrap();
    assert!((1_000..500_000).contains(&left), "{left}");
    assert_eq!(told("/v1/messages/count_tokens", Some("7")).await, None);
    assert_eq!(told("/v1/elsewhere", None).await, None);
    world.phase(Phase::Open);
}
