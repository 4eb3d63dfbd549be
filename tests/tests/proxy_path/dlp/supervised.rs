//! What waits for an operator.

use egress_userspace::domain::{InboundOnMatch, OutboundOnMatch, Supervised};
use futures_util::SinkExt;
use hyper::{Request, Version};
use tokio_tungstenite::tungstenite::Message;

use super::super::world::{Heard, ROUTED, World};
use super::outbound::{check_refused, passed};
use super::sockets::{self, next};
use super::{gzip, open, private_key, token, world};

async fn supervised(verdict: Supervised) -> World {
    let world = world(OutboundOnMatch::Supervise, InboundOnMatch::Off).await;
    world.script.lock().unwrap().verdict = Some(verdict);
    world
}

#[tokio::test]
async fn nothing_that_is_found_leaves_unless_an_operator_says_so() {
    for verdict in [Supervised::Denied, Supervised::Expired, Supervised::Unavailable] {
        let world = supervised(verdict).await;
        let mut client = open(&world, Version::HTTP_11).await;
        check_refused(&world, &mut client, "github-token", Request::post("/"), "/x", token().into()).await;
        let path = format!("/x?q={}", token());
        check_refused(&world, &mut client, "github-token", Request::get("/"), &path, vec![]).await;
        let request = Request::get("/").header("x-note", token());
        check_refused(&world, &mut client, "github-token", request, "/x", vec![]).await;
        assert!(world.provider.is_untouched().await);
        let (_, seen) = passed(&world, &mut client, ROUTED, Request::post("/"), "/x", b"nothing".to_vec()).await;
        assert_eq!(&seen[..], b"nothing");
    }
}

#[tokio::test]
async fn one_value_that_is_approved_lets_no_other_go_that_stands_in_the_same_letters() {
    let world = supervised(Supervised::Approved).await;
    let mut client = open(&world, Version::HTTP_11).await;
    // As letters it is one key, and read as base64 from the fourth on another, `AKIAIOSFODNN7EXAMPLE`.
    let decoy = format!("AKIA{}", "BBBBBBBBBBBBBBBB");
    let both = format!("{decoy}iBBS0lBSU9TRk9ETk43RVhBTVBMRSAgIA");
    let places = [
        ("/x".to_owned(), Request::get("/").header("x-note", &both)),
        (format!("/x?q={both}"), Request::get("/")),
        // The same twice is one question.
        ("/x".to_owned(), Request::get("/").header("x-note", format!("{decoy} {decoy}"))),
    ];
    for (place, (path, request)) in places.into_iter().enumerate() {
        let asked_before = world.heard.borrow().questions.len();
        passed(&world, &mut client, ROUTED, request, &path, vec![]).await;
        let heard = world.heard.borrow();
        let asked: Vec<_> = heard.questions[asked_before..].iter().map(|question| question.detector.as_str()).collect();
        assert_eq!(asked, ["aws-access-key", "aws-access-key"][..if place < 2 { 2 } else { 1 }], "{path}");
    }
}

#[tokio::test]
async fn what_an_operator_approves_leaves_as_it_is_and_is_asked_about_once() {
    let world = supervised(Supervised::Approved).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut client = open(&world, version).await;
        let body = format!("{}{} and {}", "x ".repeat(4 << 20), token(), token()).into_bytes();
        let asked_before = world.heard.borrow().questions.len();
        let path = format!("/x?q={}", token());
        let (head, seen) = passed(&world, &mut client, ROUTED, Request::post("/"), &path, body.clone()).await;
        assert!(seen == body && head.uri.path_and_query().unwrap().as_str() == path);
        let zipped = Request::post("/").header("content-encoding", "gzip");
        let (_, seen) = passed(&world, &mut client, ROUTED, zipped, "/y", gzip(private_key().as_bytes())).await;
        assert_eq!(seen, private_key());
        let heard = world.wait("all is asked", |heard: &Heard| heard.questions.len() >= asked_before + 3).await;
        let told: Vec<_> = heard.questions[asked_before..]
            .iter()
            .map(|question| (question.detector.as_str(), question.host.as_str(), question.target.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("github-token", ROUTED, "POST /x"),
                ("github-token", ROUTED, "POST /x"),
                ("private-key", ROUTED, "POST /y")
            ]
        );
    }
    let (mut client, mut host) = sockets::open(&world, ROUTED, "/socket").await;
    client.send(Message::text(token())).await.unwrap();
    assert_eq!(next(&mut host).await.unwrap().unwrap(), Message::text(token()));
}
