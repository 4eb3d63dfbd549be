//! What an agent brings stays here or leaves, and what a route puts in its place arrives, as routes say.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use egress_userspace::domain::{Auth, Preflight, RefusalReason, Route, RouteFile, Secret, SecretSource};
use egress_userspace::policy::{Credential, Unsigned};
use hyper::http::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, Uri, Version};
use tokio::time::sleep;

use super::client::{Client, Names, Way, refusal, whole};
use super::websocket::ask;
use super::world::{BEDROCK, OPENAI, PROVIDER, ROUTED, Refused, World};

/// What the agent has.
const AGENT: &str = "sk-agent";
/// What the operator has.
const OURS: &str = "sk-ours-4711";
const NAME: &str = "OUR_KEY";
/// More than the proxy looks at before a request is admitted.
const LONG_BYTES: usize = 5 << 20;
/// More than it signs.
const TOO_LONG_BYTES: usize = 26_000_000;

/// The route to a host whose credential is the operator's.
fn with(host: &str, scheme: &str) -> Route {
    let mut route = Route::to(host.parse().unwrap(), "routes.yaml:5".to_owned());
    route.auth = Auth::Inject(scheme.parse().unwrap(), SecretSource::Env(NAME.to_owned()));
    route
}

async fn world(route: Option<Route>) -> World {
    let world = World::start().await;
    world.secrets(&[(NAME, OURS)]);
    world.route(RouteFile { routes: route.into_iter().collect(), ..RouteFile::default() });
    sleep(Duration::from_millis(50)).await;
    world
}

async fn open(world: &World, host: &str, version: Version) -> Client {
    Client::open_as(world, Way::Transparent, version, Names { connect: host, sni: host }).await.unwrap()
}

/// A request as it reached the provider.
struct Seen {
    head: Parts,
    body: Bytes,
}

async fn answered(world: &World, body: &'static str) -> Seen {
    let asked = world.provider.asked().await;
    let seen = Seen { head: asked.head.clone(), body: asked.body.clone() };
    asked.whole(Response::builder().header("content-type", "application/json"), body);
    seen
}

/// Asks with everything that an agent may bring; returns what reaches the provider.
async fn asked(world: &World, client: &mut Client, host: &str, target: &str, body: Vec<u8>) -> Seen {
    let request = Request::post("/")
        .header("authorization", format!("Bearer {AGENT}"))
        .header("x-api-key", AGENT)
        .header("cookie", format!("session={AGENT}"))
        .header("x-other", "1");
    let (response, asked) = tokio::join!(client.send_to(host, request, target, body), answered(world, "{}"));
    assert_eq!(response.unwrap().status(), 200);
    asked
}

fn values(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let named = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    named.filter(|(name, _)| !matches!(*name, "host" | "content-length" | "accept-encoding")).collect()
}

/// A refusal, and that it was told of once.
async fn check_refused(
    world: &World,
    response: Response<hyper::body::Incoming>,
    reason: RefusalReason,
    rule: Option<&str>,
) {
    assert_eq!(response.status(), 403);
    let body = refusal(response).await;
    assert_eq!(body["egress_reason"], reason.as_str(), "{body}");
    assert!(!body.to_string().contains(AGENT) && !body.to_string().contains(OURS), "{body}");
    let heard = world.wait("the refusal is told", |heard| !heard.refused.is_empty()).await;
    let told: Vec<_> = heard.refused.iter().map(|told| (told.reason, told.rule.as_deref(), told.count)).collect();
    assert_eq!(told, [(reason, rule, 1)]);
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn a_routes_credential_takes_the_place_of_all_that_the_agent_brings() {
    for (host, scheme, secret, name, value) in [
        (ROUTED, "bearer", OURS, "authorization", format!("Bearer {OURS}")),
        (ROUTED, "basic", "me:s3cret", "authorization", "Basic bWU6czNjcmV0".to_owned()),
        (PROVIDER, "header:x-api-key", OURS, "x-api-key", OURS.to_owned()),
    ] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let world = world(Some(with(host, scheme))).await;
            world.secrets(&[(NAME, secret)]);
            sleep(Duration::from_millis(50)).await;
            let mut client = open(&world, host, version).await;
            let target = format!("/v1/models?a=b&key={AGENT}&c");
            let asked = asked(&world, &mut client, host, &target, Vec::new()).await;
            assert_eq!(asked.head.uri.path_and_query().unwrap(), "/v1/models?a=b&c");
            let mut found = values(&asked.head.headers);
            found.sort_unstable();
            let mut expected = vec![(name, value.as_str()), ("x-other", "1")];
            expected.sort_unstable();
            assert_eq!(found, expected, "{scheme} {version:?}");
        }
    }
}

