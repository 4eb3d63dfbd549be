//! Where bottles may go, by every way there is, as routes say.

use std::time::Duration;

use egress_userspace::domain::{RefusalReason, Route, RouteFile};
use hyper::{Request, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::{sleep, timeout};

use super::client::{Client, Names, SAME, Way, refusal, tcp, tls_trusting, whole};
use super::names::query;
use super::world::{Heard, PATIENCE, PROVIDER, ROUTED, Refused, World};

const UNLISTED: &str = "example.com";
const UNLISTED_NAMES: Names<'static> = Names { connect: UNLISTED, sni: UNLISTED };
const ROUTED_NAMES: Names<'static> = Names { connect: ROUTED, sni: ROUTED };

fn route(host: &str, change: impl FnOnce(&mut Route)) -> Route {
    let mut route = Route::to(host.parse().unwrap(), "routes.yaml:7".to_owned());
    change(&mut route);
    route
}

fn file(routes: Vec<Route>) -> RouteFile {
    RouteFile { routes, ..RouteFile::default() }
}

async fn routed(routes: Vec<Route>) -> World {
    let world = World::start().await;
    world.route(file(routes));
    // Until the snapshot has arrived.
    sleep(Duration::from_millis(50)).await;
    world
}

fn refused(reason: RefusalReason, host: &str, target: &str) -> Refused {
    Refused { reason, host: Some(host.to_owned()), target: target.to_owned(), rule: None, count: 1 }
}

/// Waits until so many refused requests are told of, and a little longer.
async fn told(world: &World, count: usize) -> Vec<Refused> {
    world.wait("the refusals are told", |heard: &Heard| heard.refused.len() >= count).await;
    sleep(Duration::from_millis(50)).await;
    world.heard.borrow().refused.clone()
}

#[tokio::test]
async fn an_unlisted_host_is_refused_by_name_and_told_of_once_over_every_way() {
    let world = World::start().await;
    let ways = [
        (Way::Absolute, Version::HTTP_11),
        (Way::Plain, Version::HTTP_11),
        (Way::Transparent, Version::HTTP_11),
        (Way::Transparent, Version::HTTP_2),
        (Way::Connect, Version::HTTP_11),
        (Way::Connect, Version::HTTP_2),
    ];
    for (told_before, (way, version)) in ways.into_iter().enumerate() {
        let mut client = Client::open_as(&world, way, version, UNLISTED_NAMES).await.unwrap();
        let response = client.send_to(UNLISTED, Request::post("/"), "/x?secret=1", "body").await.unwrap();
        assert_eq!(response.status(), 403, "{way:?} {version:?}");
        let body = refusal(response).await;
        assert_eq!(body["egress_reason"], "host_not_allowed");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("example.com is not on the allowlist of bottle web"), "{message}");
        let told = told(&world, told_before + 1).await;
        let expected = refused(RefusalReason::HostNotAllowed, UNLISTED, "POST /x");
        assert_eq!((told.len(), told.last()), (told_before + 1, Some(&expected)), "{way:?} {version:?}");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query(UNLISTED), world.doors.dns_udp).await.unwrap();
    let told = told(&world, ways.len() + 1).await;
    assert_eq!(told.last(), Some(&refused(RefusalReason::HostNotAllowed, UNLISTED, "DNS")));
    let upgrade = || Request::get("/").header("connection", "Upgrade").header("upgrade", "websocket");
    let mut client = Client::open_as(&world, Way::Transparent, Version::HTTP_11, UNLISTED_NAMES).await.unwrap();
    assert_eq!(client.send_to(UNLISTED, upgrade(), "/socket", "").await.unwrap().status(), 403);
    assert!(world.provider.is_untouched().await);
    assert_eq!(world.heard.borrow().admits, []);
}

