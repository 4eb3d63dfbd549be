//! Values under their names, as text.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::domain::Distribution;

use super::family::{Description, Family, Kind};

/// What is known of one metric and one set of labels.
#[derive(Clone, Debug)]
pub enum Value {
    /// Of a counter or a gauge.
    Whole(u64),
    /// Of a gauge.
    Real(f64),
    /// Of a histogram.
    Spread(Distribution),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(u64::from(value))
    }
}

impl From<Distribution> for Value {
    fn from(value: Distribution) -> Self {
        Self::Spread(value)
    }
}

type Labels = Vec<(&'static str, String)>;

/// Everything that is exported at one moment.
#[derive(Clone, Debug, Default)]
pub struct Exposition(BTreeMap<Family, Vec<(Labels, Value)>>);

impl Exposition {
    /// One more value. Labels without a value are left out, as the absence of a label means the same.
    pub fn add(&mut self, family: Family, labels: &[(&'static str, &str)], value: impl Into<Value>) {
        let labels = labels.iter().filter(|(_, value)| !value.is_empty());
        let labels = labels.map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.0.entry(family).or_default().push((labels, value.into()));
    }

    /// As text. Metrics without values are described all the same.
    #[must_use]
    pub fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing to a string cannot fail, and nothing here does otherwise.
        let _ = encode(&mut text, &registry);
        text
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in Family::all() {
            let Description { name, unit, kind, help } = family.description();
            let unit = unit.map(|unit| Unit::Other(unit.to_owned()));
            let kind = match kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut encoder = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
            for (labels, value) in self.0.get(&family).into_iter().flatten() {
                encode_value(&mut encoder, kind, labels, value)?;
            }
        }
        Ok(())
    }
}

fn encode_value(encoder: &mut MetricEncoder<'_>, kind: MetricType, labels: &Labels, value: &Value) -> fmt::Result {
    let mut encoder = encoder.encode_family(labels)?;
    match value {
        Value::Whole(value) if matches!(kind, MetricType::Counter) => {
            encoder.encode_counter::<NoLabelSet, u64, f64>(value, None)
        }
        Value::Whole(value) => encoder.encode_gauge(value),
        Value::Real(value) => encoder.encode_gauge(value),
        Value::Spread(spread) => {
            encoder.encode_histogram::<NoLabelSet>(spread.sum(), spread.count(), &spread.buckets(), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Scale;

    fn lines(exposition: Exposition, of: Family) -> Vec<String> {
        let (text, stem) = (exposition.text(), of.description().name);
        assert!(text.ends_with("# EOF\n"), "{text}");
        let is_of = |line: &&str| line.starts_with(stem) || line.split(' ').nth(2).is_some_and(|name| name == stem);
        text.lines().filter(is_of).map(str::to_owned).collect()
    }

    #[test]
    fn counters_and_gauges_are_told() {
        let mut exposition = Exposition::default();
        exposition.add(Family::Refusals, &[("bottle", "web"), ("reason", "bottle_cut")], 7);
        exposition.add(Family::Refusals, &[("bottle", ""), ("reason", "bottle_cut")], u64::MAX);
        assert_eq!(
            lines(exposition, Family::Refusals),
            [
                "# HELP egress_refusals Requests, names and connections that were refused",
                "# TYPE egress_refusals counter",
                "egress_refusals_total{bottle=\"web\",reason=\"bottle_cut\"} 7",
                "egress_refusals_total{reason=\"bottle_cut\"} 18446744073709551615",
            ]
        );
    }

    #[test]
    fn what_stands_in_labels_is_escaped() {
        let mut exposition = Exposition::default();
        exposition.add(Family::Build, &[("version", "a\"b\\c\nd")], true);
        assert_eq!(
            lines(exposition, Family::Build),
            [
                "# HELP egress_build_info What runs; always 1",
                "# TYPE egress_build_info gauge",
                "egress_build_info{version=\"a\\\"b\\\\c\\nd\"} 1"
            ]
        );
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_all() {
        let mut times = Distribution::new(Scale::Local);
        [1e-5, 0.003, 7.0].into_iter().for_each(|time| times.record(time));
        let mut exposition = Exposition::default();
        exposition.add(Family::CutDuration, &[("cause", "budget")], times);
        let text = exposition.text();
        for line in [
            "# UNIT egress_cut_duration_seconds seconds",
            "egress_cut_duration_seconds_bucket{le=\"0.00001\",cause=\"budget\"} 1",
            "egress_cut_duration_seconds_bucket{le=\"0.005\",cause=\"budget\"} 2",
            "egress_cut_duration_seconds_bucket{le=\"+Inf\",cause=\"budget\"} 3",
            "egress_cut_duration_seconds_count{cause=\"budget\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }

    #[test]
    fn metrics_without_values_are_described() {
        let text = Exposition::default().text();
        for family in Family::all() {
            assert!(text.contains(&format!(" {}", family.kind())), "{family:?}");
            assert!(text.contains(family.description().help), "{family:?}");
        }
    }
}
