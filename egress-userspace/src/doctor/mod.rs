//! Does the promise hold on this host? Looks at what it needs, and attacks a bottle of its own.
//!
//! Changes nothing that is there: what it builds has names of its own and is removed again. What a doctor that was killed
//! has left, the next one removes.

pub mod attacks;
pub mod frame;
pub mod raw_socket;

mod certificate;
mod clients;
mod files;
mod host;
mod report;
mod throwaway;
mod trial;

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::bottle::BottleError;
use crate::domain::with_causes;
use crate::kernel::{Enforcer, KernelError};

pub use report::{Check, Heard, Report, Verdict};
pub use throwaway::Names;
pub use trial::Finding;

use report::Area;
use throwaway::{Place, remove_leftovers};
use trial::Extent;

/// Makes a value of the enforcer that is tried, with its pins here; the same pins mean the same gates.
pub type MakeGates<'a> = &'a (dyn Fn(&Path) -> Result<Box<dyn Enforcer>, KernelError> + Sync);

/// How often a gate is tried before the daemon says that it does not hold, when that is in doubt.
const SELF_CHECKS_MAX: u32 = 3;

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Options {
    /// Settings, ledger and CA.
    pub home: PathBuf,
    /// Sockets of the daemon.
    pub run_directory: PathBuf,
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// The device that holds it.
    pub bridge: String,
    /// `egress`, to run clients by.
    pub executable: PathBuf,
    /// Reads the settings of a home: says that they are sound, or what is wrong.
    pub check_settings: fn(&Path) -> Result<String, String>,
}

/// Why something could not be tried.
#[derive(Debug, Error)]
pub enum DoctorError {
    /// See there.
    #[error(transparent)]
    Bottle(#[from] BottleError),
    /// See there.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Frames could not be sent or received.
    #[error("no frames can be sent or received")]
    Frames(#[source] io::Error),
    /// No thread, or no namespace for it.
    #[error("no thread in a network namespace is to be had")]
    Thread(#[source] io::Error),
    /// Something of a throw-away bottle is left.
    #[error("{path} could not be removed")]
    Left {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Looks at everything. `note` hears of each check when it is made, and of what takes seconds before that.
#[must_use]
pub fn examine(options: &Options, make: MakeGates<'_>, note: &mut dyn FnMut(&Heard)) -> Report {
    let mut report = Report::default();
    let mut keep = |heard: Heard| {
        note(&heard);
        if let Heard::Made(check) = heard {
            report.checks.push(check);
        }
    };
    host::look(options, &mut Area::new("host", &mut keep));
    let status = files::daemon(options, &mut Area::new("daemon", &mut keep));
    let is_served = status.is_some();
    if nix::unistd::geteuid().is_root() {
        files::home(options, is_served, &mut Area::new("files", &mut keep));
        gates(make, &mut Area::new("gate", &mut keep));
    }
    if let Some(status) = &status {
        clients::try_all(options, status, &mut Area::new("client", &mut keep));
    }
    report
}

/// Attacks a bottle of its own.
fn gates(make: MakeGates<'_>, area: &mut Area<'_>) {
    let names = Names::of_process(std::process::id());
    if let Err(error) = remove_leftovers() {
        area.check("leftovers", Verdict::Warning, with_causes(&error));
    }
    area.begin("attacking the host from a bottle without a gate");
    let tried = trial::without_a_gate(&names);
    summarise(area, "without a gate", tried, "attacks reach the host where no gate is: they are real");
    area.begin("attacking the host from a bottle behind a gate");
    let tried = trial::through_a_gate(&names, Place::Host, Extent::Whole, make);
    summarise(area, "with a gate", tried, "attacks by root in a bottle: none passes, each is counted as what it is");
}

fn summarise(area: &mut Area<'_>, name: &'static str, tried: Result<Vec<Finding>, DoctorError>, says: &'static str) {
    let findings = match tried {
        Ok(findings) => findings,
        Err(error) => return area.check(name, Verdict::Failed, format!("could not be tried: {}", with_causes(&error))),
    };
    let broken = findings.iter().filter_map(|finding| Some((&finding.name, finding.problem.as_ref()?)));
    for (attack, problem) in broken {
        area.check(attack.as_str(), Verdict::Failed, format!("{problem} ({name}): do not rely on this host's gates"));
    }
    if findings.iter().all(|finding| finding.problem.is_none()) {
        area.check(name, Verdict::Holds, format!("{} {says}", findings.len()));
    }
}

/// Sends a packet of each kind through a throw-away gate in a namespace of its own, and cuts it. `Err` says what does not
/// hold, and so that nothing may be promised.
///
/// # Errors
/// What is wrong, for people.
pub fn self_check(names: &Names, make: MakeGates<'_>) -> Result<(), String> {
    let attempt = || {
        let findings = trial::through_a_gate(names, Place::Private, Extent::Quick, make);
        findings.map_err(|error| format!("the gate could not be tried: {}", with_causes(&error)))
    };
    let mut findings = attempt()?;
    for _ in 1..SELF_CHECKS_MAX {
        if !trial::is_in_doubt(&findings) {
            break;
        }
        findings = attempt()?;
    }
    trial::worst(&findings).map_or(Ok(()), Err)
}
