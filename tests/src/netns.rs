//! Network namespaces that vanish with whoever made them.
//!
//! A namespace here is held by a file descriptor alone: it has no name that could collide with another run's, and when
//! the process ends, however it ends, the kernel takes it away with every interface in it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace with its loopback interface up.
#[derive(Debug)]
pub struct NetNs {
    handle: File,
}

impl NetNs {
    /// Makes an empty one.
    pub fn new() -> Result<Self> {
        let make = || -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            // Router solicitations and the like would be packets no test has sent.
            std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").ok();
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").ok();
            Ok(File::open("/proc/thread-self/ns/net")?)
        };
        let namespace = Self { handle: on_thread(make)? };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// That of a process.
    pub fn of_process(pid: u32) -> Result<Self> {
        Ok(Self { handle: File::open(format!("/proc/{pid}/ns/net"))? })
    }

    /// Runs `work` inside, on a thread of its own; processes it starts are inside too.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_thread(|| {
            setns(&self.handle, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
            work()
        })
    }

    /// A second handle of the same namespace.
    pub fn handle(&self) -> Result<Self> {
        Ok(Self { handle: self.handle.try_clone()? })
    }

    /// Runs `ip` with these words inside.
    pub fn ip(&self, words: &str) -> Result<String> {
        self.run(|| command("ip", words))
    }

    /// A path by which other processes reach it, as long as this one lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd())
    }

    /// The number of an interface inside.
    pub fn interface(&self, name: &str) -> Result<u32> {
        self.run(|| Ok(nix::net::if_::if_nametoindex(name)?))
    }
}

/// Runs a program with words separated by blanks; what it printed, or what it complained of.
pub fn command(program: &str, words: &str) -> Result<String> {
    let output = Command::new(program).args(words.split_whitespace()).output().with_context(|| program.to_owned())?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {words}: {complaint}");
    Ok(String::from_utf8(output.stdout)?)
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow!("the thread in the namespace panicked"))?
}
