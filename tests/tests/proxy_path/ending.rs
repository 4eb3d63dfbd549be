//! Every end is named, once, and everyone hears of it.

use std::time::Duration;

use bytes::Bytes;
use egress_userspace::broker::Phase;
use egress_userspace::domain::{Ending, Known, Tokens, Usage};
use hyper::{Request, Response, Version};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::client::{Client, Way, next, refusal, tcp};
use super::provider::Sender;
use super::world::{Authority, PATIENCE, PROVIDER, World};

const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":11,\"output_tokens\":1}}}\n\n";

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// A response in the middle: its first event has arrived.
async fn in_the_middle(world: &World, client: &mut Client) -> (hyper::body::Incoming, Sender) {
    let head = Response::builder().header("content-type", "text/event-stream");
    let (response, sender) = tokio::join!(client.message(), async { world.provider.asked().await.stream(head) });
    let mut body = response.unwrap().into_body();
    sender.send(Ok(Bytes::from(START))).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), START);
    (body, sender)
}

async fn closed(sender: &Sender) {
    timeout(PATIENCE, sender.closed()).await.expect("the provider's connection stays open");
}

fn seen() -> Usage {
    Usage { input: Tokens(11), output: Tokens(1), ..Usage::default() }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request_upstream() {
    for version in VERSIONS {
        let world = World::start().await;
        let mut client = Client::open(&world, Way::Transparent, version).await;
        let (body, sender) = in_the_middle(&world, &mut client).await;
        drop(body);
        drop(client);
        closed(&sender).await;
        let settlement = world.only_settlement().await;
        assert_eq!(
            (settlement.ending, settlement.known, settlement.usage),
            (Ending::Cancelled, Known::Partial, seen())
        );
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_pays_for_its_input() {
    for version in VERSIONS {
        let world = World::start().await;
        let mut client = Client::open(&world, Way::Transparent, version).await;
        let asked = tokio::select! {
            _ = client.message() => panic!("nobody answered"),
            asked = world.provider.asked() => asked,
        };
        drop(client);
        let settlement = world.only_settlement().await;
        assert_eq!(
            (settlement.ending, settlement.known, settlement.status),
            (Ending::Cancelled, Known::Estimated, None)
        );
        assert!(settlement.usage.input > Tokens::ZERO);
        drop(asked);
    }
}

#[tokio::test]
async fn a_provider_that_breaks_off_is_an_error_for_all() {
    for version in VERSIONS {
        let world = World::start().await;
        let mut client = Client::open(&world, Way::Transparent, version).await;
        let (mut body, sender) = in_the_middle(&world, &mut client).await;
        sender.send(Err(std::io::Error::other("broken"))).unwrap();
        assert!(next(&mut body).await.unwrap().is_err(), "a broken response looks whole");
        let settlement = world.only_settlement().await;
        assert_eq!((settlement.ending, settlement.known, settlement.usage), (Ending::HungUp, Known::Partial, seen()));
    }
}

#[tokio::test]
async fn a_provider_that_falls_silent_is_given_up() {
    for version in VERSIONS {
        let world = World::start().await;
        let mut client = Client::open(&world, Way::Transparent, version).await;
        let (mut body, sender) = in_the_middle(&world, &mut client).await;
        assert!(next(&mut body).await.unwrap().is_err(), "a response that ended in silence looks whole");
        closed(&sender).await;
        let settlement = world.only_settlement().await;
        assert_eq!((settlement.ending, settlement.known, settlement.usage), (Ending::TimedOut, Known::Partial, seen()));
    }
}

#[tokio::test]
async fn a_provider_that_takes_the_request_and_hangs_up_may_have_read_it() {
    let (world, _serving) = World::start_with(false).await;
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    let (response, ()) = tokio::join!(client.message(), async { drop(world.provider.asked().await) });
    assert_eq!(response.unwrap().status(), 502);
    let settlement = world.only_settlement().await;
    assert_eq!((settlement.ending, settlement.known), (Ending::HungUp, Known::Estimated));
    assert!(settlement.usage.input > Tokens::ZERO);
}

#[tokio::test]
async fn an_error_inside_a_whole_stream_is_an_error() {
    const ERROR: &str = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    for version in VERSIONS {
        let world = World::start().await;
        let mut client = Client::open(&world, Way::Transparent, version).await;
        let (mut body, sender) = in_the_middle(&world, &mut client).await;
        sender.send(Ok(Bytes::from(ERROR))).unwrap();
        drop(sender);
        assert_eq!(next(&mut body).await.unwrap().unwrap(), ERROR);
        assert!(next(&mut body).await.is_none(), "a whole response looks broken");
        let settlement = world.only_settlement().await;
        assert_eq!((settlement.ending, settlement.status), (Ending::Error, Some(200)));
        assert_eq!((settlement.known, settlement.usage), (Known::Partial, seen()));
    }
}

#[tokio::test]
async fn a_cut_severs_what_is_in_flight() {
    for version in VERSIONS {
        let world = World::start().await;
        let mut idle = Client::open(&world, Way::Connect, version).await;
        let mut client = Client::open(&world, Way::Transparent, version).await;
        let (mut body, sender) = in_the_middle(&world, &mut client).await;
        world.phase(Phase::Cut);
        assert!(next(&mut body).await.unwrap().is_err(), "a severed response looks whole");
        closed(&sender).await;
        let settlement = world.only_settlement().await;
        assert_eq!((settlement.ending, settlement.known), (Ending::Cut, Known::Partial));
        assert!(idle.message().await.is_err(), "an idle connection outlives the cut");
        let mut late = tcp(world.doors.tls).await.unwrap();
        assert_eq!(late.read(&mut [0; 8]).await.unwrap_or(0), 0, "a new connection is served");
    }
}

#[tokio::test]
async fn an_unreachable_provider_costs_nothing() {
    let (world, _serving) = World::start_with(true).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.reach_provider_at(nobody);
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    let response = client.message().await.unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(refusal(response).await["egress_reason"], "upstream_failed");
    let settlement = world.only_settlement().await;
    assert_eq!(
        (settlement.ending, settlement.known, settlement.usage),
        (Ending::Error, Known::Reported, Usage::default())
    );
}

#[tokio::test]
async fn a_provider_that_is_not_who_it_should_be_gets_nothing() {
    let (world, _serving) = World::start_with(true).await;
    let impostor = super::provider::Provider::start(&Authority::new(), true).await;
    world.reach_provider_at(impostor.address);
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_11).await;
    assert_eq!(client.message().await.unwrap().status(), 502);
    assert!(impostor.is_untouched().await);
}

#[tokio::test]
async fn without_its_controller_the_proxy_ends() {
    let (world, serving) = World::start_with(true).await;
    let mut client = Client::open(&world, Way::Transparent, Version::HTTP_2).await;
    let (mut body, sender) = in_the_middle(&world, &mut client).await;
    world.kill_controller();
    timeout(PATIENCE, serving).await.expect("the proxy goes on").unwrap().ok();
    assert!(next(&mut body).await.unwrap().is_err());
    closed(&sender).await;
    assert!(client.send_to(PROVIDER, Request::get("/"), "/", "").await.is_err());
    let late = tcp(world.doors.tls).await;
    let gone = match late {
        Err(_) => true,
        Ok(mut stream) => timeout(Duration::from_secs(1), stream.read(&mut [0; 8])).await.is_ok(),
    };
    assert!(gone, "new connections are served");
}
