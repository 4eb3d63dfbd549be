//! What of a request can be neither overwritten nor held: its method, its host's name, and the names of its headers.

use std::time::Duration;

use egress_userspace::domain::{OutboundOnMatch, RefusalReason, Route, RouteFile, Supervised};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::super::client::{Client, Names, Way, refusal, tcp, tls, tls_trusting};
use super::super::world::{Heard, PATIENCE, ROUTED, World};
use super::token;

/// A secret whose value is known and that can stand in all of these places.
const SECRET: &str = "Mixed-CASE-s3cr3t";
const MODES: [OutboundOnMatch; 3] = [OutboundOnMatch::Block, OutboundOnMatch::Redact, OutboundOnMatch::Supervise];

/// All hosts of a domain, by a route with this change.
async fn world(outbound: OutboundOnMatch, change: impl FnOnce(&mut Route)) -> World {
    let world = World::start().await;
    world.secrets(&[("DEPLOY_KEY", SECRET)]);
    world.script.lock().unwrap().verdict = Some(Supervised::Approved);
    let mut route = Route::to("*.corp.example".parse().unwrap(), "routes.yaml:7".to_owned());
    change(&mut route);
    world.route(RouteFile { outbound: Some(outbound), routes: vec![route], ..RouteFile::default() });
    // Until the snapshot has arrived.
    sleep(Duration::from_millis(50)).await;
    world
}

/// One thing of each kind that can be a name, and its detector.
fn samples() -> [(&'static str, String); 3] {
    [
        ("aws-access-key", format!("AKIA{}", "IOSFODNN7EXAMPLE")),
        ("github-token", token()),
        ("injected-secret", SECRET.to_owned()),
    ]
}

/// All that is answered to these bytes, of which the last request closes the connection.
async fn answer(world: &World, bytes: &str) -> String {
    let mut stream = tls(world, tcp(world.doors.tls).await.unwrap(), Version::HTTP_11, ROUTED).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is not closed").unwrap();
    String::from_utf8(answer).unwrap()
}

/// The latest refusal is told of, by its detector and without what was found.
async fn check_told(world: &World, told_before: usize, detector: &str, value: &str) {
    let heard = world.wait("the refusal is told", |heard: &Heard| heard.refused.len() > told_before).await;
    let told = heard.refused.last().unwrap();
    assert_eq!((told.reason, told.rule.as_deref()), (RefusalReason::SensitiveData, Some(detector)));
    let shown = format!("{told:?}").to_ascii_lowercase();
    assert!(!shown.contains(&value.to_ascii_lowercase()), "{shown}");
    assert_eq!(heard.questions.len(), 0, "somebody was asked");
}

#[tokio::test]
async fn names_of_headers_are_looked_at_as_they_are_spelled() {
    for mode in MODES {
        let world = world(mode, |_| {}).await;
        for (detector, value) in samples() {
            for (name, line) in [(value.clone(), "1"), (format!("X-{value}-Y"), "1, 2")] {
                if detector != "injected-secret" && name != value {
                    // A token with letters around it is none.
                    continue;
                }
                let told_before = world.heard.borrow().refused.len();
                let head = format!("GET /x HTTP/1.1\r\nHost: {ROUTED}\r\n{name}: {line}\r\nConnection: close\r\n\r\n");
                let answer = answer(&world, &head).await;
                assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("sensitive_data"), "{answer}");
                assert!(answer.contains(&format!("the detector {detector} found something in the names of headers")));
                check_told(&world, told_before, detector, &value).await;
            }
        }
        // In small letters, as HTTP/2 wants it.
        let names = Names { connect: ROUTED, sni: ROUTED };
        let mut client = Client::open_as(&world, Way::Transparent, Version::HTTP_2, names).await.unwrap();
        let request = Request::get("/").header(SECRET.to_ascii_lowercase(), "1");
        let response = client.send_to(ROUTED, request, "/x", "").await.unwrap();
        assert_eq!(refusal(response).await["egress_reason"], "sensitive_data");
        assert!(world.provider.is_untouched().await);
    }
}

