//! A throw-away host: a provider, a daemon with its own home, pins and gateway, and one bottle with a shell in it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use super::show::Show;
use super::undo::{self, Plan, wait_until};
use crate::command;

/// Everything on disk; fixed, so that leftovers are found.
const DIRECTORY: &str = "/run/egress-demo";
const LOCK: &str = "/run/egress-demo.lock";
const PINS: &str = "/sys/fs/bpf/egress-demo";
const BRIDGE: &str = "egress-demo0";
pub(super) const GATEWAY: &str = "10.213.254.1";
/// Bottles get addresses of this network.
const NETWORK_BITS: u8 = 24;
/// What the bottle may spend.
pub(super) const BUDGET_TOKENS: u64 = 5000;
/// How long daemon and provider may take to come up.
const START_MAX: Duration = Duration::from_secs(15);

/// The throw-away host. Dropping it takes everything down.
pub(super) struct World {
    directory: PathBuf,
    /// The daemon's process id.
    daemon: u32,
    pub(super) plan: Plan,
    /// Held as long as the demonstration runs: there is one at a time.
    _lock: File,
}

impl World {
    /// Cleans up after a killed run, then starts provider and daemon.
    pub(super) fn start(show: Show) -> anyhow::Result<Self> {
        let lock = lock()?;
        let directory = PathBuf::from(DIRECTORY);
        let mut world = Self { directory, daemon: 0, plan: Plan::default(), _lock: lock };
        world.make_directories()?;
        let provider = world.start_provider()?;
        show.good(&format!("a provider speaks the Anthropic API over TLS on {provider}, as api.anthropic.com"));
        world.write_settings(provider)?;
        world.start_daemon()?;
        show.good(&format!("egress daemon is ready (pid {}), gateway {GATEWAY}, gates pinned in {PINS}", world.daemon));
        Ok(world)
    }

    /// Where the gates are pinned.
    pub(super) fn pins() -> &'static Path {
        Path::new(PINS)
    }

    /// The client, speaking to this daemon.
    pub(super) fn egress(&self) -> Command {
        let mut command = Command::new(binary("egress"));
        command.env("EGRESS_RUN_DIR", self.run_directory()).env("PATH", command::system_path());
        command
    }

    /// What a reading command says as JSON.
    pub(super) fn ask(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = command::output(self.egress().args(arguments).arg("--json"))?;
        serde_json::from_str(&text).with_context(|| format!("`egress {} --json` printed no JSON", arguments.join(" ")))
    }

    /// The proxy's process id.
    pub(super) fn proxy_pid(&self) -> Option<i32> {
        self.ask(&["status"]).ok()?.get("proxy_pid")?.as_i64()?.try_into().ok()
    }

    /// The last lines the daemon wrote, for when something went wrong.
    pub(super) fn daemon_log_tail(&self) -> String {
        let log = fs::read_to_string(self.directory.join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }

    fn home(&self) -> PathBuf {
        self.directory.join("home")
    }

    fn run_directory(&self) -> PathBuf {
        self.directory.join("run")
    }

    fn make_directories(&mut self) -> anyhow::Result<()> {
        let directory = self.directory.clone();
        let clean = move || {
            undo::end_strays(&directory);
            undo::remove_device(BRIDGE);
            // The daemon calls its control group as its bridge.
            undo::remove_control_group(BRIDGE);
            undo::remove_directory(Path::new(PINS));
            undo::remove_directory(&directory);
        };
        clean();
        self.plan.on_undo(|| drop(fs::remove_file(LOCK)));
        self.plan.on_undo(clean);
        for directory in [self.home(), self.run_directory()] {
            fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        }
        Ok(())
    }

    fn start_provider(&mut self) -> anyhow::Result<SocketAddr> {
        let address = free_address()?;
        let certificate = self.home().join("provider-ca.pem");
        let mut command = Command::new(binary("test-provider"));
        command
            .args(["--listen", &address.to_string()])
            .arg("--ca-out")
            .arg(&certificate)
            .arg("--log")
            .arg(self.directory.join("provider.jsonl"));
        self.start_in_background(command, "provider")?;
        let is_up = || certificate.exists() && TcpStream::connect(address).is_ok();
        wait_until("the provider to listen", START_MAX, is_up).with_context(|| self.log_of("provider"))?;
        Ok(address)
    }

    fn write_settings(&self, provider: SocketAddr) -> anyhow::Result<()> {
        let settings = format!(
            "budget:\n  claude: {BUDGET_TOKENS}\nshutdown: cutoff\nupstream:\n  ca: provider-ca.pem\n  resolve:\n    \
             api.anthropic.com: {provider}\n"
        );
        fs::write(self.home().join("settings.yml"), settings).context("settings.yml cannot be written")?;
        // The agent brings a key of its own.
        fs::write(self.home().join("routes.yaml"), "auth: passthrough\n").context("routes.yaml cannot be written")
    }

    fn start_daemon(&mut self) -> anyhow::Result<()> {
        let mut command = self.egress();
        command.arg("daemon").arg("--home").arg(self.home()).arg("--run-dir").arg(self.run_directory());
        command.args(["--pins", PINS, "--bridge", BRIDGE, "--gateway", &format!("{GATEWAY}/{NETWORK_BITS}")]);
        self.daemon = self.start_in_background(command, "daemon")?;
        let is_up = || command::output(self.egress().args(["list", "--json"])).is_ok();
        wait_until("the daemon to answer", START_MAX, is_up).with_context(|| self.log_of("daemon"))?;
        Ok(())
    }

    /// Starts something that Ctrl-C does not reach: it is ended by the plan, in order.
    fn start_in_background(&mut self, mut command: Command, name: &str) -> anyhow::Result<u32> {
        let path = self.directory.join(format!("{name}.log"));
        let log = File::create(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child =
            command.spawn().with_context(|| format!("`{}` could not be started", command::as_typed(&command)))?;
        let pid = child.id();
        self.plan.on_undo(move || undo::end(&mut child));
        Ok(pid)
    }

    fn log_of(&self, name: &str) -> String {
        let log = fs::read_to_string(self.directory.join(format!("{name}.log"))).unwrap_or_default();
        format!("the {name} wrote:\n{}", log.trim_end())
    }
}

/// One demonstration at a time: names and addresses are fixed.
fn lock() -> anyhow::Result<File> {
    let file = File::create(LOCK).with_context(|| format!("{LOCK} cannot be made"))?;
    if file.try_lock().is_err() {
        bail!("another demonstration is running; wait for it to end");
    }
    Ok(file)
}

/// A binary of this workspace's development build.
fn binary(name: &str) -> PathBuf {
    command::target_directory().join("debug").join(name)
}

/// A loopback address nobody listens on.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on loopback")?;
    Ok(listener.local_addr()?)
}
