//! HTTP/2 that is malformed or too much, frame by frame: refused, and nothing of it forwarded.

use std::time::Duration;

use hyper::Version;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use super::client::{tcp, tls};
use super::world::{PATIENCE, PROVIDER, World};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Long enough for what was forwarded to arrive.
const SETTLED: Duration = Duration::from_millis(300);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A length in HPACK (RFC 7541 §5.1), seven bits first.
fn length(mut value: usize) -> Vec<u8> {
    if value < 127 {
        return vec![u8::try_from(value).unwrap()];
    }
    value -= 127;
    let mut bytes = vec![127];
    while value >= 128 {
        bytes.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

/// Fields as they are, no table used.
fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            bytes.extend(length(text.len()));
            bytes.extend(text);
        }
    }
    bytes
}

fn usual() -> Vec<(&'static str, &'static str)> {
    vec![(":method", "GET"), (":scheme", "https"), (":path", "/v1/models"), (":authority", PROVIDER)]
}

/// The usual fields, those of `changed` in place of theirs or behind them.
fn with(changed: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let mut fields = usual();
    for (name, value) in changed {
        match fields.iter_mut().find(|(known, _)| known == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }
    fields
}

/// What became of a connection's only request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// An answer that is no success, for this reason.
    Refused(String),
    /// The stream alone.
    Reset,
    /// The connection.
    Over,
}

async fn open(world: &World) -> TlsStream<TcpStream> {
    let stream = tcp(world.doors.tls).await.unwrap();
    let mut stream = tls(world, stream, Version::HTTP_2, PROVIDER).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Reads until the first thing that says what became of it.
async fn end(stream: &mut TlsStream<TcpStream>) -> End {
    let mut is_answered = false;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return End::Over;
        }
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap()];
        if stream.read_exact(&mut payload).await.is_err() {
            return End::Over;
        }
        match head[3] {
            HEADERS => {
                // 0x88 is `:status: 200`.
                assert_ne!(payload[0], 0x88, "it is answered with success");
                is_answered = true;
                if head[4] & END_STREAM != 0 {
                    return End::Refused(String::new());
                }
            }
            DATA if is_answered => {
                let said: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                return End::Refused(said["egress_reason"].as_str().unwrap_or_default().to_owned());
            }
            RESET => return End::Reset,
            GO_AWAY => return End::Over,
            _ => {}
        }
    }
}

async fn ends(world: &World, name: &str, bytes: &[u8]) -> End {
    let mut stream = open(world).await;
    // It may be over before all is written.
    let _ = stream.write_all(bytes).await;
    let end = timeout(PATIENCE, end(&mut stream)).await;
    end.unwrap_or_else(|_| panic!("{name}: nothing becomes of it"))
}

async fn is_untouched(world: &World) {
    sleep(SETTLED).await;
    assert!(world.provider.is_untouched().await, "something was forwarded");
    assert_eq!(world.heard.borrow().admits, []);
}

#[tokio::test]
async fn what_names_another_host_is_misdirected() {
    let world = World::start().await;
    for (name, fields) in [
        ("another :authority", with(&[(":authority", "a.example")])),
        ("another host", with(&[("host", "a.example")])),
        ("host twice", [with(&[("host", PROVIDER)]), vec![("host", PROVIDER)]].concat()),
        ("userinfo", with(&[(":authority", "a@api.anthropic.com")])),
        ("another port", with(&[(":authority", "api.anthropic.com:8443")])),
        ("no host", usual().into_iter().filter(|(name, _)| *name != ":authority").collect()),
    ] {
        let bytes = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields));
        assert_eq!(ends(&world, name, &bytes).await, End::Refused("misdirected".to_owned()), "{name}");
    }
    is_untouched(&world).await;
}

#[tokio::test]
async fn what_is_malformed_ends_its_stream_or_its_connection() {
    let world = World::start().await;
    let without = |name: &str| usual().into_iter().filter(|(known, _)| *known != name).collect::<Vec<_>>();
    let also = |name, value| [usual(), vec![(name, value)]].concat();
    let cases = [
        (":method twice", also(":method", "GET")),
        (":path twice", also(":path", "/v1/other")),
        (":scheme twice", also(":scheme", "https")),
        (":authority twice", also(":authority", PROVIDER)),
        ("an unknown pseudo-header", also(":host", PROVIDER)),
        ("a response's pseudo-header", also(":status", "200")),
        ("a pseudo-header behind a header", [vec![("x", "y")], usual()].concat()),
        ("no :method", without(":method")),
        ("no :path", without(":path")),
        ("an empty :path", with(&[(":path", "")])),
        ("a :path that is a URI", with(&[(":path", "http://a.example/v1/models")])),
        ("a :path that is none", with(&[(":path", "v1/models")])),
        ("a :path of two lines", with(&[(":path", "/v1/models HTTP/1.1\r\nHost: a.example\r\n\r\n")])),
        ("a blank in :path", with(&[(":path", "/v1/models x")])),
        ("a :method of two lines", with(&[(":method", "GET / HTTP/1.1\r\nx: y")])),
        ("a :method with a blank", with(&[(":method", "GET /")])),
        ("an :authority of two lines", with(&[(":authority", "api.anthropic.com\r\nx: y")])),
        ("CR LF in a value", also("x", "y\r\nhost: a.example")),
        ("LF in a value", also("x", "y\nz")),
        ("NUL in a value", also("x", "y\0z")),
        ("CR LF in a name", also("x\r\ny", "z")),
        ("a blank in a name", also("x y", "z")),
        ("a colon in a name", also("x:", "z")),
        ("upper case", also("X-Upper", "y")),
        ("no name", also("", "y")),
        ("connection", also("connection", "keep-alive")),
        ("keep-alive", also("keep-alive", "timeout=5")),
        ("proxy-connection", also("proxy-connection", "keep-alive")),
        ("transfer-encoding", also("transfer-encoding", "chunked")),
        ("upgrade", also("upgrade", "h2c")),
        ("te", also("te", "gzip")),
        ("a length of what is not there", also("content-length", "5")),
        ("a length that is none", also("content-length", "x")),
        ("two lengths", [also("content-length", "0"), vec![("content-length", "5")]].concat()),
        ("extended CONNECT unasked", [with(&[(":method", "CONNECT")]), vec![(":protocol", "websocket")]].concat()),
    ];
    for (name, fields) in cases {
        let bytes = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields));
        let end = ends(&world, name, &bytes).await;
        assert!(matches!(end, End::Reset | End::Over), "{name}: {end:?}");
    }
    is_untouched(&world).await;
}

