//! What detectors find on its way: refused, overwritten, or held for an operator, wherever and however it is written.

mod heads;
mod inbound;
mod outbound;
mod sockets;
mod supervised;

use std::io::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use egress_userspace::domain::{DetectorRule, InboundOnMatch, LooksFor, OutboundOnMatch, Route, RouteFile};
use hyper::Version;
use tokio::time::sleep;

use super::client::{Client, Names, Way};
use super::world::{ROUTED, World};

const ROUTED_NAMES: Names<'static> = Names { connect: ROUTED, sni: ROUTED };
/// A secret whose value is known.
const SECRET: &str = "s3cr3t/Value+with=bits&42";

/// Put together here, so that no source holds a token.
fn token() -> String {
    format!("ghp_{}", "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zC0aB3dE6")
}

fn private_key() -> String {
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode([7; 48]))
}

/// One thing of many kinds, and its detector.
fn samples() -> Vec<(&'static str, String)> {
    let letters = |length: usize| "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zC0".repeat(10)[..length].to_owned();
    vec![
        ("anthropic-key", format!("sk-ant-api03-{}AA", letters(93))),
        ("openai-key", format!("sk-proj-{}", letters(120))),
        ("google-key", format!("AIza{}", letters(35))),
        ("aws-access-key", format!("AKIA{}", "IOSFODNN7EXAMPLE")),
        ("aws-secret-key", format!("aws_secret_access_key={}", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")),
        ("github-token", token()),
        ("gitlab-token", format!("glpat-{}", letters(20))),
        ("slack-token", format!("xoxb-123456789012-1234567890123-{}", letters(24))),
        ("private-key", private_key()),
        ("jwt", format!("{}.eyJzdWIiOiIxMjM0In0.{}", "eyJhbGciOiJIUzI1NiJ9", letters(43))),
        ("credit-card", "4111 1111 1111 1111".to_owned()),
        ("high-entropy", format!("db_password: \"{}\"", letters(24))),
        ("ticket", "PROJ-1234-AB".to_owned()),
        ("injected-secret", SECRET.to_owned()),
    ]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn brotli(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
    encoder.write_all(bytes).unwrap();
    encoder.into_inner()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// A routed host, and metered ones, whose requests and responses are looked at.
async fn world(outbound: OutboundOnMatch, inbound: InboundOnMatch) -> World {
    let world = World::start().await;
    world.secrets(&[("DEPLOY_KEY", SECRET)]);
    let rule = |name: &str, pattern: &str| DetectorRule {
        name: name.to_owned(),
        looks_for: LooksFor::Pattern(pattern.to_owned()),
        line: 3,
    };
    world.route(RouteFile {
        outbound: Some(outbound),
        inbound: Some(inbound),
        passthrough: Some(true),
        approval_timeout: Some(Duration::from_millis(300)),
        detectors: vec![rule("ticket", "PROJ-[0-9]{4}-[A-Z]{2}")],
        markers: vec![rule("spell", "(?i)open sesame")],
        routes: vec![Route::to(ROUTED.parse().unwrap(), "routes.yaml:7".to_owned())],
        ..RouteFile::default()
    });
    // Until the snapshot has arrived.
    sleep(Duration::from_millis(50)).await;
    world
}

async fn open(world: &World, version: Version) -> Client {
    Client::open_as(world, Way::Transparent, version, ROUTED_NAMES).await.unwrap()
}
