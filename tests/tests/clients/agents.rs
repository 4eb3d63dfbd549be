//! The real agents, headless in a bottle: a turn is counted as they count it; a spent budget ends them at once, and tells their
//! user why; a cut stops them in the middle.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::{CutCause, Ending, GateView, Known, Usage};
use harness::agents::{AGENT_TIME_MAX, Agent, Format};
use harness::privilege;
use harness::provider::Counts;
use harness::world::{Bottle, Done, PATIENCE, World, until};

use crate::usage;

/// More than what an agent tells its model before each turn.
const BUDGETS: &str = "budget:\n  claude: 60k\n  codex: 60k\n  gemini: 60k";
/// Uses it up, and the turn goes on: the model is to hear what its tool said.
const CROSSING: &str = "output-80000+tool-use";
/// What everyone who asks after that is told.
const SPENT: [&str; 2] = ["is used up: 80,025 of 60,000 tokens", "ask the operator to raise the budget"];
/// Refused requests until an agent gives up.
const TRIES_MAX: usize = 2;
/// A piece each half second for a while. No more of them: Gemini CLI ends a text that repeats itself ten times.
const SLOW: &str = "deltas-9+delay-500+input-77";
/// Some of them.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// In which an agent that is cut off is looked at.
const SILENCE: Duration = Duration::from_secs(3);

/// A host that logs what it refuses, and a home in it.
struct Place {
    agent: Agent,
    world: World,
    home: PathBuf,
}

impl Place {
    /// `None` when it cannot be had here.
    fn new(test: &str, agent: Agent, settings: &str) -> Result<Option<Self>> {
        let test = format!("{agent:?} {test}");
        if !privilege::is_root(&test)? || !agent.is_installed(&test)? {
            return Ok(None);
        }
        let mut world = World::prepare(settings)?;
        let log = "EGRESS_LOG=info,egress_userspace::proxy=debug";
        world.daemon_starter = ["env", log].map(str::to_owned).to_vec();
        world.start_daemon()?;
        let home = world.names.directory.join("work");
        agent.furnish(&home)?;
        Ok(Some(Self { agent, world, home }))
    }

    fn shell(&self, bottle: &str) -> Result<Bottle> {
        self.world.shell_in(bottle, &self.home, &[])
    }

    /// Has the agent do something in a new bottle, to its end.
    fn run(&self, bottle: &str, format: Format) -> Result<Done> {
        let mut shell = self.shell(bottle)?;
        shell.begin(&self.agent.line("Say something.", format))?;
        shell.end_of_command(AGENT_TIME_MAX).with_context(|| self.world.log_tail())
    }

    /// Requests for work that the proxy refused to this bottle, the host's so manieth: the proxy's log says it.
    fn tries(&self, number: usize, bottle: &str) -> Result<Vec<String>> {
        let log = fs::read_to_string(&self.world.names.log)?;
        let names = [format!(" bottle={bottle} "), format!(" bottle={number} ")];
        let of_bottle = |line: &&str| names.iter().any(|name| line.contains(name));
        let refused = log.lines().filter(|line| line.contains(" refused ")).filter(of_bottle);
        let targets = refused.filter_map(|line| line.split_once("target=\"")?.1.split_once('"'));
        Ok(targets.map(|(target, _)| target.to_owned()).filter(|target| self.agent.is_work(target)).collect())
    }
}

#[test]
fn claude_codes_turn_is_counted_as_it_counts_it() -> Result<()> {
    check_turn(Agent::ClaudeCode)
}

#[test]
fn codexs_turn_is_counted_as_it_counts_it() -> Result<()> {
    check_turn(Agent::Codex)
}

#[test]
fn gemini_clis_turn_is_counted_as_it_counts_it() -> Result<()> {
    check_turn(Agent::GeminiCli)
}

fn check_turn(agent: Agent) -> Result<()> {
    let Some(place) = Place::new("and a turn", agent, BUDGETS)? else { return Ok(()) };
    place.world.provider().direct("input-310+cache-read-4200+output-52");
    let done = place.run("web", Format::Json)?;
    ensure!(done.code == 0 && done.output.contains("lorem ipsum"), "{done:?}");
    let work = agent.work(place.world.served());
    assert_eq!(work.len(), agent.exchanges_before() + 1, "{work:?}");
    until("all is settled", PATIENCE, || Ok(place.world.usage()?.sums.iter().all(|sum| sum.held.0 == 0)))?;
    let rows = place.world.rows("web")?;
    let mut sum = Counts::default();
    for served in &work {
        let row = rows.iter().find(|row| row.request_id.as_deref() == Some(&served.id));
        let row = row.with_context(|| format!("no row of {served:?}"))?;
        ensure!(
            (row.known, row.ending, row.usage) == (Known::Reported, Ending::Complete, usage(served.usage)),
            "{row:?}"
        );
        let Counts { input, cache_write, cache_read, output } = served.usage;
        sum = Counts {
            input: sum.input + input,
            cache_write: sum.cache_write + cache_write,
            cache_read: sum.cache_read + cache_read,
            output: sum.output + output,
        };
    }
    ensure!(sum.cache_read > 0 && agent.used(&done.output)? == sum, "it counts otherwise: {sum:?} {}", done.output);
    let others = rows.iter().filter(|row| !work.iter().any(|served| row.request_id.as_deref() == Some(&served.id)));
    for row in others {
        ensure!((row.known, row.usage) == (Known::Unmetered, Usage::default()), "{row:?}");
    }
    Ok(())
}