#[tokio::test]
async fn a_secret_binds_the_next_request_and_without_one_nothing_leaves() {
    let world = world(Some(with(ROUTED, "bearer"))).await;
    let mut client = open(&world, ROUTED, Version::HTTP_11).await;
    for secret in [OURS, "sk-another"] {
        world.secrets(&[(NAME, secret)]);
        sleep(Duration::from_millis(50)).await;
        let asked = asked(&world, &mut client, ROUTED, "/", Vec::new()).await;
        assert_eq!(asked.head.headers["authorization"], format!("Bearer {secret}"));
    }
    world.secrets(&[("OTHER", OURS)]);
    sleep(Duration::from_millis(50)).await;
    let request = Request::get("/").header("authorization", AGENT);
    let response = client.send_to(ROUTED, request, "/", "").await.unwrap();
    check_refused(&world, response, RefusalReason::CredentialMissing, Some("routes.yaml:5")).await;
}

#[tokio::test]
async fn an_agents_own_key_reaches_no_metered_host_unless_a_route_says_so() {
    for (header, query) in [("x-api-key", ""), ("authorization", ""), ("cookie", ""), ("x-other", "?key=sk-agent")] {
        let world = world(None).await;
        let mut client = open(&world, PROVIDER, Version::HTTP_11).await;
        let request = Request::post("/").header(header, AGENT);
        let response = client.send_to(PROVIDER, request, &format!("/v1/messages{query}"), "{}").await.unwrap();
        check_refused(&world, response, RefusalReason::CredentialNotAllowed, None).await;
        assert_eq!(world.heard.borrow().admits, []);
    }
    let mut passing = Route::to(PROVIDER.parse().unwrap(), "routes.yaml:5".to_owned());
    passing.auth = Auth::Passthrough;
    let passing = RouteFile { routes: vec![passing], ..RouteFile::default() };
    for file in [passing, super::world::open_handed()] {
        let world = World::start().await;
        world.route(file);
        sleep(Duration::from_millis(50)).await;
        let mut client = open(&world, PROVIDER, Version::HTTP_11).await;
        let asked = asked(&world, &mut client, PROVIDER, "/v1/models?key=k", Vec::new()).await;
        assert_eq!(asked.head.headers["x-api-key"], AGENT);
        assert_eq!(
            (&asked.head.headers["cookie"], asked.head.uri.query()),
            (&"session=sk-agent".parse().unwrap(), Some("key=k"))
        );
    }
}

#[tokio::test]
async fn other_hosts_get_what_the_agent_brings_and_metered_ones_what_has_no_key() {
    let world = world(Some(Route::to(ROUTED.parse().unwrap(), "routes.yaml:5".to_owned()))).await;
    let mut client = open(&world, ROUTED, Version::HTTP_11).await;
    let asked = asked(&world, &mut client, ROUTED, "/?access_token=x", Vec::new()).await;
    assert_eq!(
        (&asked.head.headers["x-api-key"], asked.head.uri.query()),
        (&HeaderValue::from_static(AGENT), Some("access_token=x"))
    );
    let mut client = open(&world, PROVIDER, Version::HTTP_11).await;
    let (response, ()) = tokio::join!(client.send_to(PROVIDER, Request::get("/"), "/v1/models", ""), async {
        world.provider.asked().await.whole(Response::builder(), "{}");
    });
    assert_eq!(response.unwrap().status(), 200);
}

#[tokio::test]
async fn a_secret_goes_over_tls_and_to_its_paths_alone() {
    let mut route = with(ROUTED, "bearer");
    route.paths = vec!["/api/*".parse().unwrap()];
    let mut elsewhere = Route::to(ROUTED.parse().unwrap(), "routes.yaml:9".to_owned());
    elsewhere.paths = vec!["/public/*".parse().unwrap()];
    let world = world(Some(route.clone())).await;
    world.route(RouteFile { routes: vec![route, elsewhere], ..RouteFile::default() });
    sleep(Duration::from_millis(50)).await;
    // The provider speaks TLS only.
    for way in [Way::Plain, Way::Absolute] {
        let mut client = Client::open(&world, way, Version::HTTP_11).await;
        let asked = asked(&world, &mut client, ROUTED, "/api/x", Vec::new()).await;
        assert_eq!(asked.head.headers["authorization"], format!("Bearer {OURS}"), "{way:?}");
    }
    let mut client = open(&world, ROUTED, Version::HTTP_11).await;
    let asked = asked(&world, &mut client, ROUTED, "/public/x", Vec::new()).await;
    assert_eq!(asked.head.headers["authorization"], format!("Bearer {AGENT}"));
    for path in ["/api/../public/x", "/public/../api/x", "/api/%2e%2e/x", "/other"] {
        let response = client.send_to(ROUTED, Request::get("/"), path, "").await.unwrap();
        assert_eq!(refusal(response).await["egress_reason"], "route_forbids", "{path}");
    }
}

