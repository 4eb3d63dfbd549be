//! Files that are shown are files that egress takes.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use harness::world::program;

use crate::pages;

#[test]
fn every_file_that_is_shown_is_sound() -> Result<()> {
    let mut wrong = Vec::new();
    for (name, page) in pages::all()? {
        for (language, text) in &page.files {
            let problem = match language.as_str() {
                "yaml" => problem_of_yaml(text)?,
                "json" => serde_json::from_str::<serde_json::Value>(text).err().map(|error| error.to_string()),
                _ => None,
            };
            wrong.extend(problem.map(|problem| format!("{name}: {problem}\nin\n{text}")));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}

/// Settings or routes: what either of them would say, where both find fault.
fn problem_of_yaml(text: &str) -> Result<Option<String>> {
    let mut problems = Vec::new();
    for (what, file) in [("settings", "settings.yml"), ("routes", "routes.yaml")] {
        let home = tempfile::tempdir()?;
        fs::write(home.path().join(file), text)?;
        // What a page names stands beside it.
        fs::write(home.path().join("extra-roots.pem"), "")?;
        let output = Command::new(program("egress")).args([what, "check", "--home"]).arg(home.path()).output()?;
        if output.status.success() {
            return Ok(None);
        }
        problems.push(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(Some(problems.join("\n")))
}
