//! What two servers could read in two ways, byte by byte over HTTP/1: answered with 4xx, and nothing of it forwarded.

use std::time::Duration;

use hyper::Version;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::client::{tcp, tls};
use super::world::{PATIENCE, PROVIDER, World};

/// What follows is a request that nobody may ever see.
const SMUGGLED: &str = "GET /v1/smuggled HTTP/1.1\r\nHost: api.anthropic.com\r\n\r\n";
/// Long enough for what was forwarded to arrive.
const SETTLED: Duration = Duration::from_millis(300);

/// What becomes of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// An answer of this status, and the end of the connection.
    Refused(u16),
    /// The end of the connection alone: there is no request that an answer could be to.
    Closed,
}

/// A request with these lines in its head, and this body.
fn post(lines: &str, body: &str) -> String {
    format!("POST /v1/models HTTP/1.1\r\nHost: {PROVIDER}\r\n{lines}\r\n\r\n{body}")
}

fn get(line: &str, lines: &str) -> String {
    format!("{line}\r\n{lines}\r\n")
}

/// Sends bytes and reads all that comes.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &[u8]) -> String {
    // What is refused in the middle may be closed before all of it is written.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let reading = async {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut piece).await {
            answer.extend_from_slice(&piece[..length]);
        }
    };
    let ended = timeout(PATIENCE, reading).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(ended.is_ok(), "it is not closed; so far {answer:?}");
    answer
}

fn end(answer: &str) -> End {
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    assert_eq!(answer.matches("HTTP/1.1 ").count(), usize::from(status.is_some()), "{answer:?}");
    status.map_or(End::Closed, End::Refused)
}

/// Every bad request by every way in: alone, and behind one that is answered.
async fn check(world: &World, name: &str, bytes: &str, expected: End) {
    let plain = answer(tcp(world.doors.plain).await.unwrap(), bytes.as_bytes()).await;
    assert_eq!(end(&plain), expected, "{name}, plain: {plain:?}");
    let stream = tls(world, tcp(world.doors.tls).await.unwrap(), Version::HTTP_11, PROVIDER).await.unwrap();
    let over_tls = answer(stream, bytes.as_bytes()).await;
    assert_eq!(end(&over_tls), expected, "{name}, over TLS: {over_tls:?}");
    let explicit = answer(tcp(world.doors.explicit).await.unwrap(), bytes.as_bytes()).await;
    assert_eq!(end(&explicit), expected, "{name}, to the proxy: {explicit:?}");
    let first = "GET /healthz HTTP/1.1\r\nHost: _egress.local\r\n\r\n";
    let second = answer(tcp(world.doors.plain).await.unwrap(), format!("{first}{bytes}").as_bytes()).await;
    let second = second.strip_prefix("HTTP/1.1 200 ").and_then(|rest| rest.split_once("\r\n\r\nok"));
    let (_, second) = second.unwrap_or_else(|| panic!("{name}, behind another: the first is not answered"));
    assert_eq!(end(second), expected, "{name}, behind another: {second:?}");
}

async fn is_untouched(world: &World) {
    sleep(SETTLED).await;
    assert!(world.provider.is_untouched().await, "something was forwarded");
    assert_eq!(world.heard.borrow().admits, []);
}

#[tokio::test]
async fn a_body_has_one_length() {
    let world = World::start().await;
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 5 5",
        "Content-Length: 0x5",
        "Content-Length: 18446744073709551616",
        "Content-Length:",
        "Content-Length : 5",
        "Content_Length: 5\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: \u{a0}chunked",
        "Transfer-Encoding:",
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
    ] {
        let body = format!("0\r\n\r\n{SMUGGLED}");
        check(&world, &format!("{lines:?}"), &post(lines, &body), End::Refused(400)).await;
    }
    is_untouched(&world).await;
}

