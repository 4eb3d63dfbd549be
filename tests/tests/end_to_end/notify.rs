//! What a service manager hears of a daemon, and what others hear of the service manager.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::world::{PATIENCE, until};

use crate::prepared;

/// How long the daemon may be silent.
const WATCHDOG: Duration = Duration::from_millis(1500);

/// Listens as a service manager does.
struct Manager(UnixDatagram);

impl Manager {
    /// The next word, if there is one in time.
    fn word(&self, limit: Duration) -> Result<Option<String>> {
        self.0.set_read_timeout(Some(limit))?;
        let mut buffer = [0; 4096];
        match self.0.recv(&mut buffer) {
            Ok(length) => Ok(Some(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn until(&self, text: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(word) = self.word(PATIENCE)?
                && word.contains(text)
            {
                return Ok(word);
            }
        }
        anyhow::bail!("{text} was never said")
    }
}

fn environment(pid: u32) -> Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/environ"))?).replace('\0', "\n"))
}

#[test]
fn a_service_manager_hears_that_the_daemon_serves_lives_and_stops() -> Result<()> {
    let Some(mut world) = prepared("a service manager", "")? else { return Ok(()) };
    let path = world.names.directory.join("notify");
    let manager = Manager(UnixDatagram::bind(&path)?);
    let variables = [format!("NOTIFY_SOCKET={}", path.display()), format!("WATCHDOG_USEC={}", WATCHDOG.as_micros())];
    world.daemon_starter = [vec!["env".to_owned()], variables.to_vec()].concat();
    let begun = Instant::now();
    let told = std::thread::scope(|scope| -> Result<String> {
        let starting = scope.spawn(|| world.start_daemon());
        let told = manager.until("READY=1")?;
        starting.join().map_err(|_| anyhow::anyhow!("starting panicked"))??;
        Ok(told)
    })?;
    ensure!(begun.elapsed() < PATIENCE, "it was ready late");
    ensure!(told.contains("\nSTATUS=enforcing by "), "{told}");
    // Who is told that it serves is served.
    assert_eq!(world.egress(&["list"])?.code, 0);

    let mut bottle = world.shell("web", &[])?;
    ensure!(manager.until("STATUS=")?.contains("bottles: 1 running, 0 of them cut"), "the bottle is not told of");
    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    ensure!(manager.until("STATUS=")?.contains("1 of them cut"), "the cut is not told of");
    for _ in 0..6 {
        let word = manager.word(WATCHDOG)?.context("the daemon was silent for too long")?;
        ensure!(word.contains("WATCHDOG=1"), "{word}");
    }

    let proxy = environment(world.status()?.proxy_pid.context("there is no proxy")?)?;
    let inside = bottle.sh("env")?.output;
    for (who, variables) in [("the proxy", proxy), ("the bottle", inside)] {
        ensure!(!variables.contains("NOTIFY") && !variables.contains("WATCHDOG"), "{who} could speak too: {variables}");
    }
    world.stop_daemon()?;
    manager.until("STOPPING=1")?;
    Ok(())
}

#[test]
fn a_service_manager_that_has_gone_changes_nothing() -> Result<()> {
    let Some(mut world) = prepared("a service manager that has gone", "")? else { return Ok(()) };
    world.daemon_starter = vec!["env".to_owned(), "NOTIFY_SOCKET=/nowhere/at/all".to_owned()];
    world.start_daemon()?;
    until("it serves", PATIENCE, || Ok(world.egress(&["list"])?.code == 0))
}
