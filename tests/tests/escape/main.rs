//! Root with every capability in a bottle's namespace tries to get out: none of it passes, each try is counted as what it
//! is, and each is known to work where no gate is.
//!
//! Attacks run one after the other; what went wrong is told in one table at the end.

mod frames;
mod interface;
mod load;
mod sockets;
mod stage;
mod table;

use anyhow::Result;
use harness::gate::Backend;
use harness::privilege::is_root;
use table::Table;

/// One test per backend and part of the suite.
macro_rules! on_every_backend {
    ($($module:ident = $backend:ident),*) => {
        $(mod $module {
            use super::{Backend, frames, interface, load, play, sockets};
            use anyhow::Result;

            #[test]
            fn frames_stay_in() -> Result<()> {
                play(concat!(stringify!($module), "::frames"), Backend::$backend, frames::attack)
            }

            #[test]
            fn interfaces_stay_in() -> Result<()> {
                play(concat!(stringify!($module), "::interface"), Backend::$backend, interface::attack)
            }

            #[test]
            fn sockets_stay_in() -> Result<()> {
                play(concat!(stringify!($module), "::sockets"), Backend::$backend, sockets::attack)
            }

            #[test]
            fn numbers_do_not_help() -> Result<()> {
                play(concat!(stringify!($module), "::load"), Backend::$backend, load::attack)
            }
        })*
    };
}

on_every_backend! { tcx = Tcx, clsact = Clsact, nftables = Nftables }

fn play(name: &str, backend: Backend, part: fn(Backend, &mut Table) -> Result<()>) -> Result<()> {
    if !is_root(name)? {
        return Ok(());
    }
    let mut table = Table::new(name);
    part(backend, &mut table)?;
    table.conclude()
}
