//! A clean Debian, its own systemd running in namespaces of its own: the host of somebody who has just installed it.
//!
//! In memory, and gone with the test: a killed test process takes systemd along, and the next world removes the rest.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use super::names::Names;
use super::provider::Background;
use super::{PATIENCE, Said, leftovers, settings_of, until};
use crate::netns::NetNs;
use crate::privilege;
use crate::provider::{HOSTS, Served};

/// What a host has that a minimal Debian has not: an init, and the roots that programs trust.
const PACKAGES: &str = "systemd,ca-certificates,curl,util-linux";
/// Largest tree, of memory.
const TREE_BYTES_MAX: &str = "size=2g,mode=755";
/// How long systemd may take to have started what it starts.
const BOOT_MAX: Duration = Duration::from_secs(90);

/// Becomes pid 1 of a host. The tree is shared as systemd shares that of a real one.
const BOOT: &str = r#"set -e
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t bpf -o mode=700 bpf sys/fs/bpf
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir -p mnt
pivot_root . mnt
umount -l mnt
mount --make-rshared /
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=null --show-status=no
"#;

/// The host.
pub struct Debian {
    names: Names,
    root: PathBuf,
    init: Child,
    pid: u32,
    provider: Option<Background>,
}

impl Debian {
    /// Makes one and waits until it has started. `None`, and told so, where that cannot be tried.
    pub fn start(test: &str) -> Result<Option<Self>> {
        if !privilege::is_root(test)? {
            return Ok(None);
        }
        leftovers::remove_dead();
        let names = Names::fresh();
        let root = names.directory.join("root");
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&root)?;
        mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), Some(TREE_BYTES_MAX))?;
        let made = unpack(&root).and_then(|()| boot(&names, &root));
        let (init, pid) = made.inspect_err(|_| leftovers::remove(&names))?;
        let host = Self { names, root, init, pid, provider: None };
        until("systemd has started", BOOT_MAX, || {
            let state = host.run("systemctl is-system-running")?;
            Ok(matches!(state.output.trim(), "running" | "degraded"))
        })?;
        Ok(Some(host))
    }

    /// Puts a provider on the host, on whose loopback it is; returns the lines of settings that lead there.
    pub fn add_provider(&mut self) -> Result<String> {
        let provider = Background::start(&NetNs::of_process(self.pid)?)?;
        let settings = settings_of(&provider.provider, &HOSTS);
        fs::write(self.root.join("provider-ca.pem"), &provider.provider.ca_pem)?;
        self.provider = Some(provider);
        Ok(settings)
    }

    /// What the provider has served.
    #[must_use]
    pub fn served(&self) -> Vec<Served> {
        self.provider.as_ref().map(|provider| provider.provider.log()).unwrap_or_default()
    }

    /// Where a path of the host is on this machine; not of what it has mounted itself (`/run`, `/tmp`).
    #[must_use]
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A command that begins with what is to be run there, as root.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup"]);
        command.args([
            "--root",
            "env",
            "--chdir=/",
            "-i",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ]);
        command.args(["LANG=C.UTF-8", "HOME=/root", "TERM=dumb", "DEBIAN_FRONTEND=noninteractive"]).args(words);
        command
    }

    /// Runs a line of shell there, as root.
    pub fn run(&self, line: &str) -> Result<Said> {
        Ok(Said::of(&self.command(&["sh", "-c", line]).stdin(Stdio::null()).output()?))
    }

    /// The same; anything but success is an error that carries what was said.
    pub fn done(&self, line: &str) -> Result<String> {
        let said = self.run(line)?;
        ensure!(said.code == 0, "`{line}` ended with {}: {}{}", said.code, said.output, said.errors);
        Ok(said.output)
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        self.provider = None;
        // Both fail only for a process that has ended; all of the host ends with its first process.
        let _ = self.init.kill();
        let _ = self.init.wait();
        leftovers::remove(&self.names);
    }
}

/// Fills the tree. What comes from the mirror is fetched once for all hosts of this process.
fn unpack(root: &Path) -> Result<()> {
    /// The packed tree: a file without a name, so that nothing is left of it.
    static PACKED: Mutex<Option<File>> = Mutex::new(None);
    let mut packed = PACKED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = packed.as_ref() {
        return tar("--extract", file, root);
    }
    debootstrap(root)?;
    let file = tempfile::tempfile()?;
    tar("--create", &file, root)?;
    *packed = Some(file);
    Ok(())
}

/// Packs a tree into a file, or unpacks it.
fn tar(mode: &str, file: &File, root: &Path) -> Result<()> {
    // Opened anew: every reader has its own place in it.
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let mut tar = Command::new("tar");
    tar.args([mode, "--one-file-system", "--same-owner", "--xattrs", "--xattrs-include=*", "--file", &path]);
    let said = Said::of(&tar.arg("--directory").arg(root).arg(".").stdin(Stdio::null()).output()?);
    ensure!(said.code == 0, "tar {mode} failed: {}", said.errors);
    Ok(())
}

/// Fetches a tree from where this machine has its own packages from.
fn debootstrap(root: &Path) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release")?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.context("this machine is no Debian release")?;
    let mut sources = Command::new("apt-get");
    let output =
        sources.args(["indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"]).output()?;
    let listed = String::from_utf8(output.stdout)?;
    let mirror = listed.lines().find_map(|line| line.strip_prefix(codename)?.strip_prefix(' '));
    let mirror = mirror.with_context(|| format!("apt has no source of {codename}"))?;
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), codename]).arg(root).arg(mirror);
    let output = debootstrap.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "debootstrap failed: {}",
        said.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    );
    Ok(())
}

/// Starts its systemd; returns who holds it and which process it is.
fn boot(names: &Names, root: &Path) -> Result<(Child, u32)> {
    let group = leftovers::tree().context("there is no cgroup v2")?.join(&names.bridge);
    fs::create_dir_all(&group)?;
    // Ends with this thread; systemd with it.
    let line = format!(
        "echo $$ > {}/cgroup.procs && exec unshare --mount --net --pid --ipc --uts --cgroup --fork --kill-child \
         --propagation private sh -c \"$0\" sh {}",
        group.display(),
        root.display()
    );
    let mut unshare = Command::new("setpriv");
    unshare.args(["--pdeathsig", "KILL", "sh", "-c", &line, BOOT]).stdin(Stdio::null()).stdout(Stdio::null());
    let init = unshare.stderr(Stdio::null()).spawn()?;
    let children = format!("/proc/{0}/task/{0}/children", init.id());
    let mut pid = None;
    until("systemd is started", PATIENCE, || {
        let found = fs::read_to_string(&children).unwrap_or_default();
        pid = found.split_whitespace().next().and_then(|word| word.parse::<u32>().ok());
        let program = pid.and_then(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok());
        Ok(program.is_some_and(|program| program.ends_with("systemd")))
    })?;
    Ok((init, pid.context("systemd is not there")?))
}