#[tokio::test]
async fn who_counts_is_asked_with_the_routes_credential_on_the_routes_paths() {
    const BODY: &str = r#"{"model":"claude-x","max_tokens":100,"messages":[{"role":"user","content":"Why?"}]}"#;
    for (paths, counted) in [(&["/v1/*"][..], true), (&["/v1/messages"], false)] {
        let mut route = with(PROVIDER, "header:x-api-key");
        route.paths = paths.iter().map(|path| path.parse().unwrap()).collect();
        let world = world(Some(route)).await;
        world.preflight(Preflight::Exact);
        sleep(Duration::from_millis(50)).await;
        let mut client = open(&world, PROVIDER, Version::HTTP_11).await;
        let request = Request::post("/").header("authorization", AGENT).header("content-type", "application/json");
        let (response, ()) = tokio::join!(client.send_to(PROVIDER, request, "/v1/messages", BODY), async {
            if counted {
                let question = answered(&world, r#"{"input_tokens":11}"#).await;
                assert_eq!(question.head.uri.path(), "/v1/messages/count_tokens");
                assert_eq!(question.head.headers["x-api-key"], OURS);
                assert!(!question.head.headers.contains_key("authorization"));
            }
            let asked = answered(&world, "{}").await;
            assert_eq!(
                (asked.head.uri.path(), &asked.head.headers["x-api-key"]),
                ("/v1/messages", &HeaderValue::from_static(OURS))
            );
        });
        assert_eq!(whole(response.unwrap()).await, "{}");
    }
}

#[tokio::test]
async fn a_websocket_is_opened_with_the_routes_credential() {
    let world = world(Some(with(OPENAI, "bearer"))).await;
    let headers =
        [("authorization", "Bearer sk-agent"), ("sec-websocket-protocol", "openai-insecure-api-key.sk-agent, x")];
    let (socket, asked) = tokio::join!(ask(&world, Way::Transparent, "/v1/responses", &headers), async {
        let asked = world.provider.asked().await;
        let headers = asked.head.headers.clone();
        asked.switch(Response::builder().header("sec-websocket-protocol", "x")).await;
        headers
    });
    socket.unwrap();
    assert_eq!(asked["authorization"], format!("Bearer {OURS}"));
    assert_eq!(asked["sec-websocket-protocol"], "x");
    // Clients hide what answers an upgrade, and hear it when they ask over HTTP.
    world.route(RouteFile::default());
    sleep(Duration::from_millis(50)).await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(refused)) =
        ask(&world, Way::Transparent, "/v1/responses", &headers[..1]).await
    else {
        panic!("a socket is open")
    };
    assert_eq!(refused.status(), 426);
    let is_told = |told: &Refused| told.reason == RefusalReason::CredentialNotAllowed;
    world.wait("the refusal is told", |heard| heard.refused.iter().any(is_told)).await;
    assert!(world.provider.is_untouched().await);
}

#[tokio::test]
async fn a_request_to_bedrock_is_signed_anew_with_all_of_its_body() {
    const KEY: &str = "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY:session";
    let world = world(Some(with(BEDROCK, "sigv4"))).await;
    world.secrets(&[(NAME, KEY)]);
    sleep(Duration::from_millis(50)).await;
    for bytes in [0, 100, LONG_BYTES] {
        let mut client = open(&world, BEDROCK, Version::HTTP_11).await;
        let path = "/model/anthropic.claude-3%3A0/converse";
        let body = vec![b'x'; bytes];
        let mut asked = asked(&world, &mut client, BEDROCK, path, body.clone()).await;
        assert_eq!(asked.body, body);
        let headers = &mut asked.head.headers;
        assert!(!headers.contains_key("x-api-key") && !headers.contains_key("cookie"));
        assert_eq!(
            (&headers["x-amz-security-token"], &headers["host"]),
            (&HeaderValue::from_static("session"), &HeaderValue::from_static(BEDROCK))
        );
        // What the service does: the same signature over what has arrived.
        let signed = headers.remove("authorization").unwrap();
        let date = headers["x-amz-date"].clone();
        let (host, uri) = (BEDROCK.parse().unwrap(), format!("https://{BEDROCK}{path}").parse::<Uri>().unwrap());
        let source = SecretSource::Env(NAME.to_owned());
        let credential =
            Credential::Ours { scheme: "sigv4".parse().unwrap(), source, secret: Secret::new(KEY.to_owned()) };
        let unsigned = Unsigned { method: &asked.head.method, host: &host, uri: &uri, body: &asked.body };
        let is_same = (0..60).any(|seconds_ago| {
            let mut again = headers.clone();
            credential.present(unsigned, &mut again, SystemTime::now() - Duration::from_secs(seconds_ago)).unwrap();
            again["x-amz-date"] == date && again["authorization"] == signed
        });
        assert!(is_same, "{bytes} bytes: {signed:?}");
    }
    let mut client = open(&world, BEDROCK, Version::HTTP_11).await;
    let response = client.send_to(BEDROCK, Request::post("/"), "/model/x/converse", vec![b'x'; TOO_LONG_BYTES]).await;
    check_refused(&world, response.unwrap(), RefusalReason::RouteForbids, Some("routes.yaml:5")).await;
}
