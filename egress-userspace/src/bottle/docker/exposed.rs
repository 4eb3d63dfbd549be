//! What of a container is the host's, so that the container can do away with its gate or go around it. Pure.
//!
//! A gate is on the host's end of a veth: it holds whoever is root of the container's own namespaces, and nobody who can act
//! in those of the host.

use std::path::{Path, PathBuf};

use bollard::models::HostConfig;

use crate::bottle::native::files::{FRESH, SYSTEM_TREES, without_dots};

/// Capabilities that reach out of a container's namespaces. `NET_ADMIN` does not: the network that it is over ends at the gate.
const CAPABILITIES: [&str; 10] = [
    "ALL",
    "BPF",
    "DAC_READ_SEARCH",
    "PERFMON",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_PTRACE",
    "SYS_RAWIO",
    // Budgets are counted by the host's clock.
    "SYS_TIME",
];

/// Devices that say and do nothing beyond the process that has them, and those for computing, pictures and sound.
const HARMLESS_DEVICES: [&str; 11] = [
    "/dev/dri",
    "/dev/full",
    "/dev/fuse",
    "/dev/kfd",
    "/dev/kvm",
    "/dev/net/tun",
    "/dev/null",
    "/dev/random",
    "/dev/snd",
    "/dev/urandom",
    "/dev/zero",
];
/// What follows is a number or a part of the driver.
const NVIDIA: &str = "/dev/nvidia";

/// May be read: nothing there does anything for whoever does not write.
const KERNEL_SETTINGS: &str = "/sys";
/// Within the container's own [`FRESH`] trees, what engines keep from being written unless they are told not to.
const SYSTEM_CALL_SETTINGS: &str = "/proc/sys";

/// Which of the ways in which a container was made gives it the host.
pub(super) fn privilege(host: &HostConfig) -> Option<String> {
    if host.privileged == Some(true) {
        return Some("it is privileged".to_owned());
    }
    let pid_mode = host.pid_mode.as_deref().unwrap_or_default();
    if !matches!(pid_mode, "" | "private") {
        return Some(format!("it has a hold on processes outside of it (--pid {pid_mode})"));
    }
    let capability = host.cap_add.iter().flatten().find(|name| is_over_the_host(name));
    if let Some(name) = capability {
        return Some(format!("it has the capability {name}, which is over the host"));
    }
    let devices = host.devices.iter().flatten().filter_map(|device| device.path_on_host.as_deref());
    let mut devices = devices.filter(|device| !is_harmless(Path::new(device)));
    let rules = host.device_cgroup_rules.iter().flatten().map(String::as_str);
    if let Some(device) = devices.next().or_else(|| rules.into_iter().next()) {
        return Some(format!("it has devices of the host ({device})"));
    }
    let mut options = host.security_opt.iter().flatten();
    if let Some(option) = options.find(|option| is_unconfined(option)) {
        return Some(format!("it is not confined ({option})"));
    }
    let may_write_settings = |paths: &Vec<String>| !paths.iter().any(|path| path == SYSTEM_CALL_SETTINGS);
    let is_open = host.readonly_paths.as_ref().is_some_and(may_write_settings);
    is_open.then(|| format!("it may write the host's settings in {SYSTEM_CALL_SETTINGS}"))
}

/// What no bottle is to have of the host and this path gives, by its real name: the same that native bottles do not see, or
/// cannot write as root. `hidden` are real paths, too.
pub(super) fn place<'a>(path: &Path, is_writable: bool, hidden: &'a [PathBuf]) -> Option<&'a Path> {
    if is_harmless(path) {
        return None;
    }
    let may_be_read = |tree: &&Path| *tree == Path::new(KERNEL_SETTINGS);
    let never = FRESH.map(Path::new).into_iter().filter(|tree| is_writable || !may_be_read(tree));
    let written = SYSTEM_TREES.map(Path::new).into_iter().filter(|_| is_writable);
    let mut trees = hidden.iter().map(PathBuf::as_path).chain(never).chain(written);
    trees.find(|tree| path.starts_with(tree) || tree.starts_with(path))
}

/// Engines take capabilities with and without the prefix.
fn is_over_the_host(capability: &str) -> bool {
    let name = capability.to_ascii_uppercase();
    CAPABILITIES.contains(&name.strip_prefix("CAP_").unwrap_or(&name))
}

fn is_harmless(device: &Path) -> bool {
    let device = without_dots(device);
    let is_nvidia = device.as_os_str().as_encoded_bytes().starts_with(NVIDIA.as_bytes());
    is_nvidia || HARMLESS_DEVICES.iter().any(|harmless| device.starts_with(harmless))
}

