//! A running `egress run` on pipes, and what its command says, with the time at which it was said.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{PATIENCE, code_of, until};

/// The reader of a front-end that has ended has this long, unless somebody else holds the stream.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Ends what a command printed; its exit code follows.
const END: &str = "@end-of-command";

/// The front-end of a bottle. Dropped, it is killed, which ends the bottle.
#[derive(Debug)]
pub struct Bottle {
    front: Child,
    input: Option<ChildStdin>,
    output: Stream,
    errors: Stream,
    /// Bytes of the output that earlier commands wrote.
    taken: usize,
}

/// What has been read, piece by piece.
type Stream = Arc<Mutex<Vec<(Instant, Vec<u8>)>>>;

/// What a bottle came to.
#[derive(Debug)]
pub struct Ended {
    /// Of `egress run`.
    pub code: i32,
    /// Everything the command wrote.
    pub output: Vec<u8>,
    /// Its standard error, with what `egress run` has to say.
    pub errors: String,
}

/// What one command in a shell came to.
#[derive(Debug)]
pub struct Done {
    /// Its exit code.
    pub code: i32,
    /// Both of its outputs.
    pub output: String,
}

/// What came of one request.
#[derive(Debug)]
pub struct Answer {
    /// 0 when there was no HTTP answer.
    pub status: u16,
    /// Without headers.
    pub body: String,
    /// curl's exit code.
    pub code: i32,
}

/// A request by an ordinary curl. The model's name holds what the provider is to do; `options` go to curl.
#[must_use]
pub fn curl(model: &str, is_streaming: bool, options: &str) -> String {
    format!(
        "curl -sN --max-time 30 {options} https://api.anthropic.com/v1/messages -H 'content-type: application/json' \
         -d '{{\"model\":\"{model}\",\"max_tokens\":1024,\"stream\":{is_streaming},\
         \"messages\":[{{\"role\":\"user\",\"content\":\"Say something.\"}}]}}'"
    )
}

impl Bottle {
    /// Starts the front-end.
    pub fn start(mut command: Command) -> Result<Self> {
        let mut front = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let output = collect(front.stdout.take().context("no output")?);
        let errors = collect(front.stderr.take().context("no errors")?);
        Ok(Self { input: front.stdin.take(), front, output, errors, taken: 0 })
    }

    /// Process id of the front-end.
    #[must_use]
    pub fn front_pid(&self) -> u32 {
        self.front.id()
    }

    /// Sends the front-end a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.front.id())?), signal)?)
    }

    /// What the command has written.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&bytes(&self.output)).into_owned()
    }

    /// What has been written to standard error.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&bytes(&self.errors)).into_owned()
    }

    /// When the command's last output arrived.
    #[must_use]
    pub fn last_output(&self) -> Option<Instant> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).last().map(|(at, _)| *at)
    }

    /// Waits until the output holds this.
    pub fn until_output(&self, text: &str) -> Result<()> {
        until(&format!("the bottle says {text:?}"), PATIENCE, || Ok(self.output().contains(text)))
            .with_context(|| format!("it said {:?} and {:?}", self.output(), self.errors()))
    }

    /// Runs one line in the bottle's shell.
    pub fn sh(&mut self, line: &str) -> Result<Done> {
        self.begin(line)?;
        self.end_of_command(PATIENCE * 2)
    }

    /// Gives the bottle's shell one line and does not wait for its end.
    pub fn begin(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("the shell's input is closed")?;
        writeln!(input, "{{ {line}\n}} </dev/null 2>&1; code=$?; echo; echo {END} $code")?;
        Ok(input.flush()?)
    }

    /// Waits for the end of what was begun.
    pub fn end_of_command(&mut self, limit: Duration) -> Result<Done> {
        let deadline = Instant::now() + limit;
        loop {
            let all = bytes(&self.output);
            let text = String::from_utf8_lossy(all.get(self.taken..).unwrap_or_default()).into_owned();
            if let Some((output, rest)) = text.split_once(&format!("\n{END} "))
                && let Some((code, _)) = rest.split_once('\n')
            {
                let length = output.len() + 1 + END.len() + 1 + code.len() + 1;
                let done = Done { code: code.parse()?, output: output.trim_end_matches('\n').to_owned() };
                self.taken += length;
                return Ok(done);
            }
            if let Some(status) = self.front.try_wait()? {
                bail!("the bottle has ended ({status}): {text} {}", self.errors());
            }
            if Instant::now() > deadline {
                bail!("no answer from the bottle's shell: {text} {}", self.errors());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// One streaming request by curl in the bottle's shell.
    pub fn ask(&mut self, model: &str) -> Result<Answer> {
        let done = self.sh(&curl(model, true, "-w '\\n%{http_code}'"))?;
        let (body, status) = done.output.rsplit_once('\n').unwrap_or(("", &done.output));
        Ok(Answer { status: status.trim().parse().unwrap_or(0), body: body.to_owned(), code: done.code })
    }

    /// Gives bytes to the command and closes its input.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        self.input.take().context("the input is closed")?.write_all(bytes)?;
        Ok(())
    }

    /// Waits for the end of `egress run` alone: its command may live on, and write.
    pub fn end_of_front(&mut self) -> Result<i32> {
        until("the front-end ends", PATIENCE, || Ok(self.front.try_wait()?.is_some()))
            .with_context(|| format!("it said {:?} and {:?}", self.output(), self.errors()))?;
        // What it said last is read in a moment; a command that lives on may keep the stream open.
        let _ = until("its last words are read", LAST_WORDS, || Ok(Arc::strong_count(&self.errors) == 1));
        Ok(code_of(self.front.wait()?))
    }

    /// Closes the input and waits for the end.
    pub fn end(&mut self) -> Result<Ended> {
        drop(self.input.take());
        let code = self.end_of_front()?;
        // The readers hold the last references to the streams until both ends are read.
        let are_read = || Ok(Arc::strong_count(&self.output) == 1 && Arc::strong_count(&self.errors) == 1);
        until("the bottle's output ends", PATIENCE, are_read)?;
        Ok(Ended { code, output: bytes(&self.output), errors: self.errors() })
    }
}

impl Drop for Bottle {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.front.kill();
        let _ = self.front.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static) -> Stream {
    let stream = Stream::default();
    let into = Arc::clone(&stream);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count) = from.read(&mut buffer)
            && count > 0
        {
            let piece = buffer.get(..count).unwrap_or_default().to_vec();
            into.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), piece));
        }
    });
    stream
}

fn bytes(stream: &Stream) -> Vec<u8> {
    let pieces = stream.lock().unwrap_or_else(PoisonError::into_inner);
    pieces.iter().flat_map(|(_, piece)| piece).copied().collect()
}
