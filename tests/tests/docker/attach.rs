//! `egress attach`: containers that ran before, on networks of their engine.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::{AuditKind, BottleState, CutCause, GateView, RuntimeKind};
use egress_userspace::fault::{FAULT_VARIABLE, Point};
use harness::docker::{BRIDGE, CLIENT, Docker};
use harness::world::{PATIENCE, World, curl, until};

use crate::world;

const PORT: u16 = 7_777;
/// Tries without end to reach the host by the engine's bridge.
const PROBER: &str = "while true; do nc -w 1 172.29.213.1 7777 </dev/null; done";

/// Something of the host's that containers reach by the bridge; counts who does.
struct Host(Arc<AtomicUsize>);

impl Host {
    fn listen(world: &World) -> Result<Self> {
        let listener = world.host.run(|| Ok(TcpListener::bind(("0.0.0.0", PORT))?))?;
        let reached = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reached);
        // Lives as long as the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(usize::from(stream.is_ok()), Ordering::Relaxed);
            }
        });
        Ok(Self(reached))
    }

    fn reached(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One request by curl in a container; its status.
fn ask(docker: &Docker, container: &str) -> Result<String> {
    let options = "-o /dev/null -w '%{http_code}' --cacert /etc/ssl/certs/ca-certificates.crt";
    Ok(docker.sh(container, &curl("claude-test", true, options))?.1)
}

fn attach(world: &World, container: &str) -> Result<()> {
    attach_as(world, "web", container)
}

fn attach_as(world: &World, bottle: &str, container: &str) -> Result<()> {
    let said = world.egress(&["attach", bottle, "--container", container])?;
    ensure!(said.code == 0 && said.output.contains("behind a gate"), "{said:?} {}", world.log_tail());
    Ok(())
}

#[test]
fn an_attached_container_reaches_the_proxy_alone_and_is_given_back() -> Result<()> {
    let Some((docker, world)) = world("attaching a container", "")? else { return Ok(()) };
    let host = Host::listen(&world)?;
    docker.docker(&["network", "create", "--subnet", "172.29.214.0/24", "other"])?;
    docker.docker(&["run", "-d", "--name", "neighbour", CLIENT, "nc", "-ll", "-p", "7777", "-e", "true"])?;
    let neighbour = docker.docker(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", "neighbour"])?;
    docker.docker(&["run", "-d", "--cap-add", "NET_ADMIN", "--name", "target", CLIENT, "sleep", "7000"])?;
    docker.docker(&["network", "connect", "--alias", "known", "other", "target"])?;
    let try_all = format!(
        "for to in {BRIDGE} {neighbour} 172.29.214.1; do nc -w 1 $to {PORT} </dev/null && echo reached $to; done; true"
    );
    let before = docker.sh("target", &try_all)?.1;
    assert_eq!(before.lines().count(), 3, "{before}");
    let count = host.reached();

    attach(&world, "target")?;
    let listed = world.bottle("web")?;
    assert_eq!((listed.runtime, listed.state), (RuntimeKind::Docker, BottleState::Running));
    assert_eq!(docker.sh("target", &try_all)?.1, "");
    assert_eq!(ask(&docker, "target")?, "200");
    assert_eq!(world.rows("web")?.len(), 1);
    // Root of its network tries to go around.
    let around = format!(
        "ip route add 172.29.213.0/24 dev eth0; ip addr add 172.29.213.77/24 dev eth0; ip link add around type veth; \
         ip route add default via {BRIDGE}; ip route add {neighbour}/32 dev eth0; {try_all}"
    );
    let around = docker.sh("target", &around)?.1;
    ensure!(!around.contains("reached"), "{around}");
    assert_eq!(host.reached(), count);
    ensure!(docker.docker(&["network", "connect", "bridge", "target"]).is_err(), "it can be put on a network");
    ensure!(world.bottle("web")?.dropped_packets > 0, "nothing was counted");

    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    ensure!(ask(&docker, "target")? != "200", "the cut does not hold");
    assert_eq!(world.egress(&["restore", "web"])?.code, 0);
    assert_eq!(ask(&docker, "target")?, "200");

    let said = world.egress(&["detach", "web"])?;
    ensure!(said.code == 0 && said.output.contains("detached"), "{said:?}");
    ensure!(world.listed("web")?.is_none(), "it is still listed");
    let networks = docker.docker(&["inspect", "--format", "{{json .NetworkSettings.Networks}}", "target"])?;
    ensure!(networks.contains("bridge") && networks.contains("other") && !networks.contains("none"), "{networks}");
    ensure!(networks.contains("known"), "its alias is lost: {networks}");
    let links = docker.sh("target", "ip link | grep -c eth; cat /etc/ssl/certs/ca-certificates.crt")?.1;
    ensure!(links.ends_with("none"), "our CA is left: {links}");
    Ok(())
}

#[test]
fn no_restart_opens_a_way_around() -> Result<()> {
    let Some((mut docker, mut world)) = world("restarts of a container", "")? else { return Ok(()) };
    let host = Host::listen(&world)?;
    docker.docker(&["run", "-d", "--restart", "always", "--name", "target", CLIENT, "sh", "-c", PROBER])?;
    until("the prober reaches the host", PATIENCE, || Ok(host.reached() > 0))?;
    attach(&world, "target")?;
    // What was on its way when the container left its networks.
    sleep(Duration::from_millis(300));
    let count = host.reached();
    for _ in 0..17 {
        docker.docker(&["restart", "--time", "0", "target"])?;
    }
    for _ in 0..3 {
        let pid = docker.docker(&["inspect", "--format", "{{.State.Pid}}", "target"])?;
        docker.docker(&["kill", "target"]).ok();
        docker.docker(&["start", "target"]).ok();
        let is_new = || {
            let now = docker.docker(&["inspect", "--format", "{{.State.Pid}}", "target"])?;
            Ok(now != pid && now != "0")
        };
        until("it is started again", PATIENCE, is_new)?;
    }
    let is_served = |docker: &Docker| Ok(ask(docker, "target").is_ok_and(|status| status == "200"));
    until("the proxy is reached again", PATIENCE, || is_served(&docker)).with_context(|| world.log_tail())?;
    assert_eq!(host.reached(), count, "a restart was a way around");

    // A cut holds over a restart.
    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    let pid = world.bottle("web")?.pid;
    docker.docker(&["restart", "--time", "0", "target"])?;
    until("it is gated again", PATIENCE, || Ok(world.bottle("web")?.pid != pid))?;
    ensure!(ask(&docker, "target")? != "200", "the cut did not hold");
    assert_eq!(world.bottle("web")?.gate, GateView::Cut(CutCause::Operator));
    assert_eq!(world.egress(&["restore", "web"])?.code, 0);
    until("restored, it is reached", PATIENCE, || is_served(&docker))?;

    // Without a daemon it has no network; the next one finds it.
    world.kill_daemon_and_proxy()?;
    docker.docker(&["restart", "--time", "0", "target"])?;
    assert_eq!(docker.sh("target", "ip link | grep -c eth")?.1, "0");
    world.start_daemon()?;
    until("the next daemon gates it", PATIENCE, || is_served(&docker)).with_context(|| world.log_tail())?;

    docker.stop()?;
    docker.start_again()?;
    until("after a restart of the engine", PATIENCE * 2, || is_served(&docker)).with_context(|| world.log_tail())?;
    assert_eq!(host.reached(), count, "a restart was a way around");
    docker.docker(&["rm", "--force", "target"])?;
    until("its bottle ends with it", PATIENCE, || Ok(world.listed("web")?.is_none()))
}

#[test]
fn what_cannot_be_gated_is_refused() -> Result<()> {
    let Some((mut docker, world)) = world("refusals of containers", "")? else { return Ok(()) };
    for (name, network) in [("hosts", "host"), ("nobodys", "none"), ("plain", "bridge"), ("others", "container:plain")]
    {
        docker.docker(&["run", "-d", "--name", name, "--network", network, CLIENT, "sleep", "7001"])?;
    }
    docker.docker(&["create", "--name", "idle", CLIENT, "true"])?;
    let refusals = [
        ("hosts", "host's network"),
        ("nobodys", "no network"),
        ("others", "another container"),
        ("idle", "does not run"),
        ("missing", "no such container"),
    ];
    for (container, why) in refusals {
        let said = world.egress(&["attach", "web", "--container", container])?;
        ensure!(said.code == 1 && said.errors.contains(why), "{container}: {said:?}");
    }
    attach(&world, "plain")?;
    let again = world.egress(&["attach", "else", "--container", "plain"])?;
    ensure!(again.code == 1 && again.errors.contains("in a bottle already"), "{again:?}");
    let ended = world.egress(&["run", "new", "--image", "missing", "--", "true"])?;
    ensure!(ended.code == 1 && ended.errors.contains("docker pull missing"), "{ended:?}");
    let ended = world.egress(&["run", "new", "--image", CLIENT])?;
    ensure!(ended.code == 1 && ended.errors.contains("names no command"), "{ended:?}");
    docker.stop()?;
    fs::remove_file(docker.socket()).ok();
    let ended = world.egress(&["run", "new", "--image", CLIENT, "--", "true"])?;
    ensure!(ended.code == 1 && ended.errors.contains("--docker-socket"), "{ended:?}");
    Ok(())
}

/// One that has the host would do away with its gate, or go around it.
#[test]
fn what_has_the_host_is_not_attached() -> Result<()> {
    let Some((docker, world)) = world("refusals of privileged containers", "")? else { return Ok(()) };
    let socket = docker.socket().display().to_string();
    let home = world.names.home.display().to_string();
    docker.docker(&[
        "volume",
        "create",
        "--opt",
        "type=none",
        "--opt",
        "o=bind",
        "--opt",
        "device=/proc",
        "kernels",
    ])?;
    let link = world.names.directory.join("link");
    symlink(&world.names.run, &link)?;
    let (link, run) = (link.display().to_string(), world.names.run.display().to_string());
    for (options, why) in [
        (["--pid", "host"], "--pid host"),
        (["--cap-add", "SYS_ADMIN"], "SYS_ADMIN"),
        (["--device", "/dev/loop-control"], "/dev/loop-control"),
        (["--security-opt", "systempaths=unconfined"], "/proc/sys"),
        (["--volume", &format!("{socket}:/docker.sock")], socket.as_str()),
        (["--volume", &format!("{home}:/state:ro")], home.as_str()),
        (["--volume", &format!("{link}:/linked:ro")], run.as_str()),
        (["--volume", "/:/host:ro"], "/ of the host"),
        (["--volume", "kernels:/kernels"], "/proc of the host"),
    ] {
        let id = docker.docker(&[&["run", "-d"], options.as_slice(), &[CLIENT, "sleep", "7006"]].concat())?;
        let said = world.egress(&["attach", "web", "--container", &id])?;
        ensure!(said.code == 1 && said.errors.contains(why), "{options:?}: {said:?}");
        ensure!(world.listed("web")?.is_none(), "{options:?}: it is in a bottle");
        docker.docker(&["rm", "--force", &id])?;
    }
    let volume = format!("{}:/work", world.names.directory.join("work").display());
    let harmless = ["--volume", &volume, "--volume", "named:/named", "--volume", "/etc/hostname:/name:ro"];
    docker.docker(&[&["run", "-d", "--name", "target"], harmless.as_slice(), &[CLIENT, "sleep", "7006"]].concat())?;
    attach(&world, "target")?;
    let engine = world.names.directory.join("docker").display().to_string();
    for (directory, code, why) in [(&home, 2, "egress itself keeps"), (&engine, 1, "cannot be shared with a container")]
    {
        let ended = world.egress(&["run", "new", "--image", CLIENT, "--share", directory, "--", "true"])?;
        ensure!(ended.code == code && ended.errors.contains(why), "{ended:?}");
    }
    Ok(())
}

#[test]
fn a_daemon_that_cannot_enforce_attaches_nothing() -> Result<()> {
    let Some((docker, mut world)) = world("attaching without enforcement", "")? else { return Ok(()) };
    docker.docker(&["run", "-d", "--name", "target", CLIENT, "sleep", "7004"])?;
    let networks = || docker.docker(&["inspect", "--format", "{{json .NetworkSettings.Networks}}", "target"]);
    let before = networks()?;
    world.stop_daemon()?;
    // Where the gate would be tried.
    fs::write(world.names.run.join("self-check"), "in the way")?;
    world.start_daemon()?;
    ensure!(world.status()?.not_enforcing.is_some(), "{:?}", world.status()?);
    let said = world.egress(&["attach", "web", "--container", "target"])?;
    ensure!(said.code == 1 && said.errors.contains("does not enforce"), "{said:?}");
    ensure!(world.listed("web")?.is_none() && networks()? == before, "it was attached");
    Ok(())
}

/// Whoever controls the engine can put a container on a network again; not for long.
#[test]
fn a_container_that_is_put_on_a_network_is_taken_off_it() -> Result<()> {
    let Some((docker, world)) = world("a container on a network again", "")? else { return Ok(()) };
    docker.docker(&["run", "-d", "--cap-add", "NET_ADMIN", "--name", "target", CLIENT, "sleep", "7002"])?;
    attach(&world, "target")?;
    docker.docker(&["network", "disconnect", "none", "target"])?;
    // As long as there is our way out, the engine finds no place for its own.
    docker.sh("target", "ip route del default")?;
    docker.docker(&["network", "connect", "bridge", "target"])?;
    let told = |kind: &AuditKind| matches!(kind, AuditKind::GateTampered { what } if what.contains("beside the gate"));
    until("it is told", PATIENCE, || Ok(world.audit(Some("web"))?.iter().any(told)))?;
    let links = docker.sh("target", "ip link | grep -c link/ether")?.1;
    assert_eq!(links, "1");
    docker.docker(&["restart", "--time", "0", "target"])?;
    until("the proxy is reached", PATIENCE, || Ok(ask(&docker, "target").is_ok_and(|status| status == "200")))
}

/// `kill -9` of the daemon after each step of attaching: the container is in its bottle, behind its gate, or as it was.
#[test]
fn attaching_that_is_killed_at_any_step_leaves_nothing_half_done() -> Result<()> {
    for point in [
        Point::AttachBegun,
        Point::NetworksLeft,
        Point::ContainerWired,
        Point::GateAttached,
        Point::Introduced,
        Point::BroughtUp,
    ] {
        let Some((docker, mut world)) = world("attaching that is killed", "")? else { return Ok(()) };
        let played = kill_while_attaching(&docker, &mut world, point);
        played.with_context(|| format!("killed after {point:?}: {}", world.log_tail()))?;
    }
    Ok(())
}

fn kill_while_attaching(docker: &Docker, world: &mut World, point: Point) -> Result<()> {
    let host = Host::listen(world)?;
    docker.docker(&["run", "-d", "--name", "target", CLIENT, "sh", "-c", PROBER])?;
    until("the prober reaches the host", PATIENCE, || Ok(host.reached() > 0))?;
    world.stop_daemon()?;
    world.daemon_starter = vec!["env".to_owned(), format!("{FAULT_VARIABLE}={}", point.as_str())];
    world.start_daemon()?;
    world.egress(&["attach", "web", "--container", "target"])?;
    world.until_daemon_dies().context("it did not come to that point")?;
    sleep(Duration::from_millis(300));
    let count = host.reached();
    sleep(Duration::from_millis(700));
    let goes_around = host.reached() > count;
    ensure!(!goes_around || point == Point::AttachBegun, "there is a way around while no daemon runs");
    world.daemon_starter.clear();
    world.start_daemon()?;
    if point == Point::AttachBegun {
        ensure!(world.listed("web")?.is_none(), "it is in a bottle, and on its networks");
        return attach(world, "target");
    }
    let is_served = || Ok(ask(docker, "target").is_ok_and(|status| status == "200"));
    until("it is behind its gate", PATIENCE, is_served)?;
    assert_eq!(host.reached(), count, "there was a way around");
    until("ledger and kernel agree", PATIENCE, || Ok(world.egress(&["audit", "--verify"])?.code == 0))?;
    assert_eq!(world.egress(&["detach", "web"])?.code, 0);
    until("it is given back", PATIENCE, || Ok(host.reached() > count))
}

/// Ctrl-C while a container is being attached: it is attached all the same, and everything can be done with it.
#[test]
fn attaching_goes_on_when_its_front_end_has_gone() -> Result<()> {
    let Some((docker, world)) = world("a front-end that goes", "")? else { return Ok(()) };
    docker.docker(&["run", "-d", "--name", "target", CLIENT, "sleep", "7005"])?;
    let mut front = world.command(&["attach", "web", "--container", "target"]).spawn()?;
    until("it has begun", PATIENCE, || Ok(world.names.run.join("bottles/web").exists()))?;
    let hung = docker.hang()?;
    front.kill()?;
    front.wait()?;
    // The daemon hears of it.
    sleep(Duration::from_millis(300));
    drop(hung);
    let is_served = || Ok(ask(&docker, "target").is_ok_and(|status| status == "200"));
    until("it is behind its gate", PATIENCE, is_served).with_context(|| world.log_tail())?;
    ensure!(world.bottle("web")?.container.is_some(), "{:?}", world.bottle("web")?);
    let said = world.egress(&["detach", "web"])?;
    ensure!(said.code == 0, "{said:?}");
    let networks = docker.docker(&["inspect", "--format", "{{json .NetworkSettings.Networks}}", "target"])?;
    ensure!(networks.contains("bridge") && !networks.contains("none"), "{networks}");
    Ok(())
}

/// What every engine must do: one container attached, started again, and given back.
pub(crate) fn check_attaching(docker: &Docker, world: &World, bridge: &str) -> Result<()> {
    let host = Host::listen(world)?;
    let prober = PROBER.replace(BRIDGE, bridge);
    docker.docker(&["run", "-d", "--name", "given", CLIENT, "sh", "-c", &prober])?;
    until("the prober reaches the host", PATIENCE, || Ok(host.reached() > 0))?;
    attach_as(world, "boxed", "given")?;
    sleep(Duration::from_millis(300));
    let count = host.reached();
    let is_served = || Ok(ask(docker, "given").is_ok_and(|status| status == "200"));
    until("the proxy is reached", PATIENCE, is_served).with_context(|| world.log_tail())?;
    docker.docker(&["restart", "--time", "0", "given"])?;
    until("the proxy is reached again", PATIENCE, is_served).with_context(|| world.log_tail())?;
    assert_eq!(host.reached(), count, "there was a way around");
    let said = world.egress(&["detach", "boxed"])?;
    ensure!(said.code == 0, "{said:?}");
    until("it is given back", PATIENCE, || Ok(host.reached() > count))
}
