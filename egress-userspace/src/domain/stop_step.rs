//! What is being done with a bottle that is frozen or killed.

use serde::{Deserialize, Serialize};

/// A step that may take a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopStep {
    /// Its processes are told to stand still, and do.
    Holding,
    /// How its command was started is written down.
    SavingLaunch,
    /// What its container holds becomes an image: minutes, where that is much.
    CommittingImage,
    /// Its processes are ended, its network is taken away.
    EndingProcesses,
    /// Its container is ended and removed, or let go of if it was attached.
    TakingContainerDown,
    /// What it wrote is removed.
    RemovingFiles,
}

impl StopStep {
    /// For people, after `freezing web:`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Holding => "making its processes stand still",
            Self::SavingLaunch => "writing down how it was started",
            Self::CommittingImage => "committing its image",
            Self::EndingProcesses => "ending its processes",
            Self::TakingContainerDown => "taking its container down",
            Self::RemovingFiles => "removing its files",
        }
    }
}
