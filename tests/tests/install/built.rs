//! What has been built, brought to a host that cannot build it.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use harness::world::{Debian, program};

/// Where a reader of the documentation has the source.
pub(crate) const SOURCE: &str = "/srv/egress";
/// Where a build puts the program, from there.
pub(crate) const PROGRAM: &str = "target/release/egress";
/// Where packages come to, from there.
const PACKAGES: &str = "target/packages";

/// Stands for cargo where no compiler is: what would be built is there.
const CARGO: &str = r#"#!/bin/sh
export CARGO_MANIFEST_DIR="$PWD/xtask"
case "$1 $2" in
"build --release") exec test -x target/release/egress ;;
"xtask deb") exec ls target/packages ;;
"xtask install") shift && exec xtask/built "$@" --binary target/release/egress ;;
"xtask uninstall") shift && exec xtask/built "$@" ;;
esac
echo "nothing stands for cargo $*" >&2
exit 1
"#;

/// Puts the package of the program that is tested into that directory. It is made once.
pub(crate) fn package(into: &Path) -> Result<()> {
    /// Its name, and what it holds.
    static MADE: Mutex<Option<(OsString, Vec<u8>)>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let (name, bytes) = match made.as_ref() {
        Some(package) => package,
        None => made.insert(make_package()?),
    };
    Ok(fs::write(into.join(name), bytes)?)
}

fn make_package() -> Result<(OsString, Vec<u8>)> {
    let output = tempfile::tempdir()?;
    let mut xtask = Command::new(program("xtask"));
    let said = xtask.args(["deb", "--dev", "--no-build", "--output"]).arg(output.path()).output()?;
    let errors = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success(), "no package was made: {}{errors}", String::from_utf8_lossy(&said.stdout));
    let package = fs::read_dir(output.path())?.next().context("no package was made")??;
    Ok((package.file_name(), fs::read(package.path())?))
}

/// Brings the source there as far as it is read, the program, the package, and who stands for cargo.
pub(crate) fn source(host: &Debian) -> Result<()> {
    let source = host.at(SOURCE);
    for directory in ["target/release", PACKAGES, "xtask/package"] {
        fs::create_dir_all(source.join(directory))?;
    }
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/package"))? {
        let entry = entry?;
        fs::copy(entry.path(), source.join("xtask/package").join(entry.file_name()))?;
    }
    fs::copy(program("egress"), source.join(PROGRAM))?;
    fs::copy(program("xtask"), source.join("xtask/built"))?;
    package(&source.join(PACKAGES))?;
    let cargo = host.at("usr/local/bin/cargo");
    fs::write(&cargo, CARGO)?;
    Ok(fs::set_permissions(&cargo, Permissions::from_mode(0o755))?)
}
