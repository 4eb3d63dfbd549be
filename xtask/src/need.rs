//! What the machine must have, as data: how to see that it is there, and how to get it.
//!
//! Without `--install` nothing is changed: what is missing is named, with one line to paste.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::command;

/// What something is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// The test suites, privileged ones included.
    Test,
    /// Building the eBPF object.
    Ebpf,
    /// The demonstration.
    Demo,
    /// The measurements.
    Bench,
    /// Fuzzing.
    Fuzz,
    /// Building the documentation.
    Docs,
    /// What is checked besides tests.
    Check,
}

use Group::{Bench, Check, Demo, Ebpf, Fuzz, Test};

/// How to see that something is there.
#[derive(Clone, Copy, Debug)]
enum Probe {
    /// A program of this name.
    Program(&'static str),
    /// Debian's package database knows it.
    Package,
    /// `python3` can import a module of this name.
    PythonModule(&'static str),
}

/// One Debian package.
#[derive(Clone, Copy, Debug)]
struct Need {
    groups: &'static [Group],
    package: &'static str,
    probe: Probe,
}

const fn program(groups: &'static [Group], package: &'static str, program: &'static str) -> Need {
    Need { groups, package, probe: Probe::Program(program) }
}

const fn package(groups: &'static [Group], package: &'static str) -> Need {
    Need { groups, package, probe: Probe::Package }
}

const NEEDS: &[Need] = &[
    program(&[Test, Demo, Bench], "iproute2", "ip"),
    program(&[Test, Demo, Bench], "bpftool", "bpftool"),
    // Gates are made without it; tests look at them and tamper with them.
    program(&[Test], "nftables", "nft"),
    program(&[Test, Demo, Bench], "gcc", "cc"),
    // Java trusts a key store of its own, which a test looks into.
    program(&[Test], "openjdk-17-jre-headless", "keytool"),
    program(&[Test, Demo, Bench], "curl", "curl"),
    // What the documentation's commands use.
    program(&[Test], "sqlite3", "sqlite3"),
    program(&[Test], "procps", "sysctl"),
    // Pushes and fetches of tests, and the server that they go to.
    program(&[Test], "git", "git"),
    program(&[Test, Demo], "util-linux", "nsenter"),
    program(&[Test, Demo], "python3", "python3"),
    // What the SDKs that tests use run on, and are installed with.
    Need { groups: &[Test], package: "python3-venv", probe: Probe::PythonModule("ensurepip") },
    // Reads what is exported for Prometheus.
    package(&[Test], "python3-prometheus-client"),
    program(&[Test], "nodejs", "node"),
    program(&[Test], "npm", "npm"),
    // A real terminal for the dashboard.
    program(&[Test], "tmux", "tmux"),
    program(&[Test], "docker.io", "dockerd"),
    program(&[Test], "podman", "podman"),
    // Podman's networks.
    package(&[Test], "netavark"),
    // What is in the containers that tests run.
    package(&[Test], "busybox-static"),
    package(&[Test, Demo], "ca-certificates"),
    program(&[Bench], "nginx-light", "nginx"),
    program(&[Bench], "iperf3", "iperf3"),
    // A clean host to install on.
    program(&[Test], "debootstrap", "debootstrap"),
    // Looks at the unit.
    program(&[Check], "systemd", "systemd-analyze"),
    // libFuzzer is C++.
    program(&[Fuzz], "g++", "c++"),
    package(&[Ebpf], "rustc-web"),
    package(&[Ebpf], "cargo-web"),
    package(&[Ebpf], "rust-web-src"),
    package(&[Ebpf], "llvm-22-dev"),
    package(&[Ebpf], "libpolly-22-dev"),
    package(&[Ebpf], "zlib1g-dev"),
    package(&[Ebpf], "libzstd-dev"),
    package(&[Ebpf], "libxml2-dev"),
];

/// A program that is built from crates.io: what it is for, its name, the line that gets it.
type Built = (Group, &'static str, &'static str);

const BUILT: [Built; 2] = [(Ebpf, "bpf-linker", BPF_LINKER), (Group::Docs, "mdbook", MDBOOK)];
/// Links eBPF objects; on crates.io only. The environment points its build at Debian's LLVM.
const BPF_LINKER: &str = "LLVM_PREFIX=/usr/lib/llvm-22 PATH=/usr/lib/llvm-22/bin:$PATH \
    cargo install bpf-linker --version ^0.13 --no-default-features --features llvm-22";

/// Without searching and serving: nobody needs them, and they double the build.
const MDBOOK: &str = "cargo install mdbook --version ^0.5 --locked --no-default-features";

/// What the kernel must offer to run a gate: what, where it shows, what to do without.
const KERNEL: &[(&str, KernelProbe, &str)] = &[
    (
        "the bpf file system",
        KernelProbe::FileSystem("bpf"),
        "build the kernel with CONFIG_BPF_SYSCALL; in a container, mount /sys/fs/bpf from the host",
    ),
    (
        "type information (BTF)",
        KernelProbe::File("/sys/kernel/btf/vmlinux"),
        "build the kernel with CONFIG_DEBUG_INFO_BTF; every distribution's own kernel has it",
    ),
    (
        "control groups, version 2",
        KernelProbe::FileSystem("cgroup2"),
        "build the kernel with CONFIG_CGROUPS; beside version 1: mount -t cgroup2 none /sys/fs/cgroup/unified",
    ),
];

#[derive(Clone, Copy, Debug)]
enum KernelProbe {
    File(&'static str),
    FileSystem(&'static str),
}

/// What is missing of the needs of some groups.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    packages: Vec<&'static str>,
    built: Vec<Built>,
}

impl Missing {
    fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.built.is_empty()
    }
}

/// Sees to it that everything `groups` need is there: installs it when `install` (or the continuous integration) says
/// so, fails with the line to paste otherwise.
pub(crate) fn ensure(groups: &[Group], install: bool) -> anyhow::Result<()> {
    let missing = missing(groups);
    if missing.is_empty() {
        return Ok(());
    }
    if !(install || command::is_ci()) {
        bail!("{}", advice(&missing, command::is_root()));
    }
    self::install(&missing)?;
    let left = self::missing(groups);
    if !left.is_empty() {
        bail!("after installing, this is still missing. {}", advice(&left, command::is_root()));
    }
    Ok(())
}

/// Fails unless the kernel can hold a gate.
pub(crate) fn ensure_kernel() -> anyhow::Result<()> {
    let known = fs::read_to_string("/proc/filesystems").context("/proc is not mounted")?;
    let lacks: Vec<String> = KERNEL
        .iter()
        .filter(|(_, probe, _)| match probe {
            KernelProbe::File(path) => !Path::new(path).exists(),
            KernelProbe::FileSystem(name) => !offers_file_system(&known, name),
        })
        .map(|(what, _, remedy)| format!("  this kernel has no {what}: {remedy}"))
        .collect();
    if !lacks.is_empty() {
        bail!("no gate can run here:\n{}", lacks.join("\n"));
    }
    Ok(())
}

/// Fails unless run as root, naming the line that does.
pub(crate) fn ensure_root(task: &str) -> anyhow::Result<()> {
    if !command::is_root() {
        bail!("this makes network namespaces and loads gates, which needs root. Run:\n  {}", as_root(task));
    }
    Ok(())
}

/// The line that runs a task as root with this user's toolchain.
pub(crate) fn as_root(task: &str) -> String {
    format!("sudo --preserve-env=HOME env \"PATH=$PATH\" cargo xtask {task}")
}

fn missing(groups: &[Group]) -> Missing {
    let builds_ebpf = groups.contains(&Ebpf);
    let has_linker = command::find("bpf-linker").is_some();
    let built = BUILT.into_iter().filter(|(group, ..)| groups.contains(group));
    let built = built.filter(|(_, program, _)| command::find(program).is_none()).collect();
    // With these the object can be built without Debian's packages.
    let builds_with_rustup = builds_ebpf && has_linker && has_nightly_with_sources();
    let groups: Vec<Group> = groups.iter().copied().filter(|group| *group != Ebpf || !builds_with_rustup).collect();
    let packages = NEEDS
        .iter()
        .filter(|need| need.groups.iter().any(|group| groups.contains(group)))
        .filter(|need| match need.probe {
            Probe::Program(program) => command::find(program).is_none(),
            Probe::Package => !is_installed(need.package),
            Probe::PythonModule(module) => !has_python_module(module),
        })
        .map(|need| need.package)
        .collect();
    Missing { packages, built }
}

/// Asks the files that dpkg keeps, which needs no dpkg.
fn is_installed(package: &str) -> bool {
    let Ok(entries) = fs::read_dir("/var/lib/dpkg/info") else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.strip_suffix(".list").and_then(|stem| stem.split(':').next()) == Some(package)
    })
}

