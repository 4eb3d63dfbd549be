//! What the service manager is told (`sd_notify(3)`): that the daemon serves, how it is, that it lives, that it stops.
//!
//! Life is proven, not claimed: the watchdog hears of the daemon only after the controller and the ledger's writer have both
//! answered. A daemon in which one of them hangs is killed and started again; gates hold meanwhile.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::warn;

use super::cutting::Stage;
use super::launch::Launcher;

/// Where the service manager listens; a leading `@` stands for an abstract name.
const SOCKET: &str = "NOTIFY_SOCKET";
/// Microseconds without a word after which the daemon is taken for dead.
const WATCHDOG: &str = "WATCHDOG_USEC";
/// Whose words count, if only one process's do.
const WATCHDOG_PROCESS: &str = "WATCHDOG_PID";

/// Words in the time after which the daemon is taken for dead: two may be late.
const BEATS_PER_WATCHDOG: u32 = 3;
/// Between two looks at what the status line says.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// Between two looks for the first proxy.
const START_LOOK_EVERY: Duration = Duration::from_millis(20);
/// A daemon without a proxy can still cut: after so long it counts as started.
const PROXY_AWAITED_MAX: Duration = Duration::from_secs(10);

/// The service manager, if one started this process.
pub(super) struct ServiceManager {
    link: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

/// What the parts of a daemon that lives have answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Life {
    has_proxy: bool,
    status: String,
}

impl ServiceManager {
    /// The one that the environment names.
    pub(super) fn of_environment() -> Self {
        let link = std::env::var_os(SOCKET).and_then(|name| match link_to(&name) {
            Ok(link) => Some(link),
            Err(error) => {
                warn!(%error, "the service manager cannot be told anything");
                None
            }
        });
        let word = |name| std::env::var_os(name).and_then(|word: OsString| word.into_string().ok());
        let watchdog = patience(word(WATCHDOG).as_deref(), word(WATCHDOG_PROCESS).as_deref(), std::process::id());
        Self { link, watchdog }
    }

    /// Tells that the daemon serves, once it does, and then that it lives. Never ends.
    pub(super) async fn keep_told(&self, launcher: &Launcher) {
        if self.link.is_none() {
            return std::future::pending().await;
        }
        let every = self.watchdog.map_or(STATUS_EVERY, |watchdog| watchdog / BEATS_PER_WATCHDOG);
        keep_telling(|words| self.tell(words), every, async || life(launcher).await).await;
    }

    /// Tells that the daemon is about to end.
    pub(super) fn tell_stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping; bottles stay behind their gates");
    }

    fn tell(&self, words: &str) {
        let Some((socket, manager)) = &self.link else { return };
        if let Err(error) = socket.send_to_addr(words.as_bytes(), manager) {
            warn!(%error, "the service manager does not listen");
        }
    }
}

fn link_to(name: &OsStr) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let manager = match name.as_bytes().strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not stop the daemon.
    socket.set_nonblocking(true)?;
    Ok((socket, manager))
}

/// How long this process may be silent; `None` when nobody minds.
fn patience(microseconds: Option<&str>, process: Option<&str>, own: u32) -> Option<Duration> {
    if process.is_some_and(|process| process.parse() != Ok(own)) {
        return None;
    }
    let microseconds = microseconds?.parse().ok().filter(|microseconds| *microseconds > 0)?;
    Some(Duration::from_micros(microseconds))
}

/// Returns when both have answered; `None` when one of them has stopped.
async fn life(launcher: &Launcher) -> Option<Life> {
    let view = launcher.controller.look().await?;
    launcher.ledger.answers().await.then_some(())?;
    let cut = view.running.iter().filter(|running| matches!(running.stage, Stage::Cut(_))).count();
    let status = status(launcher.enforcer.backend(), launcher.not_enforcing.as_deref(), view.running.len(), cut);
    Some(Life { has_proxy: view.proxy_pid.is_some(), status })
}

fn status(backend: &str, problem: Option<&str>, running: usize, cut: usize) -> String {
    match problem {
        None => format!("enforcing by {backend}; bottles: {running} running, {cut} of them cut"),
        // The status is one line.
        Some(problem) => format!("NOT ENFORCING: {}", problem.replace('\n', " ")),
    }
}

