//! Where a bottle's things are: names and paths that follow from its name alone, so that a crashed run can be found again.

use std::path::PathBuf;

use super::layer::Layer;
use super::namespace::Kept;
use crate::bottle::HostWiring;
use crate::domain::BottleName;

/// Name of the veth's end inside.
pub(in crate::bottle) const INNER_INTERFACE: &str = "eth0";

/// Begins the names of the veths' host ends.
const INTERFACE_PREFIX: &str = "eg-";
/// Longest bottle name that stands in the interface's name as it is (an interface's name has 15 bytes at most).
const NAME_BYTES_WHOLE_MAX: usize = 12;
/// Bytes kept of a longer one, before its hash.
const NAME_BYTES_KEPT: usize = 3;

/// The names and paths of one bottle.
#[derive(Clone, Debug)]
pub(in crate::bottle) struct Layout {
    /// Holds everything else; its existence says that the bottle does.
    pub(in crate::bottle) directory: PathBuf,
    /// Keeps the network namespace.
    pub(in crate::bottle) namespace: Kept,
    /// Who stands for the command, and how it ended: see [`Record`](super::record::Record).
    pub(in crate::bottle) record: PathBuf,
    /// Name of the veth's host end.
    pub(in crate::bottle) interface: String,
    /// What it keeps when it has ended.
    pub(in crate::bottle) layer: Layer,
}

impl Layout {
    /// The layout of `bottle` on this host.
    pub(in crate::bottle) fn new(wiring: &HostWiring, bottle: &BottleName) -> Self {
        let directory = wiring.run_directory.join(bottle.as_str());
        Self {
            namespace: Kept::at(directory.join("netns"), wiring.view.clone()),
            record: directory.join("record"),
            interface: interface_name(bottle),
            layer: Layer::at(wiring.layers.join(bottle.as_str())),
            directory,
        }
    }
}

/// A short name stands as it is. A long one keeps its beginning, an `H` (which no bottle's name has, so the two kinds
/// cannot meet) and 32 bits of its hash.
fn interface_name(bottle: &BottleName) -> String {
    let name = bottle.as_str();
    if name.len() <= NAME_BYTES_WHOLE_MAX {
        return format!("{INTERFACE_PREFIX}{name}");
    }
    let kept: String = name.chars().take(NAME_BYTES_KEPT).collect();
    format!("{INTERFACE_PREFIX}{kept}H{:08x}", hash(name))
}

/// FNV-1a: the same for every build of this program, which the standard library's hasher does not promise.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str) -> String {
        interface_name(&name.parse().unwrap())
    }

    #[test]
    fn interface_names_fit_and_differ() {
        assert_eq!(interface("web"), "eg-web");
        assert_eq!(interface("exactly-12-b"), "eg-exactly-12-b");
        let long = interface("reviewer-of-pull-requests");
        let twin = interface("reviewer-of-pull-request5");
        assert_eq!(long.len(), 15);
        assert!(long.starts_with("eg-revH"), "{long}");
        assert_ne!(long, twin);
        assert!(interface(&"x".repeat(48)).len() <= 15);
    }
}
