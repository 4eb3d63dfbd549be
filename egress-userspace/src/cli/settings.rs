//! `egress settings check`: are the settings sound?

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::show;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct SettingsCheck {
    /// The file.
    pub file: PathBuf,
    /// Without it the defaults are in force.
    pub is_there: bool,
    /// The daemon would take it.
    pub is_sound: bool,
    /// Why not: file, line, column and what is wrong there.
    pub problem: Option<String>,
}

/// Says it. Ends with 1 when something is wrong.
///
/// # Errors
/// When it cannot be said.
pub fn show_settings_check(check: &SettingsCheck, as_json: bool) -> Result<ExitCode> {
    match &check.problem {
        _ if as_json => show::json(check)?,
        Some(problem) => show::error(&anyhow::anyhow!("{problem}")),
        None if check.is_there => show::lines(&[format!("{} is sound", check.file.display())]),
        None => show::lines(&[format!("there is no {}: the defaults are in force", check.file.display())]),
    }
    Ok(if check.is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
