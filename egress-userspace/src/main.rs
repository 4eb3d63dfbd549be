//! The `egress` binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("proxy") => egress_userspace::proxy::main(),
        _ => ExitCode::FAILURE,
    }
}
