//! The command line. Knows the control API and the words; does nothing itself.

mod approvals;
mod arguments;
mod audit;
mod budget;
mod doctor;
mod gateway;
mod generate;
mod kernel;
mod learn;
mod meter;
mod plan;
mod progress;
mod routes;
mod run;
mod settings;
mod show;
mod stop;
mod terminal;
mod usage;

pub use approvals::{ApprovalsCommand, DecideArguments, ListArguments};
pub use arguments::{
    Arguments, AttachMode, CheckArguments, Command, DaemonArguments, DoctorArguments, MeterArguments,
    RouteCheckArguments, RoutesCommand, SettingsCommand,
};
use arguments::{AttachArguments, Terms};
pub use audit::{AuditArguments, Since};
pub use doctor::DoctorTable;
pub use gateway::Gateway;
pub use generate::{completions, man_pages};
pub use routes::show_route_check;
pub use settings::{SettingsCheck, show_settings_check};
pub use usage::UsageArguments;

use std::process::ExitCode;

use anyhow::Result;

use crate::control::{
    AttachReply, AttachRequest, BottlesReply, Client, ClientError, CutAllReply, ErrorCode, GateReply, StatusReply,
};
use crate::domain::Stop;

/// The exit codes of every command but `run`, which returns its command's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Failed = 1,
    Usage = 2,
    NoDaemon = 3,
    NotPermitted = 4,
}

/// Runs a command that talks to the daemon, on the caller's terminal.
#[must_use]
pub fn main(arguments: Arguments) -> ExitCode {
    let client = Client::new(&arguments.run_dir);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let outcome = runtime.block_on(dispatch(&client, arguments.command));
    // A read of the terminal cannot be cancelled; it must not keep the process.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|error| fail(&error))
}

/// Meters a saved response; needs no daemon.
#[must_use]
pub fn meter(arguments: &MeterArguments) -> ExitCode {
    meter::meter(arguments).map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
}

/// Prints the error and what it means for the exit code.
#[must_use]
pub fn fail(error: &anyhow::Error) -> ExitCode {
    show::error(error);
    let exit = match error.downcast_ref::<ClientError>() {
        Some(ClientError::NoDaemon { .. }) => Exit::NoDaemon,
        Some(ClientError::NotPermitted { .. }) => Exit::NotPermitted,
        Some(ClientError::Refused(refused)) => match refused.code {
            ErrorCode::NotPermitted => Exit::NotPermitted,
            ErrorCode::Usage => Exit::Usage,
            ErrorCode::NotFound | ErrorCode::Conflict | ErrorCode::Failed => Exit::Failed,
        },
        Some(ClientError::Broken(_)) | None => Exit::Failed,
    };
    ExitCode::from(exit as u8)
}

/// Prints the error, which another user would not see.
#[must_use]
pub fn not_permitted(error: &anyhow::Error) -> ExitCode {
    show::error(error);
    ExitCode::from(Exit::NotPermitted as u8)
}

async fn dispatch(client: &Client, command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(run) => return run::run(client, run).await,
        Command::Attach(attach) => {
            let budget = attach.terms.budget.into_iter().map(|amount| (amount.provider, amount.limit)).collect();
            let AttachArguments { bottle, container, terms: Terms { agent, extends, shutdown, .. }, output } = attach;
            let request = AttachRequest { container, agent, budget, extends, shutdown };
            let reply: AttachReply = client.post(&format!("bottles/{bottle}/attach"), &request).await?;
            show::attached(&reply, output.json)?;
        }
        Command::Detach { bottle, output } => {
            let reply: AttachReply = client.post(&format!("bottles/{bottle}/detach"), &()).await?;
            show::attached(&reply, output.json)?;
        }
        Command::Cut { bottle: None, output, .. } => {
            let reply: CutAllReply = client.post("bottles/cut", &()).await?;
            show::cut_all(&reply, output.json)?;
        }
        Command::Cut { bottle: Some(bottle), output, .. } => {
            let reply: GateReply = client.post(&format!("bottles/{bottle}/cut"), &()).await?;
            show::gate(&reply, output.json)?;
        }
        Command::Restore { bottle, output } => {
            let reply: GateReply = client.post(&format!("bottles/{bottle}/restore"), &()).await?;
            show::gate(&reply, output.json)?;
        }
        Command::Resume(resume) => return run::resume(client, resume).await,
        Command::Freeze { bottle, output } => {
            stop::run(client, &bottle, Stop::Freeze, output.json).await?;
        }
        Command::Kill { bottle, output } => {
            stop::run(client, &bottle, Stop::Kill, output.json).await?;
        }
        Command::List { output } => {
            let reply: BottlesReply = client.get("bottles").await?;
            show::bottles(&reply, output.json)?;
        }
        Command::Budget(command) => budget::run(client, command).await?,
        Command::Approvals(command) => approvals::run(client, command).await?,
        Command::Usage(arguments) => usage::run(client, arguments).await?,
        Command::Metrics => show::whole(&client.text("metrics").await?)?,
        Command::Routes(RoutesCommand::Learn { bottle, since, output }) => {
            learn::learn(client, &bottle, since.map(|Since(at)| at), output).await?;
        }
        Command::Audit(arguments) => return audit::run(client, arguments).await,
        Command::Status { output } => {
            let reply: StatusReply = client.get("status").await?;
            show::status(&reply, output.json)?;
        }
        Command::Doctor(_)
        | Command::Top
        | Command::Meter(_)
        | Command::Routes(RoutesCommand::Check(_))
        | Command::Settings(_)
        | Command::Daemon(_)
        | Command::Completions { .. }
        | Command::ManPages { .. }
        | Command::Proxy
        | Command::BottleInit { .. }
        | Command::ContainerInit { .. }
        | Command::ContainerFront { .. } => {
            anyhow::bail!("this command has no daemon to ask")
        }
    }
    Ok(ExitCode::SUCCESS)
}
