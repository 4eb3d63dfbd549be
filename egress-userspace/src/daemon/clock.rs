//! The one place the controller reads the clock of.

use crate::domain::UnixMillis;

/// Milliseconds since the Unix epoch.
pub(super) fn now() -> UnixMillis {
    UnixMillis(jiff::Timestamp::now().as_millisecond())
}