#[tokio::test]
async fn what_is_well_formed_passes() {
    let world = World::start().await;
    let mut stream = open(&world).await;
    let fields = with(&[("te", "trailers"), ("host", PROVIDER), ("content-length", "0")]);
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields))).await.unwrap();
    assert_eq!(world.provider.asked().await.head.uri.path(), "/v1/models");
}

#[tokio::test]
async fn a_body_is_as_long_as_its_head_says() {
    let world = World::start().await;
    for (said, sent) in [("5", "hello world"), ("11", "hello")] {
        let fields = with(&[(":method", "POST"), (":path", "/v1/messages"), ("content-length", said)]);
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &block(&fields));
        bytes.extend(frame(DATA, END_STREAM, 1, sent.as_bytes()));
        let end = ends(&world, said, &bytes).await;
        assert!(matches!(end, End::Reset | End::Over), "{said} of {}: {end:?}", sent.len());
    }
    is_untouched(&world).await;
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let world = World::start().await;
    let whole = END_STREAM | END_HEADERS;
    let head = block(&usual());
    let cases = [
        ("a head on stream 0", frame(HEADERS, whole, 0, &head)),
        ("a head on a server's stream", frame(HEADERS, whole, 2, &head)),
        ("data of no stream", frame(DATA, END_STREAM, 1, b"x")),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &head)),
        ("data inside a head", [frame(HEADERS, END_STREAM, 1, &head), frame(DATA, 0, 1, b"x")].concat()),
        ("another's continuation", [frame(HEADERS, END_STREAM, 1, &head), frame(CONTINUATION, 4, 3, &head)].concat()),
        ("a push", frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], &head[..]].concat())),
        ("a frame that is too large", frame(HEADERS, whole, 1, &vec![0; 20_000])),
        ("a table that is none", frame(HEADERS, whole, 1, &[0xff, 0xff, 0xff, 0xff, 0xff])),
        ("a window too wide", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
    ];
    for (name, bytes) in cases {
        assert_eq!(ends(&world, name, &bytes).await, End::Over, "{name}");
    }
    let mut garbage = tls(&world, tcp(world.doors.tls).await.unwrap(), Version::HTTP_2, PROVIDER).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\nHost: api.anthropic.com\r\n\r\n").await.unwrap();
    assert_eq!(timeout(PATIENCE, end(&mut garbage)).await.unwrap(), End::Over, "HTTP/1 in HTTP/2");
    is_untouched(&world).await;
}

#[tokio::test]
async fn heads_that_are_too_large_are_not_taken() {
    let world = World::start().await;
    let long = "x".repeat(8_000);
    let fields: Vec<(String, &str)> = (0..12).map(|number| (format!("x-{number}"), long.as_str())).collect();
    let mut many = block(&usual());
    many.extend(block(&fields));
    let pieces: Vec<&[u8]> = many.chunks(16_000).collect();
    let mut large = frame(HEADERS, END_STREAM, 1, pieces[0]);
    for (number, piece) in pieces.iter().enumerate().skip(1) {
        large.extend(frame(CONTINUATION, if number + 1 == pieces.len() { END_HEADERS } else { 0 }, 1, piece));
    }
    // 4,000 bytes that are put into the table and then named 10,000 times, a byte each.
    let mut bomb = block(&usual());
    bomb.extend([0x40, 1, b'x']);
    bomb.extend(length(4_000));
    bomb.extend([b'y'; 4_000]);
    bomb.extend([0xbe; 10_000]);
    let bomb = frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb);
    // A head that never ends.
    let mut flood = frame(HEADERS, END_STREAM, 1, &block(&usual()));
    for _ in 0..20_000 {
        flood.extend(frame(CONTINUATION, 0, 1, &[]));
    }
    for (name, bytes) in [("96 KB", large), ("a bomb", bomb), ("a flood", flood)] {
        let end = ends(&world, name, &bytes).await;
        // 431 has no body.
        assert!(matches!(&end, End::Reset | End::Over) || end == End::Refused(String::new()), "{name}: {end:?}");
    }
    is_untouched(&world).await;
}

#[tokio::test]
async fn who_asks_and_takes_back_too_often_is_not_heard() {
    let world = World::start().await;
    let fields = with(&[(":method", "POST"), (":path", "/v1/messages")]);
    let mut bytes = Vec::new();
    for number in 0..2_000 {
        bytes.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &block(&fields)));
        bytes.extend(frame(RESET, 0, 2 * number + 1, &[0, 0, 0, 8]));
    }
    assert_eq!(ends(&world, "rapid resets", &bytes).await, End::Over);
    is_untouched(&world).await;
}
