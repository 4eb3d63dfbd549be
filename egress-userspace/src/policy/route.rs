//! The table of allowed destinations.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::domain::{Host, ProviderName};

use super::provider::metered_hosts;

/// Where a host's name leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolve {
    /// Ask the system's resolver; public addresses only.
    Public,
    /// Always this address, private or not.
    Fixed(SocketAddr),
}

/// One allowed destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its name.
    pub host: Host,
    /// Whose budget its responses count for.
    pub provider: ProviderName,
    /// Where its name leads.
    pub resolve: Resolve,
}

/// Every allowed destination. What is not here is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    routes: Vec<Route>,
}

impl Routes {
    /// The built-in metered hosts; `fixed` says which of them are reached at an address of the operator's choice.
    #[must_use]
    pub fn built_in(fixed: &[(Host, SocketAddr)]) -> Self {
        let routes = metered_hosts()
            .into_iter()
            .map(|metered| {
                let address = fixed.iter().find(|(host, _)| *host == metered.host).map(|(_, address)| *address);
                let resolve = address.map_or(Resolve::Public, Resolve::Fixed);
                Route { host: metered.host, provider: metered.provider, resolve }
            })
            .collect();
        Self { routes }
    }

    /// The route for a host, or `None` when it is not allowed.
    #[must_use]
    pub fn find(&self, host: &Host) -> Option<&Route> {
        self.routes.iter().find(|route| route.host == *host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_not_allowed() {
        let anthropic: Host = "api.anthropic.com".parse().unwrap();
        let fixed = SocketAddr::from(([127, 0, 0, 1], 9443));
        let routes = Routes::built_in(&[(anthropic.clone(), fixed)]);
        assert_eq!(routes.find(&anthropic).map(|route| route.resolve.clone()), Some(Resolve::Fixed(fixed)));
        assert_eq!(routes.find(&"example.com".parse().unwrap()), None);
        assert_eq!(routes.find(&"x.api.anthropic.com".parse().unwrap()), None);
    }
}
