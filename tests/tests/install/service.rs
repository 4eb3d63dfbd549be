//! The package on a host with systemd, from its installation to its purge.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_userspace::control::{BottlesReply, StatusReply, UsageReply};
use egress_userspace::domain::{CutCause, GateView};
use harness::world::{Bottle, Debian, PATIENCE, curl, until};
use serde::de::DeserializeOwned;

use crate::built;

/// How long a daemon in these tests may be silent.
const WATCHDOG: Duration = Duration::from_secs(3);

/// What `egress` says there with `--json`.
fn json<T: DeserializeOwned>(host: &Debian, line: &str) -> Result<T> {
    Ok(serde_json::from_str(&host.done(&format!("egress {line} --json"))?)?)
}

fn gate(host: &Debian, name: &str) -> Result<GateView> {
    let reply: BottlesReply = json(host, "list")?;
    let found = reply.bottles.into_iter().find(|bottle| bottle.name.as_str() == name);
    Ok(found.with_context(|| format!("{name} is not listed"))?.gate)
}

fn daemon(host: &Debian) -> Result<StatusReply> {
    json(host, "status")
}

/// A shell in a bottle of that host.
fn shell(host: &Debian, name: &str, work: &str) -> Result<Bottle> {
    let line = format!("cd {work} && exec egress run {name} -- sh");
    let mut bottle = Bottle::start(host.command(&["sh", "-c", &line]))?;
    bottle.sh("true")?;
    Ok(bottle)
}

#[test]
fn a_clean_debian_gets_works_with_upgrades_and_loses_egress() -> Result<()> {
    let Some(mut host) = Debian::start("the package on a clean Debian")? else { return Ok(()) };
    built::package(&host.at("srv"))?;
    host.done("apt-get install --yes /srv/egress_*.deb").context("installing")?;
    what_is_installed(&host).context("what is installed")?;
    let settings = host.add_provider()?;
    fs::copy(host.at("provider-ca.pem"), host.at("var/lib/egress/provider-ca.pem"))?;
    fs::write(host.at("var/lib/egress/settings.yml"), format!("budget:\n  claude: 5M\n{settings}"))?;
    fs::write(host.at("var/lib/egress/routes.yaml"), "auth: passthrough\n")?;
    host.done("egress settings check && systemctl restart egress")?;
    users_work(&host).context("users")?;
    what_bottles_write(&host).context("what bottles write")?;
    restarts_and_upgrades(&host).context("restarts and upgrades")?;
    from_package_to_source(&host).context("from the package to source and back")?;
    a_hung_daemon_is_replaced(&host).context("the watchdog")?;
    removal(&host).context("removal")
}

fn what_is_installed(host: &Debian) -> Result<()> {
    ensure!(host.done("systemctl is-active egress")?.trim() == "active");
    ensure!(host.done("systemctl is-enabled egress")?.trim() == "enabled");
    let status = host.done("systemctl show --property StatusText egress")?;
    ensure!(status.starts_with("StatusText=enforcing by "), "{status}");
    let modes =
        host.done("stat --format '%a %U:%G' /var/lib/egress /run/egress /run/egress/control.sock /var/lib/egress/ca")?;
    assert_eq!(modes, "700 root:root\n755 root:root\n660 root:egress\n700 root:root\n");
    for file in [
        "/usr/share/man/man1/egress.1.gz",
        "/usr/share/man/man1/egress-run.1.gz",
        "/usr/share/bash-completion/completions/egress",
        "/usr/share/zsh/vendor-completions/_egress",
        "/usr/share/fish/vendor_completions.d/egress.fish",
    ] {
        host.done(&format!("test -s {file}")).with_context(|| format!("{file} is not there"))?;
    }
    let words = host.done(
        "bash -c 'source /usr/share/bash-completion/completions/egress; \
         COMP_WORDS=(egress appr); COMP_CWORD=1; _egress egress appr egress; echo ${COMPREPLY[*]}'",
    )?;
    assert_eq!(words.trim(), "approvals");
    let reply = daemon(host)?;
    let proxy = reply.proxy_pid.context("there is no proxy")?;
    let user = host.done(&format!("stat --format %U /proc/{proxy}"))?;
    ensure!(user.trim() == "egress", "the proxy is {user}'s");
    let capabilities = host.done(&format!("grep CapBnd /proc/{}/status", reply.pid))?;
    ensure!(!capabilities.contains("1ff"), "the daemon is not bounded: {capabilities}");
    ensure!(reply.not_enforcing.is_none(), "{reply:?}");
    Ok(())
}

