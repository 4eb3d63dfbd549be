//! A container engine of a world's own: in its network namespace, everything of it in the world's directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{PATIENCE, World, until};

/// Has a shell, the usual small programs and curl.
pub const CLIENT: &str = "client";
/// Has one static program, `/busybox`, and nothing else.
pub const BARE: &str = "bare";
/// Podman's bridge, which its containers reach the host by.
pub const PODMAN_BRIDGE: &str = "10.88.0.1";
/// The engine's bridge, which containers reach the host by.
pub const BRIDGE: &str = "172.29.213.1";

/// Limits of its own would be above those that a machine may have.
const PODMAN_SETTINGS: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
    [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n[network]\nnetwork_backend = \"netavark\"\n";

const PROGRAMS: [&str; 22] = [
    "cat", "echo", "env", "false", "grep", "hostname", "ip", "kill", "ls", "mkdir", "nc", "ping", "pwd", "rm", "sh",
    "sleep", "stty", "test", "touch", "true", "wc", "wget",
];

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Docker's own.
    Docker,
    /// Podman, as a service.
    Podman,
}

/// Dropped, it is ended with all its containers.
#[derive(Debug)]
pub struct Docker {
    engine: Engine,
    directory: PathBuf,
    group: String,
    netns: String,
    child: Option<Child>,
}

/// An engine that hangs.
#[derive(Debug)]
pub struct Hung(Pid);

impl Drop for Hung {
    fn drop(&mut self) {
        // It fails only for a process that has ended.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

impl Docker {
    /// Starts one in a world whose daemon has not been started, and has the daemon use it.
    pub fn start(world: &mut World, engine: Engine) -> Result<Self> {
        let mut docker = Self::prepare(world, engine);
        docker.start_again()?;
        docker.import_images()?;
        world.daemon_arguments.extend(["--docker-socket".to_owned(), docker.socket().display().to_string()]);
        Ok(docker)
    }

    fn prepare(world: &World, engine: Engine) -> Self {
        let directory = world.names.directory.join("docker");
        Self { engine, directory, group: world.names.engine_group(), netns: world.host.path(), child: None }
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("docker.sock")
    }

    /// Starts it, again after [`Self::stop`].
    pub fn start_again(&mut self) -> Result<()> {
        fs::create_dir_all(&self.directory)?;
        let mut command = match self.engine {
            Engine::Docker => self.dockerd(),
            Engine::Podman => self.podman()?,
        };
        let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("nsenter: Debian's package util-linux has it")?);
        let answers = || Ok(self.docker(&["version"]).is_ok());
        until("the container engine answers", PATIENCE, answers).with_context(|| self.log_tail())
    }

    fn dockerd(&self) -> Command {
        let at = |name: &str| self.directory.join(name);
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns)).args(["--", "dockerd"]);
        command.arg("--data-root").arg(at("data")).arg("--exec-root").arg(at("exec")).arg("--pidfile").arg(at("pid"));
        command.args(["--host", &format!("unix://{}", self.socket().display()), "--cgroup-parent", &self.group]);
        command.args(["--iptables=false", "--ip6tables=false", "--ip-masq=false", "--bip", &format!("{BRIDGE}/24")]);
        command.args(["--shutdown-timeout", "1"]);
        command
    }

    fn podman(&self) -> Result<Command> {
        let at = |name: &str| self.directory.join(name);
        let networks = format!("network_config_dir = \"{}\"\n", at("networks").display());
        fs::write(at("containers.conf"), format!("{PODMAN_SETTINGS}{networks}"))?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns))
            .args(["--", "podman"])
            .env("CONTAINERS_CONF", at("containers.conf"));
        command.arg("--root").arg(at("data")).arg("--runroot").arg(at("run")).arg("--tmpdir").arg(at("tmp"));
        command.args(["--storage-driver", "vfs", "system", "service", "--time", "0"]);
        command.arg(format!("unix://{}", self.socket().display()));
        Ok(command)
    }

    /// Asks it to stop; its containers end.
    pub fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let ended = until("the container engine stops", PATIENCE, || Ok(child.try_wait()?.is_some()));
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        ended
    }

    /// Answers nobody and does nothing, as an engine that hangs, until what is returned is dropped. Its containers go on.
    pub fn hang(&self) -> Result<Hung> {
        let child = self.child.as_ref().context("it does not run")?;
        let engine = Pid::from_raw(i32::try_from(child.id())?);
        kill(engine, Signal::SIGSTOP)?;
        Ok(Hung(engine))
    }

    /// `docker` with these words; what it printed, or what it complained of.
    pub fn docker(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display())).args(words).stdin(Stdio::null());
        let output = command.output().context("docker")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "docker {}: {complaint}", words.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// What a line of shell says in a container, and how it ends.
    pub fn sh(&self, container: &str, line: &str) -> Result<(i32, String)> {
        let line = format!("{line}\necho; echo $?");
        let all = self.docker(&["exec", container, "sh", "-c", &line])?;
        let (said, code) = all.rsplit_once('\n').unwrap_or(("", &all));
        Ok((code.parse()?, said.trim().to_owned()))
    }

    /// The names of all containers, running or not.
    pub fn containers(&self) -> Result<Vec<String>> {
        Ok(self.docker(&["ps", "--all", "--format", "{{.Names}}"])?.lines().map(str::to_owned).collect())
    }

    fn import_images(&self) -> Result<()> {
        let client = self.directory.join("client");
        fs::create_dir_all(client.join("bin"))?;
        fs::copy("/bin/busybox", client.join("bin/busybox")).context("Debian's package busybox-static has it")?;
        for program in PROGRAMS {
            symlink("busybox", client.join("bin").join(program))?;
        }
        for directory in ["etc/ssl/certs", "root", "tmp"] {
            fs::create_dir_all(client.join(directory))?;
        }
        fs::write(client.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n")?;
        fs::write(client.join("etc/ssl/certs/ca-certificates.crt"), "none\n")?;
        copy_program("curl", &client)?;
        self.import(&client, CLIENT)?;
        let bare = self.directory.join("bare");
        fs::create_dir_all(&bare)?;
        fs::copy("/bin/busybox", bare.join("busybox"))?;
        self.import(&bare, BARE)
    }

    fn import(&self, root: &Path, name: &str) -> Result<()> {
        let tar = root.with_extension("tar");
        let packed = Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&tar).arg(".").status()?;
        ensure!(packed.success(), "tar failed");
        self.docker(&["import", &tar.display().to_string(), name]).map(drop)
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!(
            "the engine's last words:\n{}",
            lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n")
        )
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if self.child.is_some() {
            // Those that are paused would hold it up.
            let ids = self.docker(&["ps", "-aq"]).unwrap_or_default();
            let words: Vec<&str> = ["rm", "--force"].into_iter().chain(ids.lines()).collect();
            let _ = self.docker(&words);
            let _ = self.stop();
        }
    }
}

/// A program of this machine and the libraries that it names, at the same paths.
fn copy_program(name: &str, root: &Path) -> Result<()> {
    let found = Command::new("sh").args(["-c", &format!("p=$(command -v {name}); echo $p; ldd $p")]).output()?;
    for line in String::from_utf8(found.stdout)?.lines() {
        let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
        let target = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(target.parent().context("no directory")?)?;
        fs::copy(path, target)?;
    }
    Ok(())
}
