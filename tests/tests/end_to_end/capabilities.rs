//! The daemon with exactly the capabilities that the unit of the service leaves it, and with one less.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::BottleState;
use harness::world::{GATEWAY, PATIENCE, World, until};
use nix::mount::MsFlags;

use crate::prepared;

/// A group that root is not in.
const STAFF: u32 = 50;

/// What the unit says, as `setpriv` writes it.
fn of_the_unit() -> Result<Vec<String>> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/package/egress.service");
    let text = fs::read_to_string(unit)?;
    let lines = text.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = lines.flat_map(str::split_whitespace).filter_map(|name| name.strip_prefix("CAP_"));
    let names: Vec<String> = names.map(str::to_lowercase).collect();
    ensure!(names.len() > 10, "the unit has no bounding set");
    Ok(names)
}

/// What starts a daemon that is bounded to these.
fn bounded_to(names: &[String]) -> Vec<String> {
    let set = names.iter().map(|name| format!(",+{name}")).collect::<String>();
    ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set", &format!("-all{set}")]
        .map(str::to_owned)
        .to_vec()
}

/// Everything an operator does to a bottle.
fn live(world: &World) -> Result<()> {
    // The top of a mount in a bottle is a directory that the daemon makes, with the group's mark as well.
    let mount = world.names.directory.join("mount");
    fs::create_dir(&mount)?;
    let options = format!("mode=2775,gid={STAFF}");
    nix::mount::mount(Some("tmpfs"), &mount, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
    let mut bottle = world.shell("web", &[])?;
    assert_eq!(bottle.sh(&format!("stat -c %a:%g {}", mount.display()))?.output, format!("2775:{STAFF}"));
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    ensure!(bottle.sh("curl -s --max-time 1 https://api.anthropic.com/v1/models")?.code != 0, "the cut does not hold");
    assert_eq!(world.egress(&["restore", "web"])?.code, 0);
    assert_eq!(bottle.ask("claude-test")?.status, 200);
    assert_eq!(world.egress(&["freeze", "web"])?.code, 0);
    until("it is frozen", PATIENCE, || Ok(world.bottle("web")?.state == BottleState::Frozen))?;
    let resumed = world.command(&["resume", "web"]).stdin(std::process::Stdio::null()).output()?;
    ensure!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    let killed = world.egress(&["kill", "web"])?;
    ensure!(killed.code == 0, "{killed:?}");
    Ok(())
}

#[test]
fn what_the_unit_leaves_is_enough_for_either_kind_of_gate() -> Result<()> {
    for enforcer in ["ebpf", "nftables"] {
        let Some(mut world) = prepared("the unit's capabilities", &format!("enforcer: {enforcer}\n"))? else {
            return Ok(());
        };
        world.daemon_starter = bounded_to(&of_the_unit()?);
        world.start_daemon().context(enforcer)?;
        let status = world.status()?;
        ensure!(status.enforcer == enforcer && status.not_enforcing.is_none(), "{status:?}");
        live(&world).with_context(|| format!("{enforcer}: {}", world.log_tail()))?;
    }
    Ok(())
}

#[test]
fn a_daemon_without_one_of_them_does_not_start_and_names_it() -> Result<()> {
    let Some(mut world) = prepared("one capability less", "")? else { return Ok(()) };
    let all = of_the_unit()?;
    for missing in &all {
        let others: Vec<String> = all.iter().filter(|name| *name != missing).cloned().collect();
        world.daemon_starter = bounded_to(&others);
        let mut command = world.daemon_command(&world.names, GATEWAY);
        let said = world.fail_to_start(&mut command)?;
        let name = format!("CAP_{}", missing.to_uppercase());
        ensure!(said.code == 1 && said.errors.contains(&name), "{missing}: {said:?}");
    }
    Ok(())
}
