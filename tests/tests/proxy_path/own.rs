//! What the proxy itself serves: a bottle's budgets, whatever the phase it is in.

use egress_userspace::broker::Phase;
use egress_userspace::domain::{BudgetView, Refusal, RefusalReason, Scope, ScopeState, Tokens};
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Client, Names, Way, refusal, tcp};
use super::world::World;

const NAME: &str = "_egress.local";

async fn world() -> World {
    let world = World::start().await;
    let state = ScopeState {
        limit: Some(Tokens(5_000)),
        used: Tokens(5_012),
        held: Tokens(7),
        binds: true,
        ..ScopeState::of(Scope::Host)
    };
    let view = BudgetView { provider: "claude".parse().unwrap(), own: Tokens(12), chain: vec![state] };
    world.script.lock().unwrap().budgets = Some(vec![view]);
    world
}

async fn get(world: &World, way: Way, method: Method, path: &str) -> (u16, Value) {
    let mut client = Client::open(world, way, Version::HTTP_11).await;
    let response = client.send_to(NAME, Request::builder().method(method), path, "").await.unwrap();
    (response.status().as_u16(), refusal(response).await)
}

fn expected() -> Value {
    let state = json!({
        "scope": "host", "limit": 5000, "window": null, "turns": null, "source": null, "granted": 0, "used": 5012,
        "held": 7, "binds": true, "left": 0,
    });
    json!({"bottle": "web", "budgets": [{"provider": "claude", "own": 12, "remaining": 0, "chain": [state]}]})
}

#[tokio::test]
async fn a_bottle_reads_its_budgets_by_every_plain_way_and_in_every_phase() {
    let world = world().await;
    let message = Refusal::of(RefusalReason::BudgetExhausted, "used up".to_owned());
    for phase in [Phase::Open, Phase::LastWord(message)] {
        world.phase(phase);
        for way in [Way::Plain, Way::Absolute] {
            assert_eq!(get(&world, way, Method::GET, "/budget").await, (200, expected()), "{way:?}");
        }
    }
    let mut stream = tcp(world.doors.explicit).await.unwrap();
    stream.write_all(format!("CONNECT {NAME}:80 HTTP/1.1\r\nhost: {NAME}:80\r\n\r\n").as_bytes()).await.unwrap();
    let request = format!("GET /budget HTTP/1.1\r\n{HOST}: {NAME}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let body = answer.split("\r\n\r\n").last().unwrap();
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected(), "{answer}");
    // Nothing was asked of the ledger but the budgets, and nothing went upstream.
    let heard = world.heard.borrow().clone();
    assert!(heard.admits.is_empty() && heard.settlements.is_empty() && heard.refusals_delivered == 0, "{heard:?}");
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn there_is_nothing_else() {
    let world = world().await;
    let (status, body) = get(&world, Way::Plain, Method::GET, "/").await;
    assert_eq!((status, &body["paths"]), (404, &json!(["/allowlist", "/budget", "/healthz"])));
    assert_eq!(get(&world, Way::Plain, Method::GET, "/budget/x").await.0, 404);
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        assert_eq!(get(&world, Way::Plain, method.clone(), "/budget").await.0, 405, "{method}");
    }
    assert_eq!(world.heard.borrow().budget_questions, 0);
    world.script.lock().unwrap().budgets = None;
    assert_eq!(get(&world, Way::Plain, Method::GET, "/budget").await.0, 503);
}

#[tokio::test]
async fn many_questions_are_few_to_the_controller() {
    let world = world().await;
    let mut client = Client::open(&world, Way::Plain, Version::HTTP_11).await;
    let begun = std::time::Instant::now();
    for _ in 0..200 {
        let response = client.send_to(NAME, Request::get("/"), "/budget", "").await.unwrap();
        assert_eq!(response.status(), 200);
        drop(super::client::whole(response).await);
    }
    let asked = world.heard.borrow().budget_questions;
    // Four a second, and one.
    assert!(asked as u128 <= begun.elapsed().as_millis() / 250 + 1, "{asked} questions in {:?}", begun.elapsed());
}

#[tokio::test]
async fn over_tls_it_is_the_same() {
    let world = world().await;
    for way in [Way::Transparent, Way::Connect] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let mut client = Client::open_as(&world, way, version, Names { connect: NAME, sni: NAME }).await.unwrap();
            let response = client.send_to(NAME, Request::get("/"), "/budget", "").await.unwrap();
            assert_eq!((response.status().as_u16(), refusal(response).await), (200, expected()), "{way:?} {version:?}");
        }
    }
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn it_says_that_it_is_there() {
    let world = world().await;
    let mut client = Client::open(&world, Way::Plain, Version::HTTP_11).await;
    let response = client.send_to(NAME, Request::get("/"), "/healthz", "").await.unwrap();
    assert_eq!(
        (response.status(), super::client::whole(response).await),
        (StatusCode::OK, bytes::Bytes::from_static(b"ok"))
    );
    assert_eq!(world.heard.borrow().budget_questions, 0);
}
