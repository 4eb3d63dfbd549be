//! Pages of usage for whoever exports it.

use std::collections::BTreeMap;

use crate::control::{ApiError, SumsQuery, UsageQuery, UsageRowsReply, UsageSumsReply};
use crate::domain::{UsageGroup, UsageKey};
use crate::ledger::{UsagePage, UsageSlice, UsageSums};

use super::api::Desk;
use super::launch::refused;

/// Requests of one page: some milliseconds, for which other reports wait.
const PAGE_ROWS_MAX: u32 = 2_000;
/// Requests that are added up for one page.
const PAGE_SUMMED_MAX: u32 = 10_000;

impl Desk {
    pub(super) async fn usage_rows(&self, query: UsageQuery) -> Result<UsageRowsReply, ApiError> {
        let page = self.launcher.ledger.usage_page(slice(query), PAGE_ROWS_MAX).await;
        let UsagePage { rows, next, total } = page.map_err(|error| refused(&error))?;
        Ok(UsageRowsReply { rows, requests_max: PAGE_ROWS_MAX, next, total })
    }

    pub(super) async fn usage_sums(&self, query: SumsQuery) -> Result<UsageSumsReply, ApiError> {
        let SumsQuery { by, zone, of } = query;
        let page = self.launcher.ledger.usage_sums_page(slice(of), by, PAGE_SUMMED_MAX).await;
        let UsageSums { groups, next, total } = page.map_err(|error| refused(&error))?;
        // Quarters of an hour become days.
        let mut sums: BTreeMap<UsageKey, UsageGroup> = BTreeMap::new();
        for (quarter, group) in groups {
            let key = UsageKey { day: quarter.map(|at| zone.day(at)), ..group.key };
            let sum = sums.entry(key.clone()).or_insert(UsageGroup { key, requests: 0, usage: Default::default() });
            sum.requests += group.requests;
            sum.usage = sum.usage + group.usage;
        }
        let groups = sums.into_values().collect();
        Ok(UsageSumsReply { groups, requests_max: PAGE_SUMMED_MAX, next, total })
    }
}

fn slice(query: UsageQuery) -> UsageSlice {
    let UsageQuery { bottle, since, last, after } = query;
    UsageSlice { bottle, since, last, after }
}
