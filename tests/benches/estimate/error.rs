//! Estimates against truths, summed up.

use egress_userspace::domain::Api;
use egress_userspace::meter;

/// Errors of many estimates.
#[derive(Default)]
pub(crate) struct Errors {
    percents: Vec<f64>,
    truth: u64,
    estimate: u64,
}

impl Errors {
    /// One more; returns its error, in percent of the truth.
    pub(crate) fn add(&mut self, truth: u64, estimate: u64) -> f64 {
        let error = percent(truth, estimate);
        self.percents.push(error);
        self.truth += truth;
        self.estimate += estimate;
        error
    }

    /// Number, mean of the absolute errors, 5th, 50th and 95th percentile, share of under-estimates, error of all together.
    pub(crate) fn row(&mut self) -> String {
        self.percents.sort_by(f64::total_cmp);
        let count = self.percents.len();
        let mean = self.percents.iter().map(|error| error.abs()).sum::<f64>() / as_f64(count as u64);
        let at = |share: usize| self.percents.get(count.saturating_sub(1) * share / 100).copied().unwrap_or(0.0);
        let under = self.percents.iter().filter(|error| **error < 0.0).count();
        let under = percent_of(under as u64, count as u64);
        let together = percent(self.truth, self.estimate);
        format!(
            "{count:>6} {mean:>8.1} {:>+8.1} {:>+8.1} {:>+8.1} {under:>8.1} {together:>+9.1}",
            at(5),
            at(50),
            at(95)
        )
    }
}

/// The heads of the columns of a row.
pub(crate) const HEADS: &str = "     n   mean ±       5%      50%      95%  under %  together";

/// What is estimated for the request with this body.
pub(crate) fn estimate(api: Api, path: &str, body: &[u8]) -> u64 {
    meter::ask(api, "POST", path, body, Some(body.len() as u64)).input_estimate.0
}

fn percent(truth: u64, estimate: u64) -> f64 {
    (as_f64(estimate) / as_f64(truth.max(1)) - 1.0) * 100.0
}

fn percent_of(part: u64, whole: u64) -> f64 {
    as_f64(part) * 100.0 / as_f64(whole.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^52")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