#[tokio::test]
async fn a_head_has_one_meaning() {
    let world = World::start().await;
    let host = format!("Host: {PROVIDER}\r\n");
    let cases = [
        ("bare LF", format!("GET /v1/models HTTP/1.1\nHost: {PROVIDER}\n\n{SMUGGLED}"), 400),
        ("bare LF at the end", format!("GET /v1/models HTTP/1.1\r\n{host}\n{SMUGGLED}"), 400),
        ("bare CR", get("GET /v1/models HTTP/1.1", &format!("X: a\rb\r\n{host}")), 400),
        ("NUL in a value", get("GET /v1/models HTTP/1.1", &format!("X: a\0b\r\n{host}")), 400),
        ("NUL in a name", get("GET /v1/models HTTP/1.1", &format!("X\0: a\r\n{host}")), 400),
        ("NUL in the path", get("GET /v1/\0models HTTP/1.1", &host), 400),
        ("a control character", get("GET /v1/models HTTP/1.1", &format!("X: a\x01b\r\n{host}")), 400),
        ("obs-fold", get("GET /v1/models HTTP/1.1", &format!("X: a\r\n b\r\n{host}")), 400),
        ("a folded first line", get("GET /v1/models HTTP/1.1", &format!(" X: a\r\n{host}")), 400),
        ("a blank before the colon", get("GET /v1/models HTTP/1.1", &format!("Host : {PROVIDER}\r\n")), 400),
        ("a tab before the colon", get("GET /v1/models HTTP/1.1", &format!("X\t: y\r\n{host}")), 400),
        ("no colon", get("GET /v1/models HTTP/1.1", &format!("X\r\n{host}")), 400),
        ("no name", get("GET /v1/models HTTP/1.1", &format!(": y\r\n{host}")), 400),
        ("a fragment", get("GET /v1/models#x HTTP/1.1", &host), 400),
        ("a blank in the path", get("GET /v1/models /x HTTP/1.1", &host), 400),
        ("a tab for a blank", get("GET\t/v1/models\tHTTP/1.1", &host), 400),
        ("a method that is none", get("GE(T /v1/models HTTP/1.1", &host), 400),
        ("no version", get("GET /v1/models", &host), 400),
        ("HTTP/0.9", "GET /v1/models\r\n\r\n".to_owned(), 400),
        ("HTTP/2.0 in words", get("GET /v1/models HTTP/2.0", &host), 400),
        ("HTTP/1.2", get("GET /v1/models HTTP/1.2", &host), 400),
        ("http/1.1", get("GET /v1/models http/1.1", &host), 400),
        (
            "HTTP/1.0 with chunks",
            get("POST /v1/models HTTP/1.0", &format!("{host}Transfer-Encoding: chunked\r\n")),
            400,
        ),
    ];
    for (name, bytes, status) in cases {
        check(&world, name, &bytes, End::Refused(status)).await;
    }
    is_untouched(&world).await;
}

#[tokio::test]
async fn a_request_names_one_host() {
    let world = World::start().await;
    let host = format!("Host: {PROVIDER}\r\n");
    let cases = [
        ("no Host", get("GET /v1/models HTTP/1.1", "X: y\r\nConnection: close\r\n"), 421),
        ("Host twice", get("GET /v1/models HTTP/1.1", &format!("{host}{host}Connection: close\r\n")), 421),
        (
            "two Hosts in one",
            get("GET /v1/models HTTP/1.1", &format!("Host: {PROVIDER}, a.example\r\nConnection: close\r\n")),
            421,
        ),
        ("a Host of nothing", get("GET /v1/models HTTP/1.1", "Host:\r\nConnection: close\r\n"), 421),
        ("userinfo", get("GET /v1/models HTTP/1.1", &format!("Host: a@{PROVIDER}\r\nConnection: close\r\n")), 421),
        (
            "a path in Host",
            get("GET /v1/models HTTP/1.1", &format!("Host: {PROVIDER}/x\r\nConnection: close\r\n")),
            421,
        ),
        (
            "a port of letters",
            get("GET /v1/models HTTP/1.1", &format!("Host: {PROVIDER}:http\r\nConnection: close\r\n")),
            421,
        ),
        (
            "a port too high",
            get("GET /v1/models HTTP/1.1", &format!("Host: {PROVIDER}:65536\r\nConnection: close\r\n")),
            421,
        ),
        (
            "another Host",
            get(&format!("GET http://{PROVIDER}/v1/models HTTP/1.1"), "Host: a.example\r\nConnection: close\r\n"),
            421,
        ),
        (
            "another target",
            get("GET http://a.example/v1/models HTTP/1.1", &format!("{host}Connection: close\r\n")),
            421,
        ),
        (
            "userinfo in the target",
            get(&format!("GET http://a@{PROVIDER}/v1/models HTTP/1.1"), &format!("{host}Connection: close\r\n")),
            421,
        ),
    ];
    for (name, bytes, status) in cases {
        check(&world, name, &bytes, End::Refused(status)).await;
    }
    is_untouched(&world).await;
}

#[tokio::test]
async fn a_head_has_an_end() {
    let world = World::start().await;
    let host = format!("Host: {PROVIDER}\r\n");
    let many = |count: usize| (0..count).map(|number| format!("X-{number}: y\r\n")).collect::<String>();
    let long = "x".repeat(80 << 10);
    for (name, bytes, status) in [
        ("a long line", get("GET /v1/models HTTP/1.1", &format!("X: {long}\r\n{host}")), 431),
        ("a long name", get("GET /v1/models HTTP/1.1", &format!("{long}: y\r\n{host}")), 431),
        ("many lines", get("GET /v1/models HTTP/1.1", &format!("{}{host}", many(5_000))), 431),
        ("too many lines", get("GET /v1/models HTTP/1.1", &format!("{}{host}", many(200))), 431),
        ("a long path", get(&format!("GET /{long} HTTP/1.1"), &host), 431),
        ("an endless head", format!("GET / HTTP/1.1\r\n{}", many(40_000)), 431),
        ("an endless line", "x".repeat(1 << 20), 431),
    ] {
        check(&world, name, &bytes, End::Refused(status)).await;
    }
    is_untouched(&world).await;
}

