//! The frames that tell a gate's outcomes apart, between the bottle and the host of a world.

use egress_userspace::doctor::attacks;
use harness::gate::PARTIES;

pub(crate) use attacks::Attempt as Case;

pub(crate) fn from_bottle() -> Vec<Case> {
    attacks::from_bottle(&PARTIES)
}

pub(crate) fn to_bottle() -> Vec<Case> {
    attacks::to_bottle(&PARTIES)
}