/// The group may, others may not; homes are read-only to the service and written by bottles.
fn users_work(host: &Debian) -> Result<()> {
    host.done("useradd --create-home --groups egress ann && useradd --create-home bob")?;
    let line = curl("claude-test+input-100+output-50", true, "-o answer");
    let script = host.at("home/ann/ask");
    fs::write(&script, format!("{line}\nid --user --name > who\n"))?;
    host.done("chown ann ~ann/ask && su - ann -c 'egress run web -- sh ask'")?;
    assert_eq!(host.done("stat --format %U ~ann/answer && cat ~ann/who")?, "ann\nann\n");
    ensure!(fs::read_to_string(host.at("home/ann/answer"))?.contains("message_stop"), "no answer");
    let usage: UsageReply = json(host, "usage")?;
    let row = usage.rows.first().context("nothing was counted")?;
    assert_eq!((row.usage.input.0, row.usage.output.0), (100, 50));
    let refused = host.run("su - bob -c 'egress list'")?;
    assert_eq!(refused.code, 4, "{refused:?}");
    Ok(())
}

/// What the service may not write, bottles may: they are made from the host's mounts.
fn what_bottles_write(host: &Debian) -> Result<()> {
    for work in ["/srv/work", "/opt/work", "/tmp/work"] {
        host.done(&format!("mkdir {work} && cd {work} && egress run writer -- sh -c 'echo written > {work}/file'"))?;
        assert_eq!(host.done(&format!("cat {work}/file"))?, "written\n", "{work}");
    }
    host.done("cd /srv/work && egress run writer -- sh -c 'echo layer > /opt/from-bottle; cat /opt/from-bottle'")?;
    ensure!(host.run("test -e /opt/from-bottle")?.code != 0, "a bottle wrote to the host");
    let kept = host.done("cd /srv/work && egress run writer -- cat /opt/from-bottle")?;
    assert_eq!(kept, "layer\n", "the layer was lost");
    // A file of another user than root comes into the layer with its owner.
    let line = "mkdir side && echo host > file && cd side && egress run own -- sh -c 'echo bottle > ../file && stat -c %U ../file'";
    assert_eq!(host.done(&format!("su - ann -c \"{line}\""))?, "ann\n");
    assert_eq!(fs::read_to_string(host.at("home/ann/file"))?, "host\n");
    host.done("egress kill own")?;
    host.done("egress kill writer")?;
    Ok(())
}

fn restarts_and_upgrades(host: &Debian) -> Result<()> {
    let (mut open, mut closed) = (shell(host, "open", "/srv/work")?, shell(host, "closed", "/srv/work")?);
    assert_eq!(open.ask("claude-test")?.status, 200);
    host.done("egress cut closed")?;
    let before: UsageReply = json(host, "usage")?;
    for deed in [
        "systemctl restart egress",
        "systemctl kill --signal=KILL egress",
        "dpkg --install /srv/egress_*.deb",
        "systemctl stop egress && systemctl start egress",
    ] {
        let old = daemon(host)?.pid;
        host.done(deed).context(deed)?;
        until("there is another daemon", PATIENCE, || Ok(daemon(host).is_ok_and(|reply| reply.pid != old)))?;
        assert_eq!((gate(host, "open")?, gate(host, "closed")?), (GateView::Open, GateView::Cut(CutCause::Operator)));
        ensure!(closed.sh("curl -s --max-time 1 https://api.anthropic.com/v1/models")?.code != 0, "{deed}: it opened");
        let after: UsageReply = json(host, "usage")?;
        assert_eq!(before.rows, after.rows, "{deed}");
    }
    until("requests are answered", PATIENCE, || Ok(open.ask("claude-test")?.status == 200))?;
    host.done("egress restore closed")?;
    assert_eq!(closed.ask("claude-test")?.status, 200);
    host.done("egress kill open && egress kill closed")?;
    Ok(())
}