#[tokio::test]
async fn chunks_are_what_they_say() {
    let world = World::start().await;
    for body in [
        "g\r\n",
        "-1\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        " 1\r\na\r\n0\r\n\r\n",
        "1 \r\na\r\n0\r\n\r\n",
        "1\na\n0\n\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "10000000000000000\r\n",
        "1;\n\r\na\r\n0\r\n\r\n",
        "1;a=\0\r\na\r\n0\r\n\r\n",
    ] {
        // Metered, so that nothing is sent before its beginning has been read.
        let head = format!("POST /v1/messages HTTP/1.1\r\nHost: {PROVIDER}\r\nTransfer-Encoding: chunked\r\n\r\n");
        check(&world, &format!("{body:?}"), &format!("{head}{body}{SMUGGLED}"), End::Refused(408)).await;
    }
    let extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(300));
    let head = format!("POST /v1/messages HTTP/1.1\r\nHost: {PROVIDER}\r\nTransfer-Encoding: chunked\r\n\r\n");
    check(&world, "a long extension", &format!("{head}{extension}"), End::Refused(408)).await;
    is_untouched(&world).await;
}

#[tokio::test]
async fn no_other_protocol_is_spoken() {
    let world = World::start().await;
    let host = format!("Host: {PROVIDER}\r\n");
    // No request: the client believes that HTTP/2 is spoken, and would not read an answer of HTTP/1.
    check(&world, "HTTP/2 unasked", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", End::Closed).await;
    for (name, bytes, status) in [
        ("an expectation that nobody knows", get("GET /v1/models HTTP/1.1", &format!("{host}Expect: 200-ok\r\n")), 400),
        (
            "two expectations",
            get("GET /v1/models HTTP/1.1", &format!("{host}Expect: 100-continue\r\nExpect: 100-continue\r\n")),
            400,
        ),
        (
            "CONNECT with a body",
            get(&format!("CONNECT {PROVIDER}:443 HTTP/1.1"), &format!("{host}Content-Length: 5\r\n")),
            400,
        ),
    ] {
        check(&world, name, &bytes, End::Refused(status)).await;
    }
    is_untouched(&world).await;
}

#[tokio::test]
async fn another_port_is_not_the_one_the_connection_leads_to() {
    let world = World::start().await;
    let line = format!("GET http://{PROVIDER}:8080/v1/models HTTP/1.1");
    let bytes = get(&line, &format!("Host: {PROVIDER}\r\nConnection: close\r\n"));
    for (door, status) in [(world.doors.plain, 421), (world.doors.explicit, 403)] {
        let said = answer(tcp(door).await.unwrap(), bytes.as_bytes()).await;
        assert_eq!(end(&said), End::Refused(status), "{said:?}");
    }
    is_untouched(&world).await;
}

#[tokio::test]
async fn after_a_tunnel_that_is_none_nothing_is_read() {
    let world = World::start().await;
    let ambiguous = post("Content-Length: 5\r\nTransfer-Encoding: chunked", &format!("0\r\n\r\n{SMUGGLED}"));
    let bytes = get("CONNECT / HTTP/1.1", &format!("Host: {PROVIDER}\r\n")) + &ambiguous;
    for (door, status) in [(world.doors.plain, 426), (world.doors.explicit, 421)] {
        let said = answer(tcp(door).await.unwrap(), bytes.as_bytes()).await;
        assert_eq!(end(&said), End::Refused(status), "{said:?}");
    }
    is_untouched(&world).await;
}

#[tokio::test]
async fn an_upgrade_that_nobody_makes_is_left_out() {
    let world = World::start().await;
    let lines = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let bytes = get("GET /v1/models HTTP/1.1", &format!("Host: {PROVIDER}\r\n{lines}"));
    let mut stream = tcp(world.doors.plain).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let asked = world.provider.asked().await;
    for name in ["upgrade", "http2-settings", "connection"] {
        assert!(!asked.head.headers.contains_key(name), "{name}: {:?}", asked.head.headers);
    }
    asked.whole(hyper::Response::builder(), "done");
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
}

#[tokio::test]
async fn what_is_ordinary_passes_however_it_is_split() {
    let world = World::start().await;
    let body = "5;ext=1\r\nhello\r\n06\r\n world\r\n0\r\nx-trailer: y\r\n\r\n";
    let chunked = post("Transfer-Encoding: chunked", body);
    let sized = post("Content-Length: 11\r\nConnection: close", "hello world");
    let bytes = format!("{chunked}\r\n{sized}");
    for size in [1, 5, bytes.len()] {
        let mut stream = tcp(world.doors.plain).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let sending = async {
            for piece in bytes.as_bytes().chunks(size) {
                writer.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let answering = async {
            for _ in 0..2 {
                let asked = world.provider.asked().await;
                assert_eq!((asked.head.method.as_str(), asked.body.as_ref()), ("POST", &b"hello world"[..]));
                asked.whole(hyper::Response::builder(), "done");
            }
        };
        let mut answer = String::new();
        let ((), (), read) = tokio::join!(sending, answering, reader.read_to_string(&mut answer));
        read.unwrap();
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    }
}
