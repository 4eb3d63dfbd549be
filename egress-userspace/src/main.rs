//! The `egress` binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "bottle-init") {
        return egress_userspace::bottle::init_main(arguments);
    }
    ExitCode::SUCCESS
}
