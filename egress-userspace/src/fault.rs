//! Where tests kill this process, to see what the next one makes of what is left: one place after each step of a privileged
//! sequence. Nothing in a release build.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

static ARMED: AtomicBool = AtomicBool::new(false);

/// Names the environment variable that says where.
pub const FAULT_VARIABLE: &str = "EGRESS_FAULT";

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident,)*) => {
        /// A step has just been done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// Every point, in the order in which they are passed.
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            /// As it stands in the variable.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$point => stringify!($point),)*
                }
            }
        }
    };
}

points! {
    /// The ledger knows of a run.
    RunBegun,
    /// The ledger knows that a frozen run goes on.
    ResumeBegun,
    /// The ledger knows that a container is being attached.
    AttachBegun,
    /// A container has left its engine's networks.
    NetworksLeft,
    /// It has our interface, whose host's end is down.
    ContainerWired,
    /// A bottle has its directory.
    DirectoryMade,
    /// Its network namespace.
    NamespaceMade,
    /// Its interfaces.
    VethMade,
    /// Its addresses and routes.
    InsideConfigured,
    /// Its control group.
    GroupMade,
    /// The kernel holds its gate's entry, and no program on the interface.
    EntryWritten,
    /// The program of one direction is on the interface.
    HalfAttached,
    /// Both are.
    GateAttached,
    /// The proxy has been told of it.
    Introduced,
    /// The host's end is up.
    BroughtUp,
    /// Its command has been started.
    CommandStarted,
    /// The kernel holds a cut.
    CutInKernel,
    /// The ledger too.
    CutRecorded,
    /// The ledger wants a gate open that the kernel holds cut.
    RestoreRecorded,
    /// The kernel holds it open.
    RestoredInKernel,
    /// The processes of a bottle have been told to stand still.
    Held,
    /// The ledger knows that it is being frozen.
    FreezeBegun,
    /// Its launch is written down.
    LaunchSaved,
    /// The ledger knows that it is being killed.
    KillBegun,
    /// Its processes have ended.
    GroupRemoved,
    /// Its interfaces are gone.
    VethRemoved,
    /// Its namespace is.
    NamespaceRemoved,
    /// Its directory is.
    DirectoryRemoved,
    /// Its gate is.
    GateRemoved,
    /// Its files are.
    FilesRemoved,
    /// The ledger knows how it was stopped.
    StopRecorded,
}

/// From here on points are looked at: what is tried before bottles are seen to passes them too.
pub(crate) fn arm() {
    ARMED.store(true, Ordering::Relaxed);
}

/// Passed: dies here if a test says so.
pub(crate) fn point(point: Point) {
    let is_looked_at = cfg!(debug_assertions) && ARMED.load(Ordering::Relaxed);
    if is_looked_at && std::env::var_os(FAULT_VARIABLE).is_some_and(|wanted| wanted == point.as_str()) {
        // There is nothing to be done where it fails but to go on.
        let _ = kill(Pid::this(), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let mut names: Vec<_> = Point::ALL.iter().map(|point| point.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
        point(Point::RunBegun);
    }
}