fn has_python_module(module: &str) -> bool {
    let mut python = Command::new("python3");
    let output = python.args(["-c", &format!("import {module}")]).output();
    output.is_ok_and(|output| output.status.success())
}

fn has_nightly_with_sources() -> bool {
    let mut rustc = Command::new("rustc");
    // A question must not install a toolchain.
    rustc.args(["+nightly", "--print", "sysroot"]).env("RUSTUP_AUTO_INSTALL", "0");
    let Ok(output) = rustc.output() else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success() && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir()
}

fn offers_file_system(proc_filesystems: &str, name: &str) -> bool {
    proc_filesystems.lines().any(|line| line.split_whitespace().last() == Some(name))
}

/// What is missing and one line that gets it.
fn advice(missing: &Missing, is_root: bool) -> String {
    let sudo = if is_root { "" } else { "sudo " };
    let mut steps = Vec::new();
    if !missing.packages.is_empty() {
        steps.push(format!("{sudo}apt-get update"));
        steps.push(format!("{sudo}apt-get install -y --no-install-recommends {}", missing.packages.join(" ")));
    }
    steps.extend(missing.built.iter().map(|(_, _, line)| (*line).to_owned()));
    let mut names = missing.packages.clone();
    names.extend(missing.built.iter().map(|(_, program, _)| program));
    format!(
        "this machine lacks: {}. Run the same command with --install, or:\n  {}",
        names.join(", "),
        steps.join(" && ")
    )
}