fn a_hung_daemon_is_replaced(host: &Debian) -> Result<()> {
    let place = host.at("etc/systemd/system/egress.service.d");
    fs::create_dir_all(&place)?;
    fs::write(place.join("soon.conf"), format!("[Service]\nWatchdogSec={}\n", WATCHDOG.as_secs()))?;
    host.done("systemctl daemon-reload && systemctl restart egress")?;
    let first = daemon(host)?.pid;
    std::thread::sleep(WATCHDOG * 2);
    assert_eq!(daemon(host)?.pid, first, "a daemon that works was replaced");
    host.done(&format!("kill -STOP {first}"))?;
    let is_replaced = || Ok(host.run("timeout 2 egress status --json")?.output.contains("\"pid\""));
    until("the daemon is replaced", PATIENCE, is_replaced)?;
    ensure!(daemon(host)?.pid != first, "it is the same one");
    let result = host.done("systemctl show --property NRestarts egress")?;
    ensure!(result.trim() != "NRestarts=0", "{result}");
    Ok(())
}

fn removal(host: &Debian) -> Result<()> {
    host.done("dpkg --remove egress")?;
    ensure!(host.run("test -e /usr/bin/egress")?.code != 0, "the program is left");
    host.done("test -s /var/lib/egress/bot-bottle.db").context("the ledger went with the program")?;
    host.done("dpkg --purge egress")?;
    ensure!(host.run("test -e /var/lib/egress")?.code != 0, "the ledger is left");
    ensure!(host.run("systemctl cat egress")?.code != 0, "the unit is left");
    Ok(())
}

/// What was spent is taken over by an installation from source.
fn from_package_to_source(host: &Debian) -> Result<()> {
    built::source(host)?;
    let install = format!("cd {} && cargo xtask install", built::SOURCE);
    let refused = host.run(&install)?;
    ensure!(refused.code != 0 && refused.errors.contains("installed from a package"), "{refused:?}");
    let before: UsageReply = json(host, "usage")?;
    host.done("dpkg --remove egress && test -s /var/lib/egress/bot-bottle.db")?;
    host.done(&install)?;
    let after: UsageReply = json(host, "usage")?;
    assert_eq!(before.rows, after.rows);
    host.done(&format!("cd {} && cargo xtask uninstall --keep-ledger", built::SOURCE))?;
    host.done("apt-get install --yes /srv/egress_*.deb && systemctl enable --now egress").map(drop)
}

/// The same without a package: the tool installs, changes nothing when run again, and asks before the ledger goes.
#[test]
fn the_tool_installs_again_and_removes() -> Result<()> {
    let Some(host) = Debian::start("installing on a clean Debian")? else { return Ok(()) };
    built::source(&host)?;
    let tool = format!("cd {} && cargo xtask", built::SOURCE);
    let install = format!("{tool} install");
    let planned = host.done(&format!("{install} --dry-run"))?;
    ensure!(planned.contains("systemctl enable egress.service"), "{planned}");
    ensure!(host.run("getent group egress")?.code != 0, "a dry run changed something");
    let first = host.done(&install)?;
    ensure!(first.contains("egress.service runs … done"), "{first}");
    let pid = daemon(&host)?.pid;
    let second = host.done(&install)?;
    let (steps, same) = (second.matches("] ").count(), second.matches("… already so").count());
    ensure!(steps > 10 && steps == same, "{second}");
    assert_eq!(daemon(&host)?.pid, pid, "the daemon was started again for nothing");
    let refused = host.run(&format!("dpkg --install {}/target/packages/*.deb", built::SOURCE))?;
    ensure!(refused.code != 0 && refused.errors.contains("is installed from source here"), "{refused:?}");
    assert_eq!(daemon(&host)?.pid, pid, "a package that was refused did something");
    let mut bottle = shell(&host, "web", "/srv")?;
    // Another program by its bytes, the same by what it does.
    host.done(&format!("echo >> {}/{}", built::SOURCE, built::PROGRAM))?;
    let upgraded = host.done(&install)?;
    ensure!(upgraded.contains("egress.service runs … done"), "{upgraded}");
    ensure!(daemon(&host)?.pid != pid && bottle.sh("true")?.code == 0, "{upgraded}");
    let refused = host.run(&format!("{tool} uninstall"))?;
    ensure!(refused.code != 0 && refused.errors.contains("web"), "{refused:?}");
    host.done("egress kill web")?;
    host.done(&format!("{tool} uninstall"))?;
    host.done("test -s /var/lib/egress/bot-bottle.db").context("the ledger went without a word")?;
    ensure!(host.run("test -e /usr/local/bin/egress -o -e /run/egress -o -e /sys/fs/bpf/egress")?.code != 0, "left");
    host.done(&format!("{tool} uninstall --purge"))?;
    ensure!(host.run("test -e /var/lib/egress")?.code != 0, "the ledger is left");
    Ok(())
}
