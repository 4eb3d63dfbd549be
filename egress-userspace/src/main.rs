//! The `egress` binary: one program in several roles.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use egress_userspace::cli::{
    self, Arguments, AttachMode, CheckArguments, Command, DaemonArguments, DoctorArguments, DoctorTable,
    RouteCheckArguments, RoutesCommand, SettingsCheck, SettingsCommand,
};
use egress_userspace::daemon::{self, DaemonError, Options};
use egress_userspace::domain::{RouteQuestion, with_causes};
use egress_userspace::kernel::{self, TcAttachment};
use egress_userspace::tui::{self, TopError};
use egress_userspace::{LOG_VARIABLE, bottle, doctor, proxy};
use tracing_subscriber::EnvFilter;

/// Settings, ledger and CA of an installed service.
const SERVICE_HOME: &str = "/var/lib/egress";

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.kind() == ErrorKind::MissingSubcommand => return show_help(),
        Err(error) => error.exit(),
    };
    match arguments.command {
        Command::Daemon(daemon) => {
            run_daemon(daemon, arguments.run_dir).map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
        }
        Command::Completions { shell } => written(cli::completions(shell)),
        Command::ManPages { directory } => written(cli::man_pages(&directory)),
        Command::Proxy => {
            start_log();
            proxy::main()
        }
        Command::ContainerInit { arguments } => bottle::container_init_main(arguments.into_iter()),
        Command::ContainerFront { arguments } => bottle::container_front_main(arguments.into_iter()),
        Command::BottleInit { arguments } => bottle::init_main(arguments.into_iter()),
        Command::Doctor(doctor) => examine(doctor, arguments.run_dir).unwrap_or_else(|error| cli::fail(&error)),
        Command::Meter(meter) => cli::meter(&meter),
        Command::Top => watch(&arguments.run_dir).map_or_else(|error| cli::fail(&error), |()| ExitCode::SUCCESS),
        Command::Settings(SettingsCommand::Check(check)) => check_settings(check).unwrap_or_else(|error| fail(&error)),
        Command::Routes(RoutesCommand::Check(check)) => check_routes(check).unwrap_or_else(|error| fail(&error)),
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
        | Command::Approvals(_)
        | Command::Usage(_)
        | Command::Metrics
        | Command::Routes(RoutesCommand::Learn { .. })
        | Command::Audit(_)
        | Command::Status { .. } => cli::main(arguments),
    }
}

/// Tells apart what another user may.
fn fail(error: &anyhow::Error) -> ExitCode {
    let is_forbidden = error.downcast_ref().is_some_and(DaemonError::is_for_another_user);
    if is_forbidden { cli::not_permitted(error) } else { cli::fail(error) }
}

/// What there is to do, for whoever said nothing of it.
#[expect(clippy::print_stderr, reason = "the answer")]
fn show_help() -> ExitCode {
    eprintln!("{}", Arguments::command().render_help());
    ExitCode::from(2)
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
        attachment: attachment(arguments.attach),
        docker_socket: arguments.docker_socket,
        bottles_see: arguments.bottles_see,
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads are to be had")?;
    runtime.block_on(daemon::run(options))?;
    Ok(())
}

fn attachment(mode: AttachMode) -> TcAttachment {
    match mode {
        AttachMode::Auto => TcAttachment::Auto,
        AttachMode::Tcx => TcAttachment::Tcx,
        AttachMode::Clsact => TcAttachment::Clsact,
    }
}

/// Shows the dashboard. Exit codes are told by the daemon's client, so what it says goes on as it is.
fn watch(run_directory: &Path) -> Result<()> {
    tui::run(run_directory).map_err(|error| match error {
        TopError::Daemon(error) => error.into(),
        error @ (TopError::NoTerminal(_) | TopError::Terminal(_) | TopError::Start(_)) => error.into(),
    })
}

/// Says whether this host holds what is promised.
fn examine(arguments: DoctorArguments, run_directory: PathBuf) -> Result<ExitCode> {
    let options = doctor::Options {
        home: arguments.home.map_or_else(default_home, Ok)?,
        run_directory,
        gateway: arguments.gateway.address,
        bridge: arguments.bridge,
        executable: "/proc/self/exe".into(),
        check_settings: settings_of,
    };
    let (attachment, choice) = (attachment(arguments.attach), daemon::chosen_enforcer(&options.home));
    let make = |pins: &Path| kernel::open_alone(choice, pins, attachment);
    let table = DoctorTable::new(arguments.output.json);
    let report = doctor::examine(&options, &make, &mut |heard| table.note(heard));
    table.conclude(&report)
}

fn settings_of(home: &Path) -> Result<String, String> {
    let routes = daemon::check_routes(home, None).map_err(|error| with_causes(&error))?;
    let routes = match routes.files.len() {
        0 => String::new(),
        files => format!("; {files} routes files are sound"),
    };
    match daemon::check_settings(home, None) {
        Ok(None) => Ok(format!("none, so the defaults are in force{routes}")),
        Ok(Some(path)) => Ok(format!("{} is sound{routes}", path.display())),
        Err(error) => Err(with_causes(&error)),
    }
}

/// Says whether the daemon would take the settings as they are.
fn check_settings(arguments: CheckArguments) -> Result<ExitCode> {
    let CheckArguments { home, file, output } = arguments;
    let home = home.map_or_else(default_home, Ok)?;
    let (is_there, problem) = match daemon::check_settings(&home, file.clone()) {
        Ok(found) => (found.is_some(), None),
        // Nothing is known of it.
        Err(error) if error.is_for_another_user() => return Err(error.into()),
        Err(error) => (true, Some(with_causes(&error))),
    };
    let file = file.unwrap_or_else(|| home.join("settings.yml"));
    cli::show_settings_check(&SettingsCheck { file, is_there, is_sound: problem.is_none(), problem }, output.json)
}

/// Says where a request would go, by the files as they are.
fn check_routes(arguments: RouteCheckArguments) -> Result<ExitCode> {
    let RouteCheckArguments { home, bottle, method, url, output } = arguments;
    let home = home.map_or_else(default_home, Ok)?;
    let question = url.map(|url| RouteQuestion { url, method, bottle });
    cli::show_route_check(&daemon::check_routes(&home, question)?, output.json)
}

fn written(result: std::io::Result<()>) -> ExitCode {
    result.map_or_else(|error| cli::fail(&error.into()), |()| ExitCode::SUCCESS)
}

/// The service's where one is installed, so that every command means the same files as the service.
fn default_home() -> Result<PathBuf> {
    if Path::new(SERVICE_HOME).is_dir() {
        return Ok(SERVICE_HOME.into());
    }
    let home = std::env::home_dir().context("there is no home directory: give --home")?;
    Ok(home.join(".bot-bottle"))
}

/// Logs go to standard error; the journal keeps them.
fn start_log() {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr).init();
}
