//! The same over Podman's socket.

use anyhow::{Result, ensure};
use harness::docker::{CLIENT, Engine};

use crate::{freeze, run, world_of};

#[test]
fn podman_serves_as_docker_does() -> Result<()> {
    let Some((docker, mut world)) = world_of(Engine::Podman, "Podman", "")? else { return Ok(()) };
    run::check_streams(&docker, &world)?;
    run::check_spending(&docker, &world)?;
    ensure!(world.egress(&["restore", "web"])?.code == 0, "it cannot be restored");
    ensure!(world.egress(&["kill", "web"])?.code == 0, "it cannot be killed");
    freeze::check_freezing(&docker, &mut world)?;
    docker.docker(&["run", "-d", "--name", "target", "--network", "none", CLIENT, "sleep", "6075"])?;
    let said = world.egress(&["attach", "web", "--container", "target"])?;
    ensure!(said.code == 1 && said.errors.contains("Podman cannot"), "{said:?}");
    Ok(())
}