/// Without its filter for system calls a container has sockets that no network namespace holds, `AF_VSOCK` among them.
fn is_unconfined(option: &str) -> bool {
    let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
    matches!((name, value), ("seccomp" | "systempaths", "unconfined")) || name == "unmask"
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::DeviceMapping;

    fn check(host: &HostConfig, expected: Option<&str>) {
        let found = privilege(host);
        match expected {
            Some(text) => assert!(found.as_ref().is_some_and(|found| found.contains(text)), "{host:?}: {found:?}"),
            None => assert_eq!(found, None, "{host:?}"),
        }
    }

    fn words(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn a_container_over_the_host_is_told_from_one_over_itself() {
        check(&HostConfig::default(), None);
        check(&HostConfig { privileged: Some(true), ..HostConfig::default() }, Some("privileged"));
        for (mode, expected) in [
            ("", None),
            ("private", None),
            ("host", Some("--pid host")),
            ("container:abc", Some("--pid container:abc")),
        ] {
            check(&HostConfig { pid_mode: Some(mode.to_owned()), ..HostConfig::default() }, expected);
        }
        for (name, is_refused) in [
            ("CAP_SYS_ADMIN", true),
            ("sys_module", true),
            ("ALL", true),
            ("BPF", true),
            ("DAC_READ_SEARCH", true),
            ("NET_ADMIN", false),
            ("CAP_NET_RAW", false),
            ("SYS_NICE", false),
        ] {
            let host = HostConfig { cap_add: words(&["CHOWN", name]), ..HostConfig::default() };
            check(&host, is_refused.then_some(name));
        }
        for (option, is_refused) in [
            ("seccomp=unconfined", true),
            ("seccomp:unconfined", true),
            ("systempaths=unconfined", true),
            ("unmask=ALL", true),
            ("no-new-privileges", false),
            ("label=disable", false),
            ("seccomp={}", false),
        ] {
            let host = HostConfig { security_opt: words(&[option]), ..HostConfig::default() };
            check(&host, is_refused.then_some(option));
        }
        check(&HostConfig { readonly_paths: words(&["/proc/bus", "/proc/sys"]), ..HostConfig::default() }, None);
        check(&HostConfig { readonly_paths: words(&[]), ..HostConfig::default() }, Some("/proc/sys"));
    }

    #[test]
    fn devices_of_the_host_are_told_from_those_that_do_nothing() {
        for (path, is_refused) in [
            ("/dev/sda", true),
            ("/dev/mem", true),
            ("/dev", true),
            ("/dev/vhost-vsock", true),
            ("/dev/null0", true),
            ("/dev/nvidia/../sda", true),
            ("/dev/dri/../sda", true),
            ("/dev/nvidia0", false),
            ("/dev/kvm", false),
            ("/dev/dri/card0", false),
        ] {
            let device = DeviceMapping { path_on_host: Some(path.to_owned()), ..DeviceMapping::default() };
            let host = HostConfig { devices: Some(vec![device]), ..HostConfig::default() };
            check(&host, is_refused.then_some(path));
        }
        check(&HostConfig { device_cgroup_rules: words(&["b 8:* rwm"]), ..HostConfig::default() }, Some("b 8:* rwm"));
    }

    #[test]
    fn places_that_lead_out_are_told_from_files() {
        let hidden = ["/var/lib/egress", "/var/lib/docker", "/srv/docker.sock"].map(PathBuf::from);
        for (path, when_read, when_written) in [
            ("/", Some("/var/lib/egress"), Some("/var/lib/egress")),
            ("/srv/docker.sock", Some("/srv/docker.sock"), Some("/srv/docker.sock")),
            ("/srv", Some("/srv/docker.sock"), Some("/srv/docker.sock")),
            ("/var/lib/docker/containers/1", Some("/var/lib/docker"), Some("/var/lib/docker")),
            ("/var/lib/egress/bot-bottle.db", Some("/var/lib/egress"), Some("/var/lib/egress")),
            ("/run/podman/podman.sock", Some("/run"), Some("/run")),
            ("/proc", Some("/proc"), Some("/proc")),
            ("/dev/sda", Some("/dev"), Some("/dev")),
            ("/dev/null", None, None),
            ("/sys/fs", None, Some("/sys")),
            ("/etc/localtime", None, Some("/etc")),
            ("/usr", None, Some("/usr")),
            ("/var/lib/postgres", None, None),
            ("/var/lib/docker-data", None, None),
            ("/srv/of/mine", None, None),
        ] {
            let found = |is_writable| place(Path::new(path), is_writable, &hidden).and_then(Path::to_str);
            assert_eq!((found(false), found(true)), (when_read, when_written), "{path}");
        }
    }
}
