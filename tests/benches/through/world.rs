//! A throw-away host to measure on: a provider, egress with one bottle at a time, nginx, and a client beside them.
//!
//! Two network namespaces: the host's, and one for the client that goes direct or through nginx. It reaches the host over
//! a veth pair, as a bottle does, so that every way is measured over the same kind of link.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::load::Measured;
use harness::netns::NetNs;
use harness::provider::{Authority, HOST};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROVIDER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 213, 252, 1)), 9443);
const NGINX: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 213, 252, 1)), 8443);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 253, 1);
/// Pins are the one thing that no namespace keeps apart.
const PINS: &str = "/sys/fs/bpf/egress-bench";
const BRIDGE: &str = "egress-bench0";
const START_MAX: Duration = Duration::from_secs(20);

/// How a request reaches the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Nothing in between.
    Direct,
    /// A plain TLS relay.
    Nginx,
    /// A bottle that knows of no proxy.
    Egress,
    /// A bottle that says CONNECT.
    EgressConnect,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::Direct, Self::Nginx, Self::Egress, Self::EgressConnect];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Egress => "egress",
            Self::EgressConnect => "egress CONNECT",
        }
    }
}

/// The host. Dropping it ends every process; the namespaces go with this one.
pub(crate) struct World {
    directory: tempfile::TempDir,
    host: NetNs,
    client: NetNs,
    daemon: Option<Child>,
    others: Vec<Child>,
    pub(crate) nginx_pid: u32,
}

impl World {
    pub(crate) fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("egress-bench-").tempdir()?;
        let (host, client) = (NetNs::new()?, NetNs::new()?);
        host.ip(&format!("link add to-client type veth peer name to-host netns {}", client.path()))?;
        host.ip(&format!("addr add {}/24 dev to-client", PROVIDER.ip()))?;
        host.ip("link set to-client up")?;
        client.ip("addr add 10.213.252.2/24 dev to-host")?;
        client.ip("link set to-host up")?;
        let mut world = Self { directory, host, client, daemon: None, others: Vec::new(), nginx_pid: 0 };
        fs::create_dir(world.path("home"))?;
        world.start_provider()?;
        world.start_nginx()?;
        let settings = format!(
            "budget:\n  claude: 1_000_000_000_000\ndrain: 0\nlast_word: 0\nupstream:\n  ca: {}\n  resolve:\n    {HOST}: {PROVIDER}\n",
            world.path("provider.pem").display()
        );
        fs::write(world.path("home").join("settings.yml"), settings)?;
        fs::write(world.path("home").join("routes.yaml"), "auth: passthrough\n")?;
        world.start_daemon("warn")?;
        Ok(world)
    }

    /// Replaces the daemon by one that says more or less.
    pub(crate) fn restart_daemon(&mut self, log: &str) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            end(daemon);
        }
        self.start_daemon(log)
    }

    /// What the daemon has written.
    pub(crate) fn daemon_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("daemon.log"))?)
    }

    /// The daemon's child that serves bottles.
    pub(crate) fn proxy_pid(&self) -> Result<u32> {
        let daemon = self.daemon.as_ref().context("no daemon runs")?.id();
        let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children"))?;
        let by_threads = || -> Option<String> {
            let tasks = fs::read_dir(format!("/proc/{daemon}/task")).ok()?;
            let children = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
            Some(children.collect())
        };
        let children = if children.trim().is_empty() { by_threads().unwrap_or_default() } else { children };
        let is_proxy =
            |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("\0proxy\0"));
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_proxy).context("no proxy runs")
    }

    /// Makes requests and measures.
    pub(crate) fn load(&self, way: Way, words: &[String]) -> Result<Measured> {
        self.load_as(way, "bench", &[], words)
    }

    /// The same in a bottle of this name, with more words for `egress run`.
    pub(crate) fn load_as(&self, way: Way, bottle: &str, run: &[&str], words: &[String]) -> Result<Measured> {
        let output = self.start_load(way, bottle, run, words)?.wait_with_output()?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{way:?} {words:?}: {complaint}{}", self.last_words());
        serde_json::from_slice(&output.stdout).context("the load printed no measurement")
    }

    /// The same without waiting for it.
    pub(crate) fn start_load(&self, way: Way, bottle: &str, run: &[&str], words: &[String]) -> Result<Child> {
        let load = env!("CARGO_BIN_EXE_test-load");
        let (connect, ca) = match way {
            Way::Direct => (PROVIDER, self.path("provider.pem")),
            Way::Nginx => (NGINX, self.path("nginx-ca.pem")),
            Way::Egress => ((GATEWAY, 443).into(), "/etc/ssl/certs/ca-certificates.crt".into()),
            Way::EgressConnect => ((GATEWAY, 8080).into(), "/etc/ssl/certs/ca-certificates.crt".into()),
        };
        let (mut command, inside) = match way {
            Way::Direct | Way::Nginx => (Command::new(load), &self.client),
            Way::Egress | Way::EgressConnect => {
                let mut command = self.egress();
                command.args(["run", bottle]).args(run).args(["--", load]);
                (command, &self.host)
            }
        };
        command.args(["--connect", &connect.to_string()]).arg("--ca").arg(ca).args(words);
        if way == Way::EgressConnect {
            command.arg("--explicit");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        inside.run(|| command.spawn().context("the load could not be started"))
    }

    /// Ends a load that has no more to say.
    pub(crate) fn end_load(mut load: Child) {
        let _ = load.kill();
        let _ = load.wait();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn egress(&self) -> Command {
        let mut command = Command::new(egress());
        command.env("EGRESS_RUN_DIR", self.path("run"));
        command
    }

    fn start_provider(&mut self) -> Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_test-provider"));
        command.args(["--listen", &PROVIDER.to_string()]).arg("--ca-out").arg(self.path("provider.pem"));
        let child = self.start_in_host(command, "provider.log")?;
        self.others.push(child);
        self.wait_for(PROVIDER)
    }

    fn start_nginx(&mut self) -> Result<()> {
        let authority = Authority::generate()?;
        let (certificate, key) = authority.leaf_pem(&[HOST.to_owned()])?;
        fs::write(self.path("nginx-ca.pem"), authority.pem())?;
        fs::write(self.path("nginx.pem"), certificate)?;
        fs::write(self.path("nginx.key"), key)?;
        fs::write(self.path("nginx.conf"), nginx_configuration(self.directory.path()))?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(self.directory.path()).arg("-c").arg(self.path("nginx.conf"));
        let child = self.start_in_host(command, "nginx.log")?;
        self.nginx_pid = child.id();
        self.others.push(child);
        self.wait_for(NGINX)
    }

    fn start_daemon(&mut self, log: &str) -> Result<()> {
        let mut command = self.egress();
        command.env("EGRESS_LOG", log).arg("daemon").arg("--home").arg(self.path("home"));
        command.arg("--run-dir").arg(self.path("run")).args(["--pins", PINS, "--bridge", BRIDGE]);
        command.args(["--gateway", &format!("{GATEWAY}/24")]);
        self.daemon = Some(self.start_in_host(command, "daemon.log")?);
        let list = || self.egress().args(["list", "--json"]).output().is_ok_and(|output| output.status.success());
        wait_until(list).with_context(|| self.last_words())?;
        wait_until(|| self.proxy_pid().is_ok()).context("the daemon started no proxy")
    }

    fn start_in_host(&self, mut command: Command, log: &str) -> Result<Child> {
        let log = File::create(self.path(log))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.host.run(|| command.spawn().with_context(|| format!("{} is missing", command.get_program().display())))
    }

    fn wait_for(&self, address: SocketAddr) -> Result<()> {
        wait_until(|| self.client.run(|| Ok(std::net::TcpStream::connect(address)?)).is_ok())
            .with_context(|| format!("nobody listens on {address}"))
    }

    fn last_words(&self) -> String {
        let log = self.daemon_log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("the daemon wrote:\n{}", lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A bottle whose front-end was ended lives a little longer; what it mounts would stay without its daemon.
        let bottles = self.path("run").join("bottles");
        let _ = wait_until(|| fs::read_dir(&bottles).is_ok_and(|mut bottles| bottles.next().is_none()));
        self.daemon.take().into_iter().chain(self.others.drain(..)).for_each(end);
        // Nothing of it being there is as good.
        let _ = fs::remove_dir_all(PINS);
        for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let _ = fs::remove_dir(Path::new(mount).join(BRIDGE));
        }
    }
}

