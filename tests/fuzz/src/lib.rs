//! The meter, the policy and the words they speak in, from their sources: the rest of the product would only be in the way.

#[path = "../../../egress-userspace/src/domain/mod.rs"]
pub mod domain;
#[path = "../../../egress-userspace/src/meter/mod.rs"]
pub mod meter;
#[path = "../../../egress-userspace/src/policy/mod.rs"]
pub mod policy;
