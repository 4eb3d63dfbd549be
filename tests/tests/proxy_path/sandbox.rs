//! The real process: it serves, and it holds nothing.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use hyper::{Request, Response, Version};

use super::client::{Client, Way, whole};
use super::provider::Provider;
use super::world::{Authority, PROVIDER, World, begin};

/// The binary, built if it is not up to date.
fn egress() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built =
        Command::new(cargo).args(["build", "--quiet", "--package", "egress-userspace", "--bin", "egress"]).status();
    assert!(built.unwrap().success());
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("egress")
}

/// Ends the process with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One line of a process's status.
fn status(process: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI runs as root");
    eprintln!("skipped: needs root");
    false
}

#[tokio::test]
async fn the_process_serves_and_holds_nothing() {
    if !is_root() {
        return;
    }
    let begun = begin();
    let mut command = Command::new(egress());
    command.arg("proxy").stdin(Stdio::from(OwnedFd::from(begun.proxy)));
    let mut process = Process(command.spawn().unwrap());
    drop(command);
    let roots = Authority::new();
    let provider = Provider::start(&roots, true).await;
    let world = World::control(begun.controller, begun.doors, &roots, provider).await;
    world.wait("the proxy is ready", |heard| heard.is_ready).await;
    for (way, version) in [(Way::Transparent, Version::HTTP_2), (Way::Connect, Version::HTTP_11)] {
        let mut client = Client::open(&world, way, version).await;
        let answer = Bytes::from(vec![b'x'; 3_000_000]);
        let (response, ()) = tokio::join!(client.send_to(PROVIDER, Request::get("/"), "/v1/models", ""), async {
            world.provider.asked().await.whole(Response::builder(), answer.clone());
        });
        assert!(whole(response.unwrap()).await == answer);
    }
    let id = process.0.id();
    let users = status(id, "Uid");
    assert!(!users.split(' ').any(|user| user == "0"), "{users}");
    assert!(!status(id, "Gid").split(' ').any(|group| group == "0"));
    assert_eq!(status(id, "Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(id, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(id, "NoNewPrivs"), "1");
    assert_eq!(status(id, "Seccomp"), "2");
    for thread in std::fs::read_dir(format!("/proc/{id}/task")).unwrap() {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2") && status.contains("CapEff:\t0000000000000000"), "{status}");
    }
    world.kill_controller();
    let ended = tokio::task::spawn_blocking(move || process.0.wait().unwrap()).await.unwrap();
    assert!(ended.code().is_some(), "ended by a signal: {ended}");
}
