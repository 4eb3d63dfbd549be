//! The whole path as a user has it: the real daemon, proxy and command line, real bottles, an ordinary client.
#![expect(clippy::indexing_slicing, reason = "a test may fail by panicking, too")]

mod approvals;
mod audit;
mod bad_input;
mod budgets;
mod capabilities;
mod crash;
mod credentials;
mod cut;
mod doctor;
mod endings;
mod exports;
mod faults;
mod first_contact;
mod freeze;
mod full_disk;
mod guard;
mod held;
mod inside;
mod live;
mod metrics;
mod nftables;
mod notify;
mod own_hosts;
mod plan;
mod preflight;
mod public;
mod routes;
mod secrets;
mod sever;
mod soak;
mod socket;
mod spend;
mod stopping;
mod terminal;
mod top;
mod traffic;
mod truth;
mod upgrade;

use anyhow::Result;
use harness::privilege;
use harness::world::World;

/// A host for a test with these lines in its settings; `None` when this user cannot have one.
fn world(test: &str, settings: &str) -> Result<Option<World>> {
    if privilege::is_root(test)? { World::start(settings).map(Some) } else { Ok(None) }
}

/// The same, its daemon not started.
fn prepared(test: &str, settings: &str) -> Result<Option<World>> {
    if privilege::is_root(test)? { World::prepare(settings).map(Some) } else { Ok(None) }
}
