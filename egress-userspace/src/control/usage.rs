//! Usage on its way out, page by page: `GET usage/rows` and `GET usage/sums`.

use serde::{Deserialize, Serialize};

use crate::domain::{BottleName, GroupBy, UnixMillis, UsageCursor, UsageGroup, UsageRow, Zone};

use super::message::ApiError;
use super::request::{ApiRequest, each, usage};

/// Which requests. A front-end asks for a page after `next` of the page before, until there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageQuery {
    /// `bottle=`: of this one only.
    pub bottle: Option<BottleName>,
    /// `since=`, in Unix milliseconds: what was settled then or later.
    pub since: Option<UnixMillis>,
    /// `last=`: the newest so many.
    pub last: Option<u32>,
    /// `after=`: what comes after this.
    pub after: Option<UsageCursor>,
}

/// How requests are added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SumsQuery {
    /// `by=day,bottle`
    pub by: Vec<GroupBy>,
    /// `zone=Europe/Berlin`: whose days; UTC's when nothing is said.
    pub zone: Zone,
    /// Which.
    pub of: UsageQuery,
}

/// `GET /v1/usage/rows?bottle=&since=&last=&after=`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRowsReply {
    /// The one settled first comes first.
    pub rows: Vec<UsageRow>,
    /// How many requests this page has gone through at most.
    pub requests_max: u32,
    /// Where the next page begins; `None` when this is the last.
    pub next: Option<UsageCursor>,
    /// How many requests all pages go through at most; said with the first.
    pub total: Option<u64>,
}

/// `GET /v1/usage/sums?by=&zone=&bottle=&since=&last=&after=`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageSumsReply {
    /// Of this page alone: groups of several pages are to be added up.
    pub groups: Vec<UsageGroup>,
    /// How many requests this page has gone through at most.
    pub requests_max: u32,
    /// Where the next page begins; `None` when this is the last.
    pub next: Option<UsageCursor>,
    /// How many requests all pages go through at most; said with the first.
    pub total: Option<u64>,
}

impl UsageQuery {
    fn take(&mut self, key: &str, value: &str) -> Result<bool, ApiError> {
        match key {
            "bottle" => self.bottle = Some(value.parse().map_err(usage)?),
            "since" => self.since = Some(UnixMillis(value.parse().map_err(usage)?)),
            "last" => self.last = Some(value.parse().map_err(usage)?),
            "after" => self.after = Some(value.parse().map_err(usage)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Parses `GET usage/rows`.
pub(super) fn rows(query: &str) -> Result<ApiRequest, ApiError> {
    let mut of = UsageQuery::default();
    each(query, "bottle=, since=, last= and after=", |key, value| of.take(key, value))?;
    Ok(ApiRequest::UsageRows(of))
}

/// Parses `GET usage/sums`.
pub(super) fn sums(query: &str) -> Result<ApiRequest, ApiError> {
    let mut sums = SumsQuery::default();
    each(query, "by=, zone=, bottle=, since=, last= and after=", |key, value| {
        match key {
            "by" => sums.by = value.split(',').map(str::parse).collect::<Result<_, _>>().map_err(usage)?,
            "zone" => sums.zone = value.parse().map_err(usage)?,
            _ => return sums.of.take(key, value),
        }
        Ok(true)
    })?;
    Ok(ApiRequest::UsageSums(sums))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_parsed() {
        let after = "7.3".parse().unwrap();
        let of = UsageQuery {
            bottle: Some("web".parse().unwrap()),
            since: Some(UnixMillis(7)),
            last: Some(9),
            after: Some(after),
        };
        let said = "bottle=web&since=7&last=9&after=7.3";
        assert_eq!(rows(said), Ok(ApiRequest::UsageRows(of.clone())));
        let zone = "Europe/Berlin".parse().unwrap();
        let expected = SumsQuery { by: vec![GroupBy::Day, GroupBy::Model], zone, of };
        assert_eq!(sums(&format!("{said}&by=day,model&zone=Europe/Berlin")), Ok(ApiRequest::UsageSums(expected)));
        for bad in ["by=", "by=colour", "by=day,", "zone=Berlin", "after=x", "color=red"] {
            assert!(sums(bad).is_err(), "{bad}");
        }
    }
}
