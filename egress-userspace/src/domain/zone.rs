//! The time zone whose calendar windows of budgets follow.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use thiserror::Error;

/// A time zone of the IANA database, whose rules the program brings with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a time zone: write a name of the IANA database, such as UTC or Europe/Berlin")]
pub struct ZoneError(String);

impl Zone {
    /// Coordinated universal time.
    #[must_use]
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// For calendars.
    #[must_use]
    pub fn rules(&self) -> &TimeZone {
        &self.0
    }

    /// As the database calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::utc()
    }
}

impl std::str::FromStr for Zone {
    type Err = ZoneError;
    fn from_str(text: &str) -> Result<Self, ZoneError> {
        if text == "UTC" {
            return Ok(Self::utc());
        }
        TimeZoneDatabase::bundled().get(text).map(Self).map_err(|_| ZoneError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_have_names_of_the_database() {
        for name in ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"] {
            assert_eq!(name.parse::<Zone>().map(|zone| zone.name().to_owned()), Ok(name.to_owned()));
        }
        for bad in ["", "Berlin", "Europe/", "../UTC", "+02:00"] {
            assert_eq!(bad.parse::<Zone>(), Err(ZoneError(bad.to_owned())));
        }
    }
}
