//! How far a freeze or a kill is: `bottles/{name}/stopping`.

use serde::{Deserialize, Serialize};

use crate::domain::StopStep;

/// `GET /v1/bottles/{name}/stopping`: what is being done at that moment, and then each further step, until the connection is
/// closed. Whoever freezes or kills follows first and asks then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopEvent {
    /// Nothing when it is not being frozen or killed, or is not yet.
    pub step: Option<StopStep>,
}
