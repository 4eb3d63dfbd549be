//! What egress needs of the host: privilege, the kernel's features, programs, addresses.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use nix::ifaddrs::getifaddrs;
use nix::unistd::{Group, User, geteuid};

use super::Options;
use super::report::{Area, Verdict};
use super::throwaway::{Place, on_thread};

/// The first kernel with everything that bottles need (`cgroup.kill`).
const KERNEL_MIN: (u32, u32) = (5, 14);
/// The first with tcx links.
const KERNEL_TCX: (u32, u32) = (6, 6);
/// The user the proxy runs as, and the group that may control egress.
const NAME: &str = "egress";
/// Chains that the nftables gates need: on an interface, both ways.
const CHAINS: &str = "add table netdev egress_doctor
add chain netdev egress_doctor i { type filter hook ingress device \"lo\" priority 0; }
add chain netdev egress_doctor e { type filter hook egress device \"lo\" priority 0; }
";

pub(super) fn look(options: &Options, area: &mut Area<'_>) {
    privilege(area);
    kernel(area);
    programs(area);
    accounts(area);
    addresses(options, area);
}

fn privilege(area: &mut Area<'_>) {
    if geteuid().is_root() {
        area.check("privilege", Verdict::Holds, "root");
    } else {
        let says =
            "not root: the gates, the files of the daemon and the bottles are not looked at; run `sudo egress doctor`";
        area.check("privilege", Verdict::NotChecked, says);
    }
}

fn kernel(area: &mut Area<'_>) {
    let release = read("/proc/sys/kernel/osrelease");
    area.result(
        "kernel",
        match version(&release) {
            Some(version) if version < KERNEL_MIN => Err(format!("Linux {release}: 5.14 or later is needed")),
            Some(version) if version < KERNEL_TCX => {
                Ok(format!("Linux {release}: gates by clsact, as tcx came with 6.6"))
            }
            Some(_) => Ok(format!("Linux {release}: gates by tcx")),
            None => Err(format!("Linux {release:?} is no version that is understood")),
        },
    );
    let systems = read("/proc/filesystems");
    let has = |name: &str| systems.lines().any(|line| line.split_whitespace().last() == Some(name));
    for (name, is_there, needs) in [
        ("BPF file system", has("bpf"), "CONFIG_BPF_SYSCALL"),
        ("cgroup v2", has("cgroup2"), "CONFIG_CGROUPS"),
        ("overlay file system", has("overlay"), "CONFIG_OVERLAY_FS (`modprobe overlay`)"),
        ("network namespaces", exists("/proc/self/ns/net"), "CONFIG_NET_NS"),
        ("seccomp", exists("/proc/sys/kernel/seccomp/actions_avail"), "CONFIG_SECCOMP_FILTER"),
    ] {
        area.result(name, if is_there { Ok("there".into()) } else { Err(format!("the kernel lacks it: {needs}")) });
    }
    let modules = read("/sys/kernel/security/lsm");
    let (verdict, says) = match (modules.is_empty(), modules.contains("landlock")) {
        (true, _) => {
            (Verdict::NotChecked, "securityfs is not mounted; the daemon's log says whether the proxy is confined")
        }
        (false, true) => (Verdict::Holds, "there"),
        (false, false) => (
            Verdict::Warning,
            "not switched on: the proxy is confined by seccomp alone; add landlock to lsm= of the kernel's command line",
        ),
    };
    area.check("Landlock", verdict, says);
    let btf = exists("/sys/kernel/btf/vmlinux");
    let says = if btf { "there" } else { "not there: gates work, but bpftool cannot print their maps by name" };
    area.check("BTF", if btf { Verdict::Holds } else { Verdict::Warning }, says);
}

/// `6.18.5+deb12` is 6.18.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn programs(area: &mut Area<'_>) {
    match Command::new("nft").arg("--version").output() {
        Err(_) => {
            area.check(
                "nft",
                Verdict::NotChecked,
                "not here; gates by nftables do without it, but it shows them (`apt install nftables`)",
            );
        }
        Ok(_) if !geteuid().is_root() => area.check("nft", Verdict::NotChecked, "here; whether it works needs root"),
        Ok(_) => match on_thread(Place::Private, || Ok(nft_works())) {
            Ok(Ok(())) => area.check("nft", Verdict::Holds, "chains on interfaces, both ways"),
            Ok(Err(says)) => area.check("nft", Verdict::Warning, format!("no gates by nftables here: {says}")),
            Err(error) => area.check("nft", Verdict::NotChecked, error.to_string()),
        },
    }
    let sockets = ["/var/run/docker.sock", "/run/podman/podman.sock"];
    let found: Vec<&str> = sockets.into_iter().filter(|socket| exists(socket)).collect();
    if found.is_empty() {
        area.check("containers", Verdict::NotChecked, "neither Docker nor Podman is here");
    } else {
        area.check("containers", Verdict::Holds, found.join(", "));
    }
}

fn nft_works() -> Result<(), String> {
    use std::io::Write;
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut run = || {
        let mut child = nft.spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(CHAINS.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| error.to_string())?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(complaint.lines().next().unwrap_or_default().to_owned()) }
}

fn accounts(area: &mut Area<'_>) {
    let user = User::from_name(NAME).ok().flatten().is_some();
    let says = if user {
        "the proxy's own"
    } else {
        "not there: the proxy runs as nobody; `useradd --system egress` gives it its own"
    };
    area.check("user egress", if user { Verdict::Holds } else { Verdict::Warning }, says);
    let group = Group::from_name(NAME).ok().flatten().is_some();
    let says = if group {
        "its members may control egress"
    } else {
        "not there: only root may control egress; `groupadd --system egress` makes it"
    };
    area.check("group egress", if group { Verdict::Holds } else { Verdict::Warning }, says);
}

fn addresses(options: &Options, area: &mut Area<'_>) {
    let Options { gateway, bridge, .. } = options;
    area.result(
        "gateway address",
        match holder(*gateway) {
            None => Ok(format!("{gateway} is free")),
            Some(name) if name == *bridge => Ok(format!("{gateway} is on {bridge}")),
            Some(name) => Err(format!("{gateway} is on {name}: `egress daemon --gateway` chooses another")),
        },
    );
    let local = |name: &str| read(&format!("/proc/sys/net/ipv4/conf/{name}/route_localnet")) == "1";
    if local("all") || local(bridge) {
        let says =
            "on: nothing but the gates keeps bottles from 127.0.0.1; `sysctl net.ipv4.conf.all.route_localnet=0`";
        area.check("route_localnet", Verdict::Warning, says);
    } else {
        area.check("route_localnet", Verdict::Holds, "off");
    }
    let forward = read("/proc/sys/net/ipv4/ip_forward") == "1";
    let says = if forward { "on: nothing but the gates keeps bottles from the host's networks" } else { "off" };
    area.check("ip_forward", Verdict::Holds, says);
    let filter = [read("/proc/sys/net/ipv4/conf/all/rp_filter"), read("/proc/sys/net/ipv4/conf/default/rp_filter")];
    area.check("rp_filter", Verdict::Holds, format!("{}: the gates check source addresses", filter.join(" and ")));
}

fn holder(gateway: Ipv4Addr) -> Option<String> {
    let found = getifaddrs().ok()?.find(|found| {
        found
            .address
            .as_ref()
            .and_then(|address| address.as_sockaddr_in())
            .is_some_and(|address| address.ip() == gateway)
    });
    found.map(|found| found.interface_name)
}

fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_release_begins_with_its_version() {
        for (release, expected) in [
            ("6.18.5+deb12-amd64", Some((6, 18))),
            ("5.14", Some((5, 14))),
            ("6.1-rc3", Some((6, 1))),
            ("six", None),
            ("", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }
}