/// The release build's, which is beside the directory of this program.
fn egress() -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    here.ancestors().nth(2).unwrap_or(Path::new(".")).join("egress")
}

fn nginx_configuration(directory: &Path) -> String {
    let here = directory.display();
    format!(
        "daemon off; worker_processes 2; worker_rlimit_nofile 20000; user root; pid {here}/nginx.pid;
error_log {here}/nginx-error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off; tcp_nodelay on; keepalive_requests 100000000; client_body_buffer_size 64k;
    client_body_temp_path {here}/t1; proxy_temp_path {here}/t2; fastcgi_temp_path {here}/t3;
    uwsgi_temp_path {here}/t4; scgi_temp_path {here}/t5;
    upstream provider {{ server {PROVIDER}; keepalive 1024; keepalive_requests 100000000; }}
    server {{
        listen {NGINX} ssl backlog=4096; ssl_certificate {here}/nginx.pem; ssl_certificate_key {here}/nginx.key;
        location / {{
            proxy_pass https://provider; proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off;
            proxy_set_header Connection \"\"; proxy_set_header Host {HOST};
            proxy_ssl_verify on; proxy_ssl_trusted_certificate {here}/provider.pem;
            proxy_ssl_server_name on; proxy_ssl_name {HOST};
        }}
    }}
}}
"
    )
}

fn wait_until(mut is_done: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_done() {
        if start.elapsed() > START_MAX {
            bail!("waited {} s in vain", START_MAX.as_secs());
        }
        sleep(Duration::from_millis(25));
    }
    Ok(())
}

/// Asks a process to end and waits until it has.
fn end(mut child: Child) {
    if let (Ok(pid), Ok(None)) = (i32::try_from(child.id()), child.try_wait()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        sleep(Duration::from_millis(25));
    }
    let _ = child.kill();
    let _ = child.wait();
}