#[tokio::test]
async fn a_routed_host_is_reached_and_spends_nothing() {
    let world = routed(vec![route(ROUTED, |_| {})]).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for way in [Way::Transparent, Way::Connect] {
            let mut client = Client::open_as(&world, way, version, ROUTED_NAMES).await.unwrap();
            let asking = client.send_to(ROUTED, Request::put("/").header("x-own", "1"), "/a?b=c", "body");
            let answering = async {
                let asked = world.provider.asked().await;
                assert_eq!(asked.head.uri.path_and_query().unwrap(), "/a?b=c");
                assert_eq!((&asked.head.method.as_str(), &asked.body[..]), (&"PUT", &b"body"[..]));
                assert_eq!(asked.head.headers["x-own"], "1");
                asked.whole(hyper::Response::builder().status(201).header("alt-svc", "h3=\":443\""), "made");
            };
            let (response, ()) = tokio::join!(asking, answering);
            let response = response.unwrap();
            assert_eq!(response.status(), 201, "{way:?} {version:?}");
            assert!(!response.headers().contains_key("alt-svc"));
            assert_eq!(&whole(response).await[..], b"made");
        }
    }
    let heard = world.heard.borrow();
    assert_eq!((heard.admits.len(), heard.settlements.len(), heard.refused.len()), (0, 0, 0));
}

#[tokio::test]
async fn what_no_route_to_the_host_is_about_is_refused() {
    let world = routed(vec![route(ROUTED, |route| {
        route.methods = vec!["GET".parse().unwrap()];
        route.paths = vec!["/ok/*".parse().unwrap()];
    })])
    .await;
    let mut client = Client::open_as(&world, Way::Transparent, Version::HTTP_11, ROUTED_NAMES).await.unwrap();
    for (request, path) in [
        (Request::post("/"), "/ok/x"),
        (Request::get("/"), "/other"),
        (Request::get("/"), "/ok/../other"),
        (Request::get("/"), "/ok/%2e%2e/other"),
        (Request::get("/"), "/ok//other"),
    ] {
        let response = client.send_to(ROUTED, request, path, "").await.unwrap();
        assert_eq!(response.status(), 403, "{path}");
        assert_eq!(refusal(response).await["egress_reason"], "route_forbids", "{path}");
    }
    let told = told(&world, 5).await;
    assert_eq!(told[1], refused(RefusalReason::RouteForbids, ROUTED, "GET /other"));
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn no_header_makes_another_request_of_one_that_a_route_allows() {
    let methods = |route: &mut Route| route.methods = vec!["GET".parse().unwrap()];
    let paths = |route: &mut Route| route.paths = vec!["/ok/*".parse().unwrap()];
    let (method, url) = (("X-HTTP-Method-Override", "DELETE"), ("x-original-url", "/other"));
    let world = routed(vec![route(ROUTED, methods)]).await;
    let mut client = Client::open_as(&world, Way::Transparent, Version::HTTP_11, ROUTED_NAMES).await.unwrap();
    for (restrict, header, is_refused) in [
        (methods as fn(&mut Route), method, true),
        (methods, ("x-http-method", "DELETE"), true),
        (methods, ("X_Method_Override", "DELETE"), true),
        (methods, url, false),
        (paths, url, true),
        (paths, ("X-Rewrite-URL", "/other"), true),
        (paths, method, false),
        (|_| {}, url, false),
        (|_| {}, method, false),
    ] {
        world.route(file(vec![route(ROUTED, restrict)]));
        sleep(Duration::from_millis(50)).await;
        let asking = client.send_to(ROUTED, Request::get("/").header(header.0, header.1), "/ok/x", "");
        if !is_refused {
            let (response, ()) = tokio::join!(asking, async {
                let asked = world.provider.asked().await;
                assert_eq!(asked.head.headers[header.0], header.1);
                asked.whole(hyper::Response::builder(), "yes");
            });
            whole(response.unwrap()).await;
            continue;
        }
        let response = asking.await.unwrap();
        assert_eq!(response.status(), 403, "{header:?}");
        let said = refusal(response).await;
        assert_eq!(said["egress_reason"], "route_forbids");
        let message = said["error"]["message"].as_str().unwrap();
        assert!(message.contains(&header.0.to_lowercase()), "{message}");
    }
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn a_reload_binds_the_next_request_on_an_open_connection() {
    let world = routed(vec![route(ROUTED, |_| {})]).await;
    let mut client = Client::open_as(&world, Way::Transparent, Version::HTTP_11, ROUTED_NAMES).await.unwrap();
    let ask = async |client: &mut Client| {
        let (response, ()) = tokio::join!(client.send_to(ROUTED, Request::get("/"), "/", ""), async {
            world.provider.asked().await.whole(hyper::Response::builder(), "yes");
        });
        let response = response.unwrap();
        assert_eq!(response.status(), 200);
        whole(response).await
    };
    ask(&mut client).await;
    world.route(file(Vec::new()));
    sleep(Duration::from_millis(50)).await;
    let response = client.send_to(ROUTED, Request::get("/"), "/", "").await.unwrap();
    assert_eq!(refusal(response).await["egress_reason"], "host_not_allowed");
    world.route(file(vec![route(ROUTED, |_| {})]));
    sleep(Duration::from_millis(50)).await;
    ask(&mut client).await;
}

#[tokio::test]
async fn a_file_may_close_metered_hosts() {
    let world = World::start().await;
    world.route(RouteFile { providers: Some(Vec::new()), ..RouteFile::default() });
    sleep(Duration::from_millis(50)).await;
    let mut client = Client::open_as(&world, Way::Connect, Version::HTTP_11, SAME).await.unwrap();
    let response = client.message().await.unwrap();
    assert_eq!(refusal(response).await["egress_reason"], "host_not_allowed");
    assert!(world.provider.is_untouched().await);
    let (provider, claude) = (PROVIDER, "claude".parse().unwrap());
    world.route(RouteFile { providers: Some(vec![claude]), ..RouteFile::default() });
    sleep(Duration::from_millis(50)).await;
    let (response, ()) = tokio::join!(client.send_to(provider, Request::get("/"), "/v1/models", ""), async {
        world.provider.asked().await.whole(hyper::Response::builder(), "[]");
    });
    assert_eq!(response.unwrap().status(), 200);
}

/// Answers one plain request and says what it was.
async fn plain_server() -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        String::from_utf8(head).unwrap()
    });
    (port, serving)
}