async fn keep_telling(tell: impl Fn(&str), every: Duration, prove: impl AsyncFn() -> Option<Life>) {
    let mut told = None;
    until_served(&prove).await;
    let mut beats = interval(every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        let Some(life) = prove().await else { continue };
        let ready = if told.is_none() { "READY=1\n" } else { "" };
        if told.as_ref() == Some(&life.status) {
            tell("WATCHDOG=1");
        } else {
            tell(&format!("{ready}WATCHDOG=1\nSTATUS={}", life.status));
            told = Some(life.status);
        }
    }
}

/// Returns when bottles are served.
async fn until_served(prove: &impl AsyncFn() -> Option<Life>) {
    let deadline = Instant::now() + PROXY_AWAITED_MAX;
    while !prove().await.is_some_and(|life| life.has_proxy || Instant::now() >= deadline) {
        sleep(START_LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    #[test]
    fn patience_is_for_the_process_that_is_meant() {
        for (microseconds, process, expected) in [
            (Some("30000000"), None, Some(30)),
            (Some("30000000"), Some("7"), Some(30)),
            (Some("30000000"), Some("8"), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
            (None, Some("7"), None),
        ] {
            assert_eq!(patience(microseconds, process, 7), expected.map(Duration::from_secs), "{microseconds:?}");
        }
    }

    #[test]
    fn the_status_is_one_line() {
        assert_eq!(status("ebpf", None, 3, 1), "enforcing by ebpf; bottles: 3 running, 1 of them cut");
        assert_eq!(status("ebpf", Some("no\ngate"), 3, 1), "NOT ENFORCING: no gate");
    }

    #[test]
    fn an_abstract_name_is_no_path() {
        assert!(link_to(OsStr::new("@egress-test")).unwrap().1.as_abstract_name().is_some());
        assert!(link_to(OsStr::new("/run/notify")).unwrap().1.as_pathname().is_some());
        assert!(link_to(OsStr::new("")).is_ok_and(|(_, manager)| manager.is_unnamed()));
    }

    /// What was told within so many beats by a daemon whose parts answer so.
    async fn told(beats: u32, prove: impl AsyncFn(u32) -> Option<Life>) -> Vec<String> {
        let (words, asked) = (RefCell::new(Vec::new()), Cell::new(0));
        let tell = |word: &str| words.borrow_mut().push(word.to_owned());
        let prove = async || {
            asked.set(asked.get() + 1);
            prove(asked.get()).await
        };
        let end = EVERY * beats + EVERY / 2;
        tokio::time::timeout(end, keep_telling(tell, EVERY, prove)).await.unwrap_err();
        words.into_inner()
    }

    fn alive(status: &str) -> Option<Life> {
        Some(Life { has_proxy: true, status: status.to_owned() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_answers_is_told_of() {
        let words = told(3, async |asked| alive(if asked < 4 { "one" } else { "two" })).await;
        assert_eq!(
            words,
            ["READY=1\nWATCHDOG=1\nSTATUS=one", "WATCHDOG=1", "WATCHDOG=1\nSTATUS=two", "WATCHDOG=1"],
            "{words:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_hangs_is_not() {
        let words = told(20, async |asked| if asked < 4 { alive("") } else { std::future::pending().await }).await;
        assert_eq!(words.len(), 2, "{words:?}");
        let words = told(20, async |asked| if asked < 4 { alive("") } else { None }).await;
        assert_eq!(words.len(), 2, "{words:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_told_that_it_serves_before_it_does() {
        assert!(told(20, async |_| None).await.is_empty());
        let without_proxy = || Some(Life { has_proxy: false, status: String::new() });
        let words = told(0, async |asked| if asked < 9 { without_proxy() } else { alive("") }).await;
        assert_eq!(words.len(), 1, "{words:?}");
        assert!(told(0, async |_| without_proxy()).await.is_empty());
        assert_eq!(told(1, async |_| without_proxy()).await.len(), 1);
    }
}
