//! The same over Podman's socket.

use anyhow::{Result, ensure};
use harness::docker::{Engine, PODMAN_BRIDGE};

use crate::{attach, freeze, run, world_of};

#[test]
fn podman_serves_as_docker_does() -> Result<()> {
    let Some((docker, mut world)) = world_of(Engine::Podman, "Podman", "")? else { return Ok(()) };
    run::check_streams(&docker, &world)?;
    run::check_spending(&docker, &world)?;
    ensure!(world.egress(&["restore", "web"])?.code == 0, "it cannot be restored");
    ensure!(world.egress(&["kill", "web"])?.code == 0, "it cannot be killed");
    freeze::check_freezing(&docker, &mut world)?;
    attach::check_attaching(&docker, &world, PODMAN_BRIDGE)
}
