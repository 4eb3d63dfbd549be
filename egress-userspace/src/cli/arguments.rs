//! What may stand on the command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::domain::{
    AgentName, BottleName, CutoffPolicy, Limit, LimitError, MethodName, ProviderName, RuntimeKind, Scope, Url,
};
use crate::meter::Dialect;

use super::approvals::ApprovalsCommand;
use super::audit::{AuditArguments, Since};
use super::gateway::Gateway;
use super::usage::UsageArguments;

/// Below the list of commands.
const BEGIN: &str = "Begin with `egress doctor`, `sudo egress daemon` and, beside it, `egress run web -- COMMAND`.";

/// Meters what AI agents spend, budgets it, and cuts their network in the kernel when it is gone.
#[derive(Debug, Parser)]
#[command(name = "egress", version, propagate_version = true, max_term_width = 100, after_help = BEGIN)]
pub struct Arguments {
    /// Directory of the sockets.
    #[arg(long, env = "EGRESS_RUN_DIR", default_value = "/run/egress", global = true, value_name = "DIR", value_parser = absolute)]
    pub run_dir: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in a bottle: its own network namespace behind a gate.
    Run(RunArguments),
    /// Put a running container behind a gate: it leaves its networks and reaches what a bottle reaches.
    Attach(AttachArguments),
    /// Give a container that was attached back to its networks; its bottle ends.
    Detach {
        /// Which.
        bottle: BottleName,
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
    /// Cut a bottle: the kernel drops everything it sends and receives, open connections included.
    Cut {
        /// Which.
        #[arg(required_unless_present = "all")]
        bottle: Option<BottleName>,
        /// All that run.
        #[arg(long, conflicts_with = "bottle")]
        all: bool,
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
    /// Open the gate of a bottle that was cut.
    Restore {
        /// Which.
        bottle: BottleName,
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
    /// Cut a bottle and end its processes; its files and its command are kept, to be resumed.
    Freeze {
        /// Which.
        bottle: BottleName,
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
    /// Start the command of a frozen bottle again, on the files it left.
    Resume(ResumeArguments),
    /// Cut a bottle, end its processes and remove its files; what it has spent stays on record.
    Kill {
        /// Which.
        bottle: BottleName,
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
    /// Show bottles, their gates and what is left of their budgets.
    List {
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
    /// Show bottles as they are, while they are, on the whole terminal, with keys to cut, restore, freeze, resume, kill and grant.
    Top,
    /// Show and change budgets.
    #[command(subcommand)]
    Budget(BudgetCommand),
    /// Show and decide what waits for an operator: requests in which a detector found something.
    #[command(subcommand)]
    Approvals(ApprovalsCommand),
    /// Look at the settings.
    #[command(subcommand)]
    Settings(SettingsCommand),
    /// Look at the routes: where bottles may go.
    #[command(subcommand)]
    Routes(RoutesCommand),
    /// Show the tokens used.
    Usage(UsageArguments),
    /// Print what is counted and timed, as OpenMetrics text, which Prometheus reads.
    Metrics,
    /// Show what happened to bottles and gates, follow it, or verify that the record of it is whole.
    Audit(AuditArguments),
    /// Show how the daemon is.
    Status {
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
    /// Look whether this host holds what egress promises; attacks a bottle of its own. Ends with 1 when something does not.
    Doctor(DoctorArguments),
    /// Meter a saved response as the proxy would, and print its usage as JSON; null when it reports none.
    Meter(MeterArguments),
    /// Run the controller. Needs root.
    Daemon(DaemonArguments),
    /// Print what makes a shell complete this command line.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// Write a man page for every command; for packages.
    #[command(hide = true)]
    ManPages {
        /// Where.
        directory: PathBuf,
    },
    /// The unprivileged half; started by the daemon.
    #[command(hide = true)]
    Proxy,
    /// Waits for the network in a container; started by its engine.
    #[command(hide = true)]
    ContainerInit {
        /// The command.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// What stands for a container on the host; started by the daemon.
    #[command(hide = true)]
    ContainerFront {
        /// What the daemon says.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// The first process of a bottle; started by the daemon.
    #[command(hide = true)]
    BottleInit {
        /// What the daemon says.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// `egress budget`
#[derive(Debug, Subcommand)]
pub enum BudgetCommand {
    /// Show every scope that has a budget or has used something.
    Show {
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
    /// Show what a bottle's spending counts for, which budget governs and why.
    Explain {
        /// Which.
        bottle: BottleName,
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
    /// Set a budget at once, in place of what settings and launch flags say.
    Set {
        /// Such as claude=5M or claude=2M/day.
        #[arg(value_name = "PROVIDER=TOKENS")]
        amount: Amount,
        #[command(flatten)]
        /// Whose.
        whose: Whose,
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
    /// Add to a budget, for a time or for good.
    Grant {
        /// Such as claude=500k.
        #[arg(value_name = "PROVIDER=TOKENS")]
        amount: Amount,
        /// For so long, such as 30m, 2h or 1d.
        #[arg(long, value_name = "TIME")]
        ttl: Option<TimeToLive>,
        #[command(flatten)]
        /// Whose.
        whose: Whose,
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
    /// Take back what was set and granted: settings and launch flags count again.
    Clear {
        /// Of this provider only.
        provider: Option<ProviderName>,
        #[command(flatten)]
        /// Whose.
        whose: Whose,
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
}

/// Whose budget; the host's when nothing is said.
#[derive(Debug, Args)]
pub struct Whose {
    /// This bottle's, and so its children's.
    #[arg(long, conflicts_with = "agent")]
    pub bottle: Option<BottleName>,
    /// This agent's, wherever it runs.
    #[arg(long)]
    pub agent: Option<AgentName>,
}

impl Whose {
    pub(super) fn scope(self) -> Scope {
        let bottle = self.bottle.map(Scope::Bottle);
        bottle.or(self.agent.map(Scope::Agent)).unwrap_or(Scope::Host)
    }
}

/// `--ttl 2h`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive(pub Duration);

impl FromStr for TimeToLive {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || format!("{text:?} is not a time: write 90s, 30m, 2h or 1d");
        let seconds_per_unit = match text.as_bytes().last() {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 60 * 60,
            Some(b'd') => 24 * 60 * 60,
            _ => return Err(shape()),
        };
        let number: u32 = text.get(..text.len() - 1).and_then(|digits| digits.parse().ok()).ok_or_else(shape)?;
        if number == 0 { Err(shape()) } else { Ok(Self(Duration::from_secs(u64::from(number) * seconds_per_unit))) }
    }
}

/// `egress settings`
#[derive(Debug, Subcommand)]
pub enum SettingsCommand {
    /// Read settings.yml as the daemon does, and say what is wrong. Ends with 1 when something is.
    Check(CheckArguments),
}

/// `egress settings check`
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Directory of settings, ledger and CA [default: that of an installed service, else ~/.bot-bottle].
    #[arg(long, env = "BOT_BOTTLE_HOME", value_name = "DIR", value_parser = absolute)]
    pub home: Option<PathBuf>,
    /// This file instead.
    pub file: Option<PathBuf>,
    #[command(flatten)]
    /// How to print.
    pub output: Output,
}

/// `egress routes`
#[derive(Debug, Subcommand)]
pub enum RoutesCommand {
    /// Read the routes files as the daemon does, say what is wrong, and what would become of a request. Ends with 1 when a
    /// file is wrong or the request would be refused.
    Check(RouteCheckArguments),
    /// Write what a bottle tried and was refused as a routes file, to be reviewed.
    Learn {
        /// Which.
        bottle: BottleName,
        /// From then on: a time, or how long ago.
        #[arg(long, value_name = "TIME")]
        since: Option<Since>,
        #[command(flatten)]
        /// How to print.
        output: Output,
    },
}

/// `egress routes check`
#[derive(Debug, Args)]
pub struct RouteCheckArguments {
    /// Directory of settings, ledger and CA [default: that of an installed service, else ~/.bot-bottle].
    #[arg(long, env = "BOT_BOTTLE_HOME", value_name = "DIR", value_parser = absolute)]
    pub home: Option<PathBuf>,
    /// Whose request it is [default: a bottle's that has no routes file of its own].
    #[arg(long, value_name = "BOTTLE", requires = "url")]
    pub bottle: Option<BottleName>,
    /// How it asks.
    #[arg(long, value_name = "METHOD", default_value = "GET", requires = "url")]
    pub method: MethodName,
    /// Where the request would go: `https://api.example.com/path`, or a host name.
    pub url: Option<Url>,
    #[command(flatten)]
    /// How to print.
    pub output: Output,
}

/// `egress run`
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The bottle's name: usage and cuts are kept under it over all its runs.
    pub bottle: BottleName,
    #[command(flatten)]
    /// As what, and on whose account.
    pub terms: Terms,
    /// A directory whose files the command shares with the host, as it does those of the current directory; may be repeated.
    /// What it writes anywhere else is kept in the bottle.
    #[arg(long, value_name = "DIR")]
    pub share: Vec<PathBuf>,
    /// When it has ended, print what it tried and was refused as a routes file, to be reviewed. Nothing more is allowed.
    #[arg(long)]
    pub learn: bool,
    /// What makes the bottle: native or docker (Docker, or Podman) [default: docker with --image, else native].
    #[arg(long, value_name = "RUNTIME")]
    pub runtime: Option<RuntimeKind>,
    /// The image of a docker bottle. It must be on this host.
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// A variable of a docker bottle, as NAME=VALUE or, with the value it has here, as NAME; may be repeated.
    #[arg(long, value_name = "NAME[=VALUE]", requires = "image")]
    pub env: Vec<String>,
    /// The command and its arguments; without one, a docker bottle runs its image's own.
    #[arg(last = true, required_unless_present = "image", value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// As what a bottle runs, and on whose account.
#[derive(Debug, Args)]
pub struct Terms {
    /// The role it runs as.
    #[arg(long)]
    pub agent: Option<AgentName>,
    /// The bottle's budget for this run, such as claude=500k or claude=2M/day; may be repeated.
    #[arg(long, value_name = "PROVIDER=TOKENS")]
    pub budget: Vec<Amount>,
    /// The bottle's parent for this run: what it spends counts for the parent and its ancestors too.
    #[arg(long, value_name = "BOTTLE")]
    pub extends: Option<BottleName>,
    /// What is done when a budget is gone: cutoff, freeze or kill [default: as settings.yml says].
    #[arg(long, value_name = "POLICY")]
    pub shutdown: Option<CutoffPolicy>,
}

/// `egress attach`
#[derive(Debug, Args)]
pub struct AttachArguments {
    /// The bottle's name.
    pub bottle: BottleName,
    /// The container, by its name or number.
    #[arg(long, value_name = "ID")]
    pub container: String,
    #[command(flatten)]
    /// As what, and on whose account.
    pub terms: Terms,
    #[command(flatten)]
    /// How to print.
    pub output: Output,
}

/// `egress resume`
#[derive(Debug, Args)]
pub struct ResumeArguments {
    /// The bottle's name.
    pub bottle: BottleName,
    /// A budget in place of the run's own, such as claude=500k; may be repeated.
    #[arg(long, value_name = "PROVIDER=TOKENS")]
    pub budget: Vec<Amount>,
}

/// `--budget claude=500k`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Whose tokens.
    pub provider: ProviderName,
    /// How many, and how often.
    pub limit: Limit,
}

impl FromStr for Amount {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (provider, tokens) = text.split_once('=').ok_or("write PROVIDER=TOKENS, such as claude=500k")?;
        let provider = provider.parse().map_err(|error: crate::domain::NameError| error.to_string())?;
        let limit = tokens.parse().map_err(|error: LimitError| error.to_string())?;
        Ok(Self { provider, limit })
    }
}

/// How to print.
#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `egress meter`
#[derive(Debug, Args)]
pub struct MeterArguments {
    /// What the response is in: anthropic, openai_chat, openai_responses, gemini, bedrock, … [default: by the path, else a
    /// guess].
    #[arg(long, value_name = "DIALECT")]
    pub dialect: Option<Dialect>,
    /// Its content-type.
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// Its content-encoding, if it was saved encoded.
    #[arg(long, value_name = "ENCODINGS", value_parser = encodings)]
    pub content_encoding: Option<String>,
    /// The path or URL that was asked, to know the dialect by.
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// The response's body; - for standard input.
    pub file: PathBuf,
}

/// `egress daemon`
#[derive(Debug, Args)]
pub struct DaemonArguments {
    /// Directory of settings, ledger and CA [default: that of an installed service, else ~/.bot-bottle].
    #[arg(long, env = "BOT_BOTTLE_HOME", value_name = "DIR", value_parser = absolute)]
    pub home: Option<PathBuf>,
    /// Where gates are pinned.
    #[arg(long, default_value = "/sys/fs/bpf/egress", value_name = "DIR", value_parser = absolute)]
    pub pins: PathBuf,
    /// The gateway's address and the network bottles get theirs from.
    #[arg(long, default_value = "10.213.0.1/16", value_name = "ADDRESS/PREFIX")]
    pub gateway: Gateway,
    /// The bridge device that holds the gateway's address.
    #[arg(long, default_value = "egress0", value_name = "DEVICE")]
    pub bridge: String,
    /// How gates are attached.
    #[arg(long, default_value = "auto", value_name = "HOOK")]
    pub attach: AttachMode,
    /// A mount namespace, such as /proc/1/ns/mnt: bottles see its files [default: the daemon's].
    #[arg(long, value_name = "PATH")]
    pub bottles_see: Option<PathBuf>,
    /// Socket of Docker or Podman [default: DOCKER_HOST, else /var/run/docker.sock, else /run/podman/podman.sock].
    #[arg(long, value_name = "PATH")]
    pub docker_socket: Option<PathBuf>,
}

/// `egress doctor`
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Directory of settings, ledger and CA [default: that of an installed service, else ~/.bot-bottle].
    #[arg(long, env = "BOT_BOTTLE_HOME", value_name = "DIR", value_parser = absolute)]
    pub home: Option<PathBuf>,
    /// The daemon's --gateway.
    #[arg(long, default_value = "10.213.0.1/16", value_name = "ADDRESS/PREFIX")]
    pub gateway: Gateway,
    /// The daemon's --bridge.
    #[arg(long, default_value = "egress0", value_name = "DEVICE")]
    pub bridge: String,
    /// The daemon's --attach.
    #[arg(long, default_value = "auto", value_name = "HOOK")]
    pub attach: AttachMode,
    #[command(flatten)]
    /// How to print.
    pub output: Output,
}

/// How gates are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AttachMode {
    /// tcx where the kernel has it (6.6), else clsact.
    Auto,
    /// tcx links.
    Tcx,
    /// Classic clsact filters.
    Clsact,
}

/// What a response may have been saved in, the first applied first.
fn encodings(text: &str) -> Result<String, String> {
    let unknown = text.split(',').map(str::trim).find(|name| !crate::meter::is_encoding(name));
    unknown.map_or_else(|| Ok(text.to_owned()), |name| Err(format!("{name:?} is none of gzip, deflate, br, zstd")))
}

/// A directory that is the same one wherever the command is typed.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let whole = std::path::absolute(text).map_err(|_| "write a whole path, which begins with '/'".to_owned())?;
    if Path::new(text).is_absolute() {
        Ok(text.into())
    } else {
        Err(format!("write the whole path, {}", whole.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    /// Commands without `--json`, and why.
    const WITHOUT_JSON: [(&str, &str); 7] = [
        ("run", "prints what its command prints"),
        ("resume", "prints what its command prints"),
        ("meter", "prints nothing but JSON"),
        ("metrics", "prints a format of machines"),
        ("daemon", "prints its log"),
        ("top", "is for eyes; what it shows is `GET live`"),
        ("completions", "prints a shell's script"),
    ];

    fn check_json(command: &clap::Command, without: &mut Vec<String>) {
        let is_shown = |command: &&clap::Command| !command.is_hide_set() && command.get_name() != "help";
        for command in command.get_subcommands().filter(is_shown) {
            if command.has_subcommands() {
                check_json(command, without);
            } else if !command.get_arguments().any(|argument| argument.get_long() == Some("json")) {
                without.push(command.get_name().to_owned());
            }
        }
    }

    #[test]
    fn whatever_prints_something_prints_json() {
        let mut without = Vec::new();
        check_json(&Arguments::command(), &mut without);
        without.sort();
        let mut known: Vec<&str> = WITHOUT_JSON.iter().map(|(name, _)| *name).collect();
        known.sort_unstable();
        assert_eq!(without, known);
    }

    #[test]
    fn budgets_are_read() {
        let budget: Amount = "claude=5k/day".parse().unwrap();
        assert_eq!(budget.limit.to_string(), "5,000/day");
        for bad in ["claude", "=5k", "claude=", "Claude=5", "claude=5x"] {
            assert!(bad.parse::<Amount>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times_to_live_are_read() {
        assert_eq!("2h".parse(), Ok(TimeToLive(Duration::from_secs(7_200))));
        for bad in ["", "h", "0s", "-1h", "2", "2w", "1.5h", "99999999999s", "2µ"] {
            assert!(bad.parse::<TimeToLive>().is_err(), "{bad}");
        }
    }

    #[test]
    fn everything_after_the_dashes_is_the_command() {
        let parsed =
            Arguments::try_parse_from(["egress", "run", "web", "--agent", "a", "--", "sh", "-c", "--json"]).unwrap();
        let Command::Run(run) = parsed.command else { panic!("not run") };
        assert_eq!(run.command, ["sh", "-c", "--json"]);
        assert!(Arguments::try_parse_from(["egress", "run", "web"]).is_err());
        assert!(Arguments::try_parse_from(["egress", "run", "web", "--image", "alpine"]).is_ok());
    }
}