fn install(missing: &Missing) -> anyhow::Result<()> {
    if !missing.packages.is_empty() {
        if !command::is_root() {
            bail!("installing packages needs root. {}", advice(missing, false));
        }
        if command::find("apt-get").is_none() {
            bail!("there is no apt-get here; install what these Debian packages hold: {}", missing.packages.join(" "));
        }
        println!("installing: {}", missing.packages.join(" "));
        command::run(apt_get().arg("update"))?;
        command::run(apt_get().args(["install", "-y", "--no-install-recommends"]).args(&missing.packages))?;
    }
    for (_, program, line) in &missing.built {
        println!("installing: {program} (built from source, a minute or two)");
        command::run(Command::new("sh").args(["-c", line]))?;
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.args(["--quiet", "--quiet"]).env("DEBIAN_FRONTEND", "noninteractive").env("PATH", command::system_path());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_one_line_to_paste() {
        let missing = Missing { packages: vec!["curl", "bpftool"], built: Vec::new() };
        let text = advice(&missing, false);
        assert!(text.contains("this machine lacks: curl, bpftool."), "{text}");
        assert_eq!(
            text.lines().last().unwrap().trim(),
            "sudo apt-get update && sudo apt-get install -y --no-install-recommends curl bpftool"
        );
    }

    #[test]
    fn the_linker_comes_after_its_libraries() {
        let missing = Missing { packages: vec!["llvm-22-dev"], built: vec![(Ebpf, "bpf-linker", BPF_LINKER)] };
        let text = advice(&missing, true);
        let (packages, linker) = (text.find("apt-get install").unwrap(), text.find("cargo install").unwrap());
        assert!(packages < linker, "{text}");
        assert!(!text.contains("sudo"), "{text}");
    }

    #[test]
    fn file_systems_are_whole_words() {
        let known = "nodev\tsysfs\nnodev\tcgroup2\n\text4\n";
        assert!(offers_file_system(known, "cgroup2"));
        assert!(offers_file_system(known, "ext4"));
        assert!(!offers_file_system(known, "cgroup"));
    }
}
