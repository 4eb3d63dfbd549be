//! Bottles that are containers, with a container engine of the test's own.
#![expect(clippy::indexing_slicing, reason = "a test may fail by panicking, too")]

mod attach;
mod freeze;
mod podman;
mod run;

use anyhow::Result;
use harness::docker::{Docker, Engine};
use harness::privilege;
use harness::world::World;

/// A host with an engine; `None` when this user cannot have one. Dropped in this order.
fn world(test: &str, settings: &str) -> Result<Option<(Docker, World)>> {
    world_of(Engine::Docker, test, settings)
}

fn world_of(engine: Engine, test: &str, settings: &str) -> Result<Option<(Docker, World)>> {
    if !privilege::is_root(test)? {
        return Ok(None);
    }
    let mut world = World::prepare(settings)?;
    let docker = Docker::start(&mut world, engine)?;
    world.start_daemon()?;
    Ok(Some((docker, world)))
}
