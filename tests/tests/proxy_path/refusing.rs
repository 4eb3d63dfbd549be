//! What may not go does not go, and the client hears why.

use egress_userspace::broker::Phase;
use egress_userspace::domain::{Refusal, RefusalReason, Scope, Tokens};
use hyper::{Request, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::client::{Client, Names, SAME, Way, refusal, tcp};
use super::world::{PROVIDER, STRANGER, World};

const OTHER: &str = "other.example.com";

fn exhausted() -> Refusal {
    Refusal {
        reason: RefusalReason::BudgetExhausted,
        message: "the budget of bottle web is used up".to_owned(),
        scope: Some(Scope::Bottle("web".parse().unwrap())),
        budget: Some(Tokens(10)),
        used: Some(Tokens(12)),
        rule: None,
    }
}

async fn check(world: &World, way: Way, version: Version, names: Names<'_>, host: &str, status: u16, reason: &str) {
    let mut client = Client::open_as(world, way, version, names).await.unwrap();
    let response = client.send_to(host, Request::post("/"), "/v1/messages", vec![b'x'; 200_000]).await.unwrap();
    assert_eq!(response.status(), status, "{way:?} {version:?} {host}");
    assert!(!response.headers().contains_key("retry-after"));
    assert_eq!(response.headers()["x-should-retry"], "false");
    assert_eq!(refusal(response).await["egress_reason"], reason);
}

#[tokio::test]
async fn names_that_differ_are_misdirected() {
    let world = World::start().await;
    let connect_differs = Names { connect: OTHER, sni: PROVIDER };
    let sni_differs = Names { connect: PROVIDER, sni: OTHER };
    for version in [Version::HTTP_11, Version::HTTP_2] {
        check(&world, Way::Transparent, version, SAME, OTHER, 421, "misdirected").await;
        check(&world, Way::Connect, version, SAME, OTHER, 421, "misdirected").await;
        check(&world, Way::Connect, version, connect_differs, PROVIDER, 421, "misdirected").await;
        check(&world, Way::Connect, version, sni_differs, PROVIDER, 421, "misdirected").await;
    }
    assert!(world.provider.is_untouched().await);
    assert_eq!(world.heard.borrow().admits, []);
}

#[tokio::test]
async fn hosts_without_a_route_are_refused() {
    let world = World::start().await;
    for way in [Way::Absolute, Way::Plain] {
        check(&world, way, Version::HTTP_11, SAME, "example.com", 403, "host_not_allowed").await;
    }
    let other = Names { connect: OTHER, sni: OTHER };
    for version in [Version::HTTP_11, Version::HTTP_2] {
        // It is read inside TLS.
        check(&world, Way::Transparent, version, other, OTHER, 403, "host_not_allowed").await;
        check(&world, Way::Connect, version, other, OTHER, 403, "host_not_allowed").await;
    }
    assert_eq!(world.heard.borrow().admits, []);
}

#[tokio::test]
async fn a_refusal_of_the_ledger_reaches_the_client_whole() {
    let world = World::start().await;
    world.script.lock().unwrap().refusal = Some(exhausted());
    for (told, version) in [Version::HTTP_11, Version::HTTP_2].into_iter().enumerate() {
        let mut client = Client::open(&world, Way::Transparent, version).await;
        let response = client.message().await.unwrap();
        assert_eq!(response.status(), 402);
        let body = refusal(response).await;
        assert_eq!((&body["type"], &body["error"]["type"]), (&"error".into(), &"billing_error".into()));
        assert_eq!(body["error"]["message"], "the budget of bottle web is used up");
        assert_eq!((&body["scope"], &body["name"]), (&"bottle".into(), &"web".into()));
        assert_eq!((&body["budget"], &body["used"]), (&10.into(), &12.into()));
        world.wait("the refusal is delivered", |heard| heard.refusals_delivered == told + 1).await;
    }
    assert!(world.provider.is_untouched().await);
    assert_eq!(world.heard.borrow().settlements, []);
}

#[tokio::test]
async fn the_last_word_needs_no_ledger_and_ends_the_connection() {
    let world = World::start().await;
    let mut open = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    world.phase(Phase::LastWord(exhausted()));
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let response = open.message().await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["connection"]), (402, &"close".parse().unwrap()));
    assert_eq!(refusal(response).await["egress_reason"], "budget_exhausted");
    world.wait("the refusal is delivered", |heard| heard.refusals_delivered == 1).await;
    check(&world, Way::Connect, Version::HTTP_2, SAME, PROVIDER, 402, "budget_exhausted").await;
    check(&world, Way::Absolute, Version::HTTP_11, SAME, PROVIDER, 402, "budget_exhausted").await;
    world.wait("all refusals are delivered", |heard| heard.refusals_delivered == 3).await;
    assert!(world.provider.is_untouched().await);
    assert_eq!(world.heard.borrow().admits, []);
}

#[tokio::test]
async fn a_refusal_beside_the_work_is_not_the_last_word() {
    let world = World::start().await;
    world.phase(Phase::LastWord(exhausted()));
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    for (request, path) in [(Request::post("/"), "/api/event_logging/v2/batch"), (Request::get("/"), "/v1/models")] {
        let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
        let response = client.send_to(PROVIDER, request, path, "").await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &refusal(response).await["egress_reason"]),
            (402, &"budget_exhausted".into())
        );
    }
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(world.heard.borrow().refusals_delivered, 0);
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    assert_eq!(client.message().await.unwrap().status(), 402);
    world.wait("the refusal is delivered", |heard| heard.refusals_delivered == 1).await;
}

#[tokio::test]
async fn what_no_response_would_account_for_is_not_sent() {
    let world = World::start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut client = Client::open(&world, Way::Transparent, version).await;
        let batch = client.send_to(PROVIDER, Request::post("/"), "/v1/messages/batches", "{\"requests\":[]}").await;
        let batch = batch.unwrap();
        assert_eq!(batch.status(), 403);
        assert_eq!(refusal(batch).await["egress_reason"], "not_meterable");
    }
    assert!(world.provider.is_untouched().await);
    assert_eq!(world.heard.borrow().admits, []);
}

#[tokio::test]
async fn a_websocket_is_refused_with_the_status_that_makes_clients_fall_back() {
    let world = World::start().await;
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    let request = Request::get("/").header("connection", "Upgrade").header("upgrade", "websocket");
    let response = client.send_to(PROVIDER, request, "/v1/responses", "").await.unwrap();
    assert_eq!(response.status(), 426);
    assert_eq!(refusal(response).await["egress_reason"], "not_meterable");
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn tunnels_lead_to_names_on_the_webs_ports_only() {
    let world = World::start().await;
    for target in ["api.anthropic.com:22", "10.0.0.1:443", "[::1]:443", "169.254.169.254:80"] {
        let mut stream = tcp(world.doors.explicit).await.unwrap();
        let head = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{target}: {answer}");
        let is_name = target.starts_with("api");
        assert!(answer.contains(if is_name { "route_forbids" } else { "host_not_allowed" }), "{target}: {answer}");
    }
}

#[tokio::test]
async fn who_is_no_bottle_is_not_served() {
    let world = World::start().await;
    for door in [world.doors.explicit, world.doors.tls, world.doors.plain, world.doors.dns_tcp] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((STRANGER, 0).into()).unwrap();
        let mut stream = socket.connect(door).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "{door}");
    }
}
