//! One throw-away host: a network namespace with a provider and an `egress` daemon, everything under names of its own.
//!
//! Dropping a [`World`] removes it, after a panic too; what a killed test process left is removed by the next one.

mod bottle;
mod debian;
mod leftovers;
mod names;
mod provider;

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use egress_userspace::control::{AuditReply, BottleInfo, BottlesReply, StatusReply, UsageReply};
use egress_userspace::domain::{AuditKind, BottleName, GateView, UsageRow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::netns::NetNs;
use crate::provider::{HOSTS, Provider, Served};

pub use bottle::{Answer, Bottle, Done, Ended, curl};
pub use debian::Debian;
pub use names::{GATEWAY, Names};

/// How long anything that will happen may take on a machine with other things to do.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Rows asked for: more than any test makes.
const ROWS: &str = "100000";

/// The host. Fields are dropped in this order.
pub struct World {
    /// Where everything is.
    pub names: Names,
    daemon: Option<Child>,
    provider: provider::Background,
    /// The namespace of provider and daemon.
    pub host: NetNs,
    /// Further arguments of `egress daemon`.
    pub daemon_arguments: Vec<String>,
    /// What starts `egress daemon`, if it is not started directly: a program and its arguments.
    pub daemon_starter: Vec<String>,
}

/// What a command line came to.
#[derive(Debug)]
pub struct Said {
    /// Exit code; 128 and more when it was signalled.
    pub code: i32,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl World {
    /// A host whose daemon runs, with these lines in its settings.
    pub fn start(settings: &str) -> Result<Self> {
        let mut world = Self::prepare(settings)?;
        world.start_daemon()?;
        Ok(world)
    }

    /// A host whose daemon has not been started.
    pub fn prepare(settings: &str) -> Result<Self> {
        leftovers::remove_dead();
        let names = Names::fresh();
        fs::create_dir_all(&names.home)?;
        let host = NetNs::new()?;
        let provider = provider::Background::start(&host)?;
        let world =
            Self { names, daemon: None, provider, host, daemon_arguments: Vec::new(), daemon_starter: Vec::new() };
        world.write_settings(settings)?;
        world.write_routes("auth: passthrough\n")?;
        Ok(world)
    }

    /// Replaces the routes file, which otherwise lets keys of agents pass; the daemon looks at it every second.
    pub fn write_routes(&self, routes: &str) -> Result<()> {
        Ok(fs::write(self.names.home.join("routes.yaml"), routes)?)
    }

    /// Replaces the settings; the daemon reads them when it starts.
    pub fn write_settings(&self, settings: &str) -> Result<()> {
        self.write_settings_for(settings, &HOSTS)
    }

    /// The same with these hosts where the provider is.
    pub fn write_settings_for(&self, settings: &str, hosts: &[&str]) -> Result<()> {
        let provider = self.provider();
        fs::write(self.names.home.join("provider-ca.pem"), &provider.ca_pem)?;
        let upstream = settings_of(provider, hosts);
        fs::write(self.names.home.join("settings.yml"), format!("{settings}\n{upstream}"))?;
        Ok(())
    }

    /// The provider.
    #[must_use]
    pub fn provider(&self) -> &Provider {
        &self.provider.provider
    }

    /// What the provider has served.
    #[must_use]
    pub fn served(&self) -> Vec<Served> {
        self.provider().log()
    }

    /// Starts the daemon and waits until it serves.
    pub fn start_daemon(&mut self) -> Result<()> {
        self.spawn_daemon()?;
        let is_up = || Ok(self.status().is_ok_and(|status| status.proxy_pid.is_some()));
        until("the daemon serves", PATIENCE, is_up).with_context(|| self.log_tail())
    }

    fn spawn_daemon(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "there is a daemon already");
        let log = OpenOptions::new().create(true).append(true).open(&self.names.log)?;
        let mut command = self.daemon_command(&self.names, GATEWAY);
        command.stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(self.host.run(|| Ok(command.spawn()?))?);
        Ok(())
    }

    /// The command line of a daemon with these names and this gateway.
    #[must_use]
    pub fn daemon_command(&self, names: &Names, gateway: Ipv4Addr) -> Command {
        let Names { home, run, pins, bridge, .. } = names;
        let own = [program("egress").into_os_string()];
        let mut words = self.daemon_starter.iter().map(OsString::from).chain(own);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg("daemon").arg("--home").arg(home).arg("--run-dir").arg(run).arg("--pins").arg(pins);
        command.args(["--gateway", &format!("{gateway}/16"), "--bridge", bridge]).args(&self.daemon_arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a daemon that is not going to serve, in the host's namespace; an error when it still runs after a while.
    pub fn fail_to_start(&self, command: &mut Command) -> Result<Said> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.host.run(|| Ok(command.spawn()?))?;
        let has_ended = until("the daemon gives up", PATIENCE, || Ok(child.try_wait()?.is_some()));
        if has_ended.is_err() {
            child.kill()?;
        }
        let said = Said::of(&child.wait_with_output()?);
        has_ended.with_context(|| said.errors.clone())?;
        Ok(said)
    }

    /// Asks the daemon to stop and waits until it has.
    pub fn stop_daemon(&mut self) -> Result<()> {
        self.end_daemon(Signal::SIGTERM)
    }

    /// `kill -9` of the daemon.
    pub fn kill_daemon(&mut self) -> Result<()> {
        self.end_daemon(Signal::SIGKILL)
    }

    fn end_daemon(&mut self, signal: Signal) -> Result<()> {
        let mut daemon = self.daemon.take().context("there is no daemon")?;
        kill(Pid::from_raw(i32::try_from(daemon.id())?), signal)?;
        let ended = until("the daemon ends", PATIENCE, || Ok(daemon.try_wait()?.is_some()));
        if ended.is_err() {
            daemon.kill()?;
            daemon.wait()?;
        }
        ended
    }

    /// Waits until the daemon has died by itself.
    pub fn until_daemon_dies(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("there is no daemon")?;
        let died = until("the daemon dies", PATIENCE, || Ok(daemon.try_wait()?.is_some()));
        if died.is_err() {
            self.daemon = Some(daemon);
        }
        died
    }

    /// `kill -9` of the proxy; returns the process that was.
    pub fn kill_proxy(&self) -> Result<u32> {
        let pid = self.status()?.proxy_pid.context("there is no proxy")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
        Ok(pid)
    }

    /// `kill -9` of both, the daemon first.
    pub fn kill_daemon_and_proxy(&mut self) -> Result<()> {
        let proxy = self.status()?.proxy_pid.context("there is no proxy")?;
        self.kill_daemon()?;
        // It may have gone with the daemon.
        let _ = kill(Pid::from_raw(i32::try_from(proxy)?), Signal::SIGKILL);
        until("the proxy is gone", PATIENCE, || Ok(!runs(proxy)))
    }

    /// `egress` with these arguments, for this daemon.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("egress"));
        command.arg("--run-dir").arg(&self.names.run).args(arguments);
        command
    }

    /// Runs `egress` with these arguments to its end.
    pub fn egress(&self, arguments: &[&str]) -> Result<Said> {
        Ok(Said::of(&self.command(arguments).stdin(Stdio::null()).output()?))
    }

    /// The same as the user nobody, who may not.
    pub fn as_nobody(&self, arguments: &[&str]) -> Result<Said> {
        // The workspace may be where only its owner can go.
        let copy = self.names.directory.join("egress");
        if !copy.exists() {
            fs::copy(program("egress"), &copy)?;
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(copy);
        command.arg("--run-dir").arg(&self.names.run).args(arguments).stdin(Stdio::null()).current_dir("/");
        Ok(Said::of(&command.output()?))
    }

    /// Runs a shell in a bottle, which takes commands (see [`Bottle::sh`]).
    pub fn shell(&self, bottle: &str, arguments: &[&str]) -> Result<Bottle> {
        let mut bottle = self.run(bottle, arguments, "sh")?;
        bottle.sh("true").context("the bottle did not start").with_context(|| self.log_tail())?;
        Ok(bottle)
    }

    /// The same for programs that keep things: in a directory that is their home, and with no variable of the caller's.
    pub fn shell_in(&self, bottle: &str, home: &Path, arguments: &[&str]) -> Result<Bottle> {
        let words = [&["run", bottle], arguments, &["--", "sh"]].concat();
        let mut command = self.command(&words);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.current_dir(home).env_clear().env("PATH", path).env("HOME", home);
        let mut bottle = Bottle::start(command)?;
        bottle.sh("true").context("the bottle did not start").with_context(|| self.log_tail())?;
        Ok(bottle)
    }

    /// Runs a line of shell in a bottle, on pipes.
    pub fn run(&self, bottle: &str, arguments: &[&str], line: &str) -> Result<Bottle> {
        let words = [&["run", bottle], arguments, &["--", "sh", "-c", line]].concat();
        Bottle::start(self.command(&words))
    }

    /// What a command says with `--json`.
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let said = self.egress(&[arguments, &["--json"]].concat())?;
        ensure!(said.code == 0, "egress {}: {}", arguments.join(" "), said.errors);
        Ok(serde_json::from_str(&said.output)?)
    }

    /// `egress status`
    pub fn status(&self) -> Result<StatusReply> {
        self.json(&["status"])
    }

    /// What `egress list` says of one bottle.
    pub fn listed(&self, name: &str) -> Result<Option<BottleInfo>> {
        let reply: BottlesReply = self.json(&["list"])?;
        Ok(reply.bottles.into_iter().find(|bottle| bottle.name.as_str() == name))
    }

    /// A bottle that `egress list` shows.
    pub fn bottle(&self, name: &str) -> Result<BottleInfo> {
        self.listed(name)?.with_context(|| format!("{name} is not listed"))
    }

    /// Waits until `egress list` shows this gate.
    pub fn until_gate(&self, name: &str, gate: GateView, limit: Duration) -> Result<()> {
        until(&format!("the gate of {name} is {gate:?}"), limit, || {
            Ok(self.listed(name)?.is_some_and(|bottle| bottle.gate == gate))
        })
        .with_context(|| self.log_tail())
    }

    /// `egress usage`, all of it.
    pub fn usage(&self) -> Result<UsageReply> {
        self.json(&["usage", "--last", ROWS])
    }

    /// The usage rows of one bottle.
    pub fn rows(&self, bottle: &str) -> Result<Vec<UsageRow>> {
        Ok(self.usage()?.rows.into_iter().filter(|row| row.bottle.as_str() == bottle).collect())
    }

    /// What `egress audit` tells of one bottle, or of none.
    pub fn audit(&self, bottle: Option<&str>) -> Result<Vec<AuditKind>> {
        let reply: AuditReply = self.json(&["audit", "--last", ROWS])?;
        let rows = reply.rows.into_iter();
        Ok(rows.filter(|row| row.bottle.as_ref().map(BottleName::as_str) == bottle).map(|row| row.kind).collect())
    }

    /// What the daemon said last.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.names.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(30)..).unwrap_or_default();
        format!("the daemon's last words:\n{}", tail.join("\n"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // Both fail only for a process that has ended.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        leftovers::remove(&self.names);
    }
}

/// The lines by which a provider is these hosts.
fn settings_of(provider: &Provider, hosts: &[&str]) -> String {
    let resolved: String = hosts.iter().map(|host| format!("    {host}: {}\n", provider.address)).collect();
    format!("upstream:\n  ca: provider-ca.pem\n  idle: 3s\n  resolve:\n{resolved}")
}

impl Said {
    fn of(output: &std::process::Output) -> Self {
        Self {
            code: code_of(output.status),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// As a shell reports it.
fn code_of(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// Looks until it is so.
pub fn until(what: &str, limit: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let looked = is_so();
        if matches!(looked, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            looked.with_context(|| format!("never happened: {what}"))?;
            bail!("never happened: {what}");
        }
        sleep(LOOK_EVERY);
    }
}

/// Does this process run? One that nobody has reaped does not.
#[must_use]
pub fn runs(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// A program of this workspace, beside this one, or beside the directory that tests are built into.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let directory = own.parent().unwrap_or(Path::new("."));
    let is_tests = directory.file_name().is_some_and(|name| name == "deps");
    let directory = if is_tests { directory.parent().unwrap_or(directory) } else { directory };
    directory.join(name)
}
