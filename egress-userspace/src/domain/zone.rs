//! The time zone whose calendar windows of budgets follow.

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use thiserror::Error;

use super::UnixMillis;

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

    /// The day that a moment is in, as `2026-01-31`.
    #[must_use]
    pub fn day(&self, at: UnixMillis) -> String {
        let moment = Timestamp::from_millisecond(at.0).unwrap_or(Timestamp::UNIX_EPOCH);
        moment.to_zoned(self.0.clone()).date().to_string()
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
    fn days_follow_the_zones_clocks() {
        let check = |zone: &str, at: &str, expected: &str| {
            let at = UnixMillis(at.parse::<Timestamp>().unwrap().as_millisecond());
            assert_eq!(zone.parse::<Zone>().unwrap().day(at), expected, "{zone} {at:?}");
        };
        check("UTC", "2026-03-28T23:59:59Z", "2026-03-28");
        check("Europe/Berlin", "2026-03-28T22:59:59Z", "2026-03-28");
        check("Europe/Berlin", "2026-03-28T23:00:00Z", "2026-03-29");
        // A day of 23 hours, and one of 25.
        check("Europe/Berlin", "2026-03-29T22:00:00Z", "2026-03-30");
        check("Europe/Berlin", "2026-10-25T22:59:59Z", "2026-10-25");
        check("Asia/Kolkata", "2026-03-28T18:30:00Z", "2026-03-29");
    }

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