#[tokio::test]
async fn names_are_looked_at_on_every_way_in() {
    let world = world(OutboundOnMatch::Redact, |_| {}).await;
    for way in [Way::Absolute, Way::Plain, Way::Transparent, Way::Connect] {
        for is_upgrade in [false, true] {
            let names = Names { connect: ROUTED, sni: ROUTED };
            let mut client = Client::open_as(&world, way, Version::HTTP_11, names).await.unwrap();
            let told_before = world.heard.borrow().refused.len();
            let mut request = Request::get("/").header(SECRET.to_ascii_lowercase(), "1");
            if is_upgrade {
                let socket = [
                    ("connection", "upgrade"),
                    ("upgrade", "websocket"),
                    ("sec-websocket-version", "13"),
                    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ];
                request = socket.into_iter().fold(request, |request, (name, value)| request.header(name, value));
            }
            let response = client.send_to(ROUTED, request, "/x", "").await.unwrap();
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{way:?} {is_upgrade}");
            assert!(refusal(response).await.to_string().contains("in the names of headers"), "{way:?} {is_upgrade}");
            check_told(&world, told_before, "injected-secret", SECRET).await;
        }
    }
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn requests_behind_each_other_have_their_own_names() {
    let world = world(OutboundOnMatch::Redact, |_| {}).await;
    let key = format!("AKIA{}", "IOSFODNN7EXAMPLE");
    let host = format!("Host: {ROUTED}\r\n");
    let first = format!("POST /a HTTP/1.1\r\n{host}X-Note: {key}\r\nx-NOTE: x\r\nContent-Length: 2\r\n\r\nhi");
    let second = format!("POST /b HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    let third = format!("GET /c HTTP/1.1\r\n{host}{key}: 1\r\nConnection: close\r\n\r\n");
    let all = [first, second, third].concat();
    let (answer, ()) = tokio::join!(answer(&world, &all), async {
        let asked = world.provider.asked().await;
        let notes: Vec<_> = asked.head.headers.get_all("x-note").iter().collect();
        assert_eq!(
            (asked.head.uri.path(), notes[0].as_bytes(), notes[1].as_bytes()),
            ("/a", &[b'*'; 20][..], &b"x"[..])
        );
        asked.whole(Response::builder(), "fine");
        let asked = world.provider.asked().await;
        assert_eq!((asked.head.uri.path(), &asked.body[..]), ("/b", &b"hi"[..]));
        asked.whole(Response::builder(), "fine");
    });
    let statuses: Vec<&str> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "403"], "{answer}");
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn methods_are_looked_at() {
    for mode in MODES {
        let world = world(mode, |_| {}).await;
        for version in [Version::HTTP_11, Version::HTTP_2] {
            for (detector, value) in samples() {
                let names = Names { connect: ROUTED, sni: ROUTED };
                let mut client = Client::open_as(&world, Way::Transparent, version, names).await.unwrap();
                let told_before = world.heard.borrow().refused.len();
                let request = Request::builder().method(Method::from_bytes(value.as_bytes()).unwrap());
                let response = client.send_to(ROUTED, request, "/x", "").await.unwrap();
                assert_eq!(response.status(), StatusCode::FORBIDDEN);
                let shown = refusal(response).await.to_string();
                assert!(shown.contains("in the method of this request") && !shown.contains(&value), "{shown}");
                check_told(&world, told_before, detector, &value).await;
            }
        }
        assert!(world.provider.is_untouched().await);
    }
}

#[tokio::test]
async fn names_of_hosts_are_looked_at_before_anybody_is_asked_for_their_addresses() {
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    for mode in [OutboundOnMatch::Off, OutboundOnMatch::Block, OutboundOnMatch::Redact, OutboundOnMatch::Supervise] {
        let world = world(mode, |_| {}).await;
        for label in [SECRET.to_owned(), SECRET.to_ascii_lowercase(), hex.clone()] {
            let host = format!("{label}.corp.example");
            let names = Names { connect: &host, sni: &host };
            for (way, version) in [
                (Way::Absolute, Version::HTTP_11),
                (Way::Plain, Version::HTTP_11),
                (Way::Transparent, Version::HTTP_2),
                (Way::Connect, Version::HTTP_11),
            ] {
                let mut client = Client::open_as(&world, way, version, names).await.unwrap();
                let told_before = world.heard.borrow().refused.len();
                let response = client.send_to(&host, Request::get("/"), "/x", "").await.unwrap();
                assert_eq!(response.status(), StatusCode::FORBIDDEN, "{host} {way:?}");
                let shown = refusal(response).await.to_string();
                assert!(shown.contains("in the host name of this request") && !shown.contains(&label), "{shown}");
                check_told(&world, told_before, "injected-secret", &label).await;
            }
        }
    }
}

#[tokio::test]
async fn names_of_hosts_are_looked_at_where_nothing_else_can_be() {
    let world = world(OutboundOnMatch::Off, |route| route.intercept = false).await;
    let host = format!("{SECRET}.corp.example");
    let stream = tcp(world.doors.tls).await.unwrap();
    assert!(tls_trusting(&world.provider_roots, stream, Version::HTTP_11, &host).await.is_err());
    check_told(&world, 0, "injected-secret", SECRET).await;
    let stream = tcp(world.doors.tls).await.unwrap();
    tls_trusting(&world.provider_roots, stream, Version::HTTP_11, ROUTED).await.unwrap();
}
