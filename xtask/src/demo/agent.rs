//! The agent of the demonstration: a shell in a bottle, which is handed one command after the other.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::undo;
use super::world::World;

/// The bottle's name.
pub(super) const BOTTLE: &str = "demo";
/// How long one command may take.
const COMMAND_MAX: Duration = Duration::from_secs(20);
/// Ends what a command printed; its exit code follows.
const END: &str = "@end-of-command";

/// A streaming request by an ordinary curl: no proxy variables, no certificate options. The `x-test-` headers tell the
/// provider of the demonstration what usage to report.
const REQUEST: &str = "curl -sN --max-time 10 https://api.anthropic.com/v1/messages \
     -H 'content-type: application/json' -H 'anthropic-version: 2023-06-01' -H 'x-api-key: not-a-secret' \
     -H 'x-test-input: 430' -H 'x-test-cache-read: 250' -H 'x-test-output: 180' -H 'x-test-deltas: 24' \
     -d '{\"model\":\"claude-sonnet-4-5\",\"max_tokens\":1024,\"stream\":true,\
     \"messages\":[{\"role\":\"user\",\"content\":\"Tell me about bottles.\"}]}'";

/// A running bottle.
pub(super) struct Agent {
    stdin: ChildStdin,
    lines: Receiver<String>,
}

/// What a command in the bottle did.
pub(super) struct Done {
    pub(super) output: String,
    pub(super) exit_code: i32,
}

/// What a request brought.
pub(super) struct Answer {
    /// 0 when no HTTP answer arrived.
    pub(super) status: u16,
    pub(super) body: String,
    /// curl's own.
    pub(super) exit_code: i32,
}

impl Agent {
    /// Starts the bottle. It is ended before the daemon is.
    pub(super) fn start(world: &mut World) -> anyhow::Result<Self> {
        let mut command = world.egress();
        command.args(["run", BOTTLE, "--agent", "demo", "--", "sh"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("`egress run` could not be started")?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        world.plan.on_undo(move || undo::end(&mut child));
        let (stdin, stdout) = (stdin.context("no input to the bottle")?, stdout.context("no output of the bottle")?);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut agent = Self { stdin, lines };
        agent.shell("true").context("the bottle did not start")?;
        Ok(agent)
    }

    /// Runs one line of shell in the bottle.
    pub(super) fn shell(&mut self, line: &str) -> anyhow::Result<Done> {
        writeln!(self.stdin, "{{ {line}\n}} </dev/null 2>&1; code=$?; echo; echo {END} $code")
            .context("the bottle's shell has ended")?;
        self.stdin.flush()?;
        let deadline = Instant::now() + COMMAND_MAX;
        let mut output = Vec::new();
        loop {
            undo::fail_when_interrupted()?;
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    if let Some(code) = line.strip_prefix(END) {
                        return Ok(Done { output: output.join("\n"), exit_code: code.trim().parse()? });
                    }
                    output.push(line);
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the bottle has ended: {}", output.join("\n")),
                Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    bail!("no answer from the bottle's shell in {} s", COMMAND_MAX.as_secs())
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// One streaming request to the provider.
    pub(super) fn request(&mut self) -> anyhow::Result<Answer> {
        let done = self.shell(&format!("{REQUEST} -w '\\n%{{http_code}}'"))?;
        let text = done.output.trim_end();
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", text));
        Ok(Answer { status: status.parse().unwrap_or(0), body: body.to_owned(), exit_code: done.exit_code })
    }

    /// A connection that a cut gate must drop; short, as nothing will come.
    pub(super) fn try_to_connect(&mut self) -> anyhow::Result<Done> {
        self.shell("curl -sS --connect-timeout 2 --max-time 3 -o /dev/null https://api.anthropic.com/v1/models")
    }
}
