//! The `egress` binary: one program in several roles.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use egress_userspace::cli::{self, Arguments, AttachMode, CheckArguments, Command, DaemonArguments, SettingsCommand};
use egress_userspace::daemon::{self, Options};
use egress_userspace::kernel::TcAttachment;
use egress_userspace::{LOG_VARIABLE, bottle, proxy};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Daemon(daemon) => {
            run_daemon(daemon, arguments.run_dir).map_or_else(|error| cli::fail(&error), |()| ExitCode::SUCCESS)
        }
        Command::Proxy => {
            start_log();
            proxy::main()
        }
        Command::ContainerInit { arguments } => bottle::container_init_main(arguments.into_iter()),
        Command::ContainerFront { arguments } => bottle::container_front_main(arguments.into_iter()),
        Command::BottleInit { arguments } => bottle::init_main(arguments.into_iter()),
        Command::Meter(meter) => cli::meter(&meter),
        Command::Settings(SettingsCommand::Check(check)) => {
            check_settings(check).map_or_else(|error| cli::fail(&error), |()| ExitCode::SUCCESS)
        }
        Command::Run(_)
        | Command::Attach(_)
        | Command::Detach { .. }
        | Command::Resume(_)
        | Command::Freeze { .. }
        | Command::Kill { .. }
        | Command::Cut { .. }
        | Command::Restore { .. }
        | Command::List { .. }
        | Command::Budget(_)
        | Command::Usage { .. }
        | Command::Audit(_)
        | Command::Status { .. } => cli::main(arguments),
    }
}

fn run_daemon(arguments: DaemonArguments, run_directory: PathBuf) -> Result<()> {
    start_log();
    let options = Options {
        home: arguments.home.map_or_else(default_home, Ok)?,
        run_directory,
        pins: arguments.pins,
        gateway: arguments.gateway.address,
        prefix: arguments.gateway.prefix,
        bridge: arguments.bridge,
        attachment: match arguments.attach {
            AttachMode::Auto => TcAttachment::Auto,
            AttachMode::Tcx => TcAttachment::Tcx,
            AttachMode::Clsact => TcAttachment::Clsact,
        },
        docker_socket: arguments.docker_socket,
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads are to be had")?;
    runtime.block_on(daemon::run(options))?;
    Ok(())
}

/// Says whether the daemon would take the settings as they are.
#[expect(clippy::print_stdout, reason = "the answer")]
fn check_settings(arguments: CheckArguments) -> Result<()> {
    let home = arguments.home.map_or_else(default_home, Ok)?;
    let path = daemon::check_settings(&home, arguments.file)?;
    println!("{} is sound", path.display());
    Ok(())
}

fn default_home() -> Result<PathBuf> {
    let home = std::env::home_dir().context("there is no home directory: give --home")?;
    Ok(home.join(".bot-bottle"))
}

/// Logs go to standard error; the journal keeps them.
fn start_log() {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
}
