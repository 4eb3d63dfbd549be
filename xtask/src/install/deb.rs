//! `cargo xtask deb`: a Debian package, by cargo-deb from what `egress-userspace/Cargo.toml` says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::layout::Shell;
use crate::command;

/// It only packs; built without its own compressors, it uses the system's.
const PACKER: &str = "cargo-deb";
const PACKER_VERSION: &str = "3.8.0";

/// `cargo xtask deb`
#[derive(Debug, Args)]
pub(crate) struct Deb {
    /// Pack the unoptimised program, for tests: it is built in a minute.
    #[arg(long)]
    dev: bool,
    /// Pack what has been built.
    #[arg(long)]
    no_build: bool,
    /// Where the package goes.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Builds the program and packs it.
pub(crate) fn run(arguments: &Deb) -> Result<()> {
    let packer = packer()?;
    let profile = if arguments.dev { "dev" } else { "release" };
    let program = match (arguments.no_build, arguments.dev) {
        (true, dev) => command::target_directory().join(if dev { "debug/egress" } else { "release/egress" }),
        (false, true) => build_quickly()?,
        (false, false) => super::build()?,
    };
    generate(&program)?;
    let output = arguments.output.clone().unwrap_or_else(|| command::target_directory().join("packages"));
    fs::create_dir_all(&output)?;
    println!("packing …");
    let mut deb = Command::new(packer);
    command::without_package(&mut deb);
    deb.current_dir(command::workspace()).args(["--package", "egress-userspace", "--no-build", "--profile", profile]);
    // Debug information is not packed, and is not taken from what is tried and thrown away.
    deb.args(if arguments.dev { &["--no-strip", "--fast"][..] } else { &["--strip"][..] });
    deb.args(["--quiet", "--output"]).arg(fs::canonicalize(output)?);
    command::run(&mut deb)
}

fn build_quickly() -> Result<PathBuf> {
    println!("building the program …");
    command::run(command::cargo().args(["build", "--package", "egress-userspace"]))?;
    Ok(command::target_directory().join("debug/egress"))
}

/// Where the package's description says that they are.
fn generate(program: &Path) -> Result<()> {
    let directory = command::workspace().join("target/package");
    let man = directory.join("man");
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    fs::create_dir_all(&man)?;
    command::run(Command::new(program).arg("man-pages").arg(&man))?;
    for shell in Shell::ALL {
        let script = command::output(Command::new(program).args(["completions", shell.name()]))?;
        fs::write(directory.join(format!("egress.{}", shell.name())), script)?;
    }
    Ok(())
}

/// cargo-deb, built once into the target directory.
fn packer() -> Result<PathBuf> {
    let tools = command::target_directory().join("tools");
    let packer = tools.join("bin").join(PACKER);
    if packer.exists() {
        return Ok(packer);
    }
    println!("building {PACKER} {PACKER_VERSION}, once …");
    let mut cargo = command::cargo();
    cargo.args(["install", "--locked", "--no-default-features", "--version", PACKER_VERSION, "--root"]).arg(&tools);
    command::run(cargo.arg(PACKER)).with_context(|| format!("{PACKER} could not be built"))?;
    ensure!(packer.exists(), "{} is not there", packer.display());
    Ok(packer)
}
