//! The meter and the words it speaks in, from their sources: the rest of the product would only be in the way.

#[path = "../../../egress-userspace/src/domain/mod.rs"]
pub mod domain;
#[path = "../../../egress-userspace/src/meter/mod.rs"]
pub mod meter;
