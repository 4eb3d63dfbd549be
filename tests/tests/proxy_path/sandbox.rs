//! The real process: it serves, and it holds nothing.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use harness::privilege;
use harness::world::program;
use hyper::{Request, Response, Version};

use super::client::{Client, Way, whole};
use super::provider::Provider;
use super::websocket;
use super::world::{Authority, PROVIDER, World, begin};

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

#[tokio::test]
async fn the_process_serves_and_holds_nothing() {
    if !privilege::is_root("the sandboxed process").unwrap() {
        return;
    }
    let begun = begin();
    let mut command = Command::new(program("egress"));
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
    let (mut client, mut socket) = websocket::open(&world).await;
    websocket::whole(&mut client, &mut socket, "resp_1").await;
    let id = process.0.id();
    let users = status(id, "Uid");
    assert!(!users.split(' ').any(|user| user == "0"), "{users}");
    assert!(!status(id, "Gid").split(' ').any(|group| group == "0"));
    assert_eq!(status(id, "Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(id, set), "0000000000000000", "{set}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{id}/limits")).unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let files: Vec<u64> = files.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [soft, hard] = files[..] else { panic!("{limits}") };
    // Several bottles with all their connections, each with one to a provider.
    assert!(soft == hard && hard >= 4 * 2 * 2_048, "{limits}");
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