#[tokio::test]
async fn a_name_that_leads_into_this_network_needs_a_route_that_says_so() {
    let (port, serving) = plain_server().await;
    let to = |private| route("localhost", |route| (route.ports, route.private) = (vec![port], private));
    let world = routed(vec![to(false)]).await;
    let host = format!("localhost:{port}");
    let mut client = Client::open(&world, Way::Absolute, Version::HTTP_11).await;
    let response = client.send_to(&host, Request::get("/"), "/x", "").await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(refusal(response).await["egress_reason"], "address_not_public");
    let expected = Refused {
        rule: Some("routes.yaml:7".to_owned()),
        ..refused(RefusalReason::AddressNotPublic, "localhost", "GET /x")
    };
    assert_eq!(told(&world, 1).await, [expected]);

    world.route(file(vec![to(true)]));
    sleep(Duration::from_millis(50)).await;
    let response = client.send_to(&host, Request::get("/"), "/x", "").await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(&whole(response).await[..], b"ok");
    let head = timeout(PATIENCE, serving).await.unwrap().unwrap();
    assert!(
        head.starts_with("GET /x HTTP/1.1\r\n") && head.to_lowercase().contains(&format!("host: {host}")),
        "{head}"
    );
}

#[tokio::test]
async fn connections_to_routed_hosts_are_a_bottles_own_and_end_with_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let open = route("localhost", |route| (route.ports, route.private) = (vec![port], true));
    let world = routed(vec![open]).await;
    let host = format!("localhost:{port}");
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..2 {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
        stream.read(&mut [0]).await
    });
    let mut client = Client::open(&world, Way::Absolute, Version::HTTP_11).await;
    for _ in 0..2 {
        let response = client.send_to(&host, Request::get("/"), "/", "").await.unwrap();
        assert_eq!(&whole(response).await[..], b"ok", "on the same connection");
    }
    drop(client);
    sleep(Duration::from_millis(100)).await;
    assert!(!serving.is_finished(), "it is kept for the next request");
    world.phase(egress_userspace::broker::Phase::Cut);
    assert_eq!(timeout(PATIENCE, serving).await.expect("it is still open").unwrap().unwrap(), 0);
}

