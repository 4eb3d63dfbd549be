//! How gates are held in the kernel, and what a cut bottle hears of it: what operators choose.

use serde::{Deserialize, Serialize};

/// What makes gates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnforcerChoice {
    /// eBPF where the kernel can, else nftables.
    #[default]
    Auto,
    /// eBPF programs on tc hooks.
    Ebpf,
    /// A table of nftables.
    Nftables,
}

impl EnforcerChoice {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Ebpf, Self::Nftables];

    /// As it stands in settings and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ebpf => "ebpf",
            Self::Nftables => "nftables",
        }
    }
}

/// What a bottle whose gate is cut hears of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CutMode {
    /// TCP is answered with resets, so many a second, so that clients fail at once.
    #[default]
    Reset,
    /// Nothing.
    Drop,
}

impl CutMode {
    /// Every mode.
    pub const ALL: [Self; 2] = [Self::Reset, Self::Drop];

    /// As it stands in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Drop => "drop",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_wires() {
        for choice in EnforcerChoice::ALL {
            assert_eq!(serde_json::to_value(choice).unwrap(), choice.as_str());
        }
        for mode in CutMode::ALL {
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.as_str());
        }
    }
}
