//! Which hosts carry token usage, and whose.

use crate::domain::{Host, ProviderName};

/// A host whose responses carry token usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeteredHost {
    /// Its name.
    pub host: Host,
    /// The key its usage is counted by.
    pub provider: ProviderName,
}

/// Host and provider; a host stands here once the meter reads its dialect.
const METERED_HOSTS: [(&str, &str); 1] = [("api.anthropic.com", "claude")];

/// The built-in table.
#[must_use]
pub fn metered_hosts() -> Vec<MeteredHost> {
    METERED_HOSTS
        .iter()
        .filter_map(|(host, provider)| Some(MeteredHost { host: host.parse().ok()?, provider: provider.parse().ok()? }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_well_formed() {
        assert_eq!(metered_hosts().len(), METERED_HOSTS.len());
    }
}