#[tokio::test]
async fn no_address_in_whatever_writing_is_a_host() {
    let world = routed(vec![route(ROUTED, |route| route.private = true)]).await;
    let mut client = Client::open(&world, Way::Absolute, Version::HTTP_11).await;
    for address in [
        "127.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "127.1",
        "0x7f000001",
        "localhost",
    ] {
        let response = client.send_to(address, Request::get("/"), "/latest/meta-data/", "").await.unwrap();
        let status = response.status();
        let reason = refusal(response).await["egress_reason"].clone();
        assert!(
            (status == 403 && reason == "host_not_allowed") || (status == 421 && reason == "misdirected"),
            "{address}: {status} {reason}"
        );
    }
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn what_is_not_intercepted_ends_at_the_host_itself() {
    let world = routed(vec![route(ROUTED, |route| route.intercept = false)]).await;
    let stream = tcp(world.doors.tls).await.unwrap();
    let stream = tls_trusting(&world.provider_roots, stream, Version::HTTP_11, ROUTED).await.unwrap();
    let mut client = Client::speak(Way::Transparent, Version::HTTP_11, stream).await;
    let (response, ()) = tokio::join!(client.send_to(ROUTED, Request::get("/"), "/", ""), async {
        world.provider.asked().await.whole(hyper::Response::builder(), "unseen");
    });
    assert_eq!(&whole(response.unwrap()).await[..], b"unseen");
    assert!(world.heard.borrow().minted.is_empty(), "a certificate was made");

    // A cut ends it.
    world.phase(egress_userspace::broker::Phase::Cut);
    let ended = timeout(PATIENCE, client.send_to(ROUTED, Request::get("/"), "/", "")).await.unwrap();
    assert!(ended.is_err());
}

#[tokio::test]
async fn a_tunnel_to_one_name_is_not_passed_on_as_another() {
    let world = routed(vec![route(ROUTED, |route| route.intercept = false)]).await;
    let names = Names { connect: UNLISTED, sni: ROUTED };
    let mut client = Client::open_as(&world, Way::Connect, Version::HTTP_11, names).await.unwrap();
    let response = client.send_to(ROUTED, Request::get("/"), "/", "").await.unwrap();
    assert_eq!(response.status(), 421);
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn a_metered_host_is_intercepted_whatever_a_route_says() {
    let world = routed(vec![route(PROVIDER, |route| route.intercept = false)]).await;
    let stream = tcp(world.doors.tls).await.unwrap();
    let error = tls_trusting(&world.provider_roots, stream, Version::HTTP_11, PROVIDER).await.unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn many_refusals_are_told_of_as_a_number() {
    let world = World::start().await;
    let mut client = Client::open(&world, Way::Plain, Version::HTTP_11).await;
    let asked = 400;
    for _ in 0..asked {
        let response = client.send_to(UNLISTED, Request::get("/"), "/", "").await.unwrap();
        assert_eq!(response.status(), 403);
        drop(whole(response).await);
    }
    sleep(Duration::from_millis(300)).await;
    let response = client.send_to(UNLISTED, Request::get("/"), "/", "").await.unwrap();
    drop(whole(response).await);
    let told = told(&world, 1).await;
    assert!(told.len() < 200, "{} rows", told.len());
    assert_eq!(told.iter().map(|refused| refused.count).sum::<u64>(), asked + 1);
}

#[tokio::test]
async fn certificates_for_unlisted_names_are_bounded() {
    let world = World::start().await;
    let mut failed = 0;
    for number in 0..80 {
        let name = format!("n{number}.example.com");
        let names = Names { connect: &name, sni: &name };
        match Client::open_as(&world, Way::Transparent, Version::HTTP_11, names).await {
            Ok(_) => {}
            Err(error) => {
                assert!(error.to_string().contains("AccessDenied"), "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed > 0 && world.heard.borrow().minted.len() < 80);
    // Names that routes have are none of them.
    Client::open(&world, Way::Transparent, Version::HTTP_11).await;
}

#[tokio::test]
async fn a_bottle_reads_its_own_allowlist() {
    let world = routed(vec![route(ROUTED, |route| route.methods = vec!["GET".parse().unwrap()])]).await;
    let mut client = Client::open(&world, Way::Plain, Version::HTTP_11).await;
    let response = client.send_to("_egress.local", Request::get("/"), "/allowlist", "").await.unwrap();
    assert_eq!(response.status(), 200);
    let body = refusal(response).await;
    assert_eq!((&body["bottle"], &body["allowlist"][0]["host"]), (&"web".into(), &ROUTED.into()));
    assert_eq!(body["allowlist"][0]["methods"], serde_json::json!(["GET"]));
    assert!(!body.to_string().contains("routes.yaml"), "{body}");
}
