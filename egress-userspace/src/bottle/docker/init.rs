//! `egress container-init`: waits in a container until its network is there, then becomes the command.
//!
//! Security does not depend on it: without the network there is nothing to go around. It keeps the command from starting too
//! early, also when the container was started again and no daemon runs.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

const LOOK_EVERY: Duration = Duration::from_millis(3);
/// The program exists and cannot be run.
const NOT_EXECUTABLE: u8 = 126;
/// There is no such program.
const NOT_FOUND: u8 = 127;

/// Runs what follows `container-init --` on the command line.
#[must_use]
pub fn container_init_main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(program) = arguments.next() else {
        complain("there is no command: neither the image nor the command line names one");
        return ExitCode::from(NOT_FOUND);
    };
    while !has_network() {
        thread::sleep(LOOK_EVERY);
    }
    let error = Command::new(&program).args(arguments).exec();
    complain(&format!("{}: {error}", program.display()));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}

/// An interface that is up at both ends and has an address. The host's end comes up after its gate.
fn has_network() -> bool {
    // "Running" alone is also said of an interface whose other end the kernel has not looked at yet.
    let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING | InterfaceFlags::IFF_LOWER_UP;
    let is_there = |flags: InterfaceFlags| flags.contains(wanted) && !flags.contains(InterfaceFlags::IFF_LOOPBACK);
    let has_address = |address: &nix::ifaddrs::InterfaceAddress| {
        address.address.is_some_and(|address| address.as_sockaddr_in().is_some())
    };
    getifaddrs().is_ok_and(|mut all| all.any(|interface| is_there(interface.flags) && has_address(&interface)))
}

fn complain(text: &str) {
    // Without a standard error there is nobody to tell.
    let _unheard = writeln!(io::stderr(), "egress: {text}");
}