#[test]
fn claude_code_stops_when_a_budget_is_gone() -> Result<()> {
    check_budget(Agent::ClaudeCode)
}

#[test]
fn codex_stops_when_a_budget_is_gone() -> Result<()> {
    check_budget(Agent::Codex)
}

#[test]
fn gemini_cli_stops_when_a_budget_is_gone() -> Result<()> {
    check_budget(Agent::GeminiCli)
}

/// A turn that crosses it, then another agent's first, on nothing.
#[expect(clippy::print_stdout, reason = "how long it took is worth knowing and not to be asserted")]
fn check_budget(agent: Agent) -> Result<()> {
    let Some(place) = Place::new("and a budget", agent, BUDGETS)? else { return Ok(()) };
    place.world.provider().direct(CROSSING);
    for (number, bottle) in ["crossing", "late"].into_iter().enumerate() {
        let begun = Instant::now();
        let done = place.run(bottle, Format::Text)?;
        let tries = place.tries(number + 1, bottle)?;
        println!("{agent:?} {bottle}: {:.1} s, refused {tries:?}: {}", begun.elapsed().as_secs_f32(), done.output);
        ensure!(done.code != 0 && SPENT.iter().all(|word| done.output.contains(word)), "{done:?}");
        ensure!((1..=TRIES_MAX).contains(&tries.len()), "{tries:?}");
        // Codex's warm-up comes before it, without a token.
        let work = agent.work(place.world.served()).into_iter().filter(|served| served.usage.total() > 0);
        assert_eq!(work.count(), 1, "a refused request reached the provider");
    }
    Ok(())
}

#[test]
fn claude_code_is_cut_off() -> Result<()> {
    check_cut(Agent::ClaudeCode)
}

#[test]
fn codex_is_cut_off() -> Result<()> {
    check_cut(Agent::Codex)
}

#[test]
fn gemini_cli_is_cut_off() -> Result<()> {
    check_cut(Agent::GeminiCli)
}

/// Cut in the middle of an answer, it hears and is heard no more; restored, it goes on or gives up.
fn check_cut(agent: Agent) -> Result<()> {
    let Some(place) = Place::new("and a cut", agent, "")? else { return Ok(()) };
    let world = &place.world;
    world.provider().direct(SLOW);
    let mut bottle = place.shell("web")?;
    bottle.begin(&agent.line("Say something.", Format::Text))?;
    let before = agent.exchanges_before();
    let settled =
        || -> Result<usize> { Ok(world.rows("web")?.iter().filter(|row| row.known != Known::Unmetered).count()) };
    until("the answer is on its way", AGENT_TIME_MAX, || {
        Ok(settled()? == before && world.usage()?.sums.iter().any(|sum| sum.held.0 > 0))
    })?;
    sleep(UNDER_WAY);
    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    until("it is settled", PATIENCE, || Ok(settled()? == before + 1))?;
    until("the provider is hung up on", PATIENCE, || Ok(agent.work(world.served()).len() == before + 1))?;
    let served = world.served();
    let broken = agent.work(served.clone()).pop().context("nothing was served")?;
    ensure!(!broken.is_complete && broken.output_sent > 0, "{broken:?}");
    let row = world.rows("web")?.into_iter().find(|row| row.ending == Ending::Cut).context("no row of the cut")?;
    ensure!(row.usage.output.0 > 0 && row.usage.input.0 > 0, "{row:?}");
    sleep(SILENCE);
    assert_eq!(world.served().len(), served.len(), "something reached the provider after the cut");
    assert_eq!(world.bottle("web")?.gate, GateView::Cut(CutCause::Operator));

    world.provider().direct("");
    assert_eq!(world.egress(&["restore", "web"])?.code, 0);
    let done = bottle.end_of_command(AGENT_TIME_MAX)?;
    let has_asked_again = agent.work(world.served()).len() > before + 1;
    ensure!(done.code != 0 || has_asked_again, "an answer from nowhere: {done:?}");
    Ok(())
}
