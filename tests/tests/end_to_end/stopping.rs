//! How far freezing and killing are, while they are waited for.

use anyhow::{Result, ensure};
use egress_userspace::control::{StopEvent, StopReply};
use egress_userspace::domain::{Stop, StopStep};
use harness::follow::Follower;
use harness::terminal::Terminal;

use crate::world;

/// Takes longer to remove than a person is left without a word.
const MANY_FILES: &str = "mkdir -p /var/tmp/many && cd /var/tmp/many && seq 200000 | xargs touch";

#[test]
fn whoever_waits_for_a_freeze_or_a_kill_sees_what_is_done() -> Result<()> {
    let Some(world) = world("how far stopping is", "")? else { return Ok(()) };
    let mut web = world.shell("web", &[])?;
    assert_eq!(web.sh(MANY_FILES)?.code, 0);
    let mut steps: Follower<StopEvent> = Follower::of(&world, "bottles/web/stopping");
    let at = |wanted: Option<StopStep>| move |event: &StopEvent| (event.step == wanted).then_some(());
    steps.until("nothing is done yet", at(None))?;
    assert_eq!(world.egress(&["freeze", "web"])?.code, 0);
    steps.until("its processes end", at(Some(StopStep::EndingProcesses)))?;
    steps.until("it is frozen", at(None))?;
    let order = [Some(StopStep::Holding), Some(StopStep::SavingLaunch), Some(StopStep::EndingProcesses), None];
    let places: Vec<_> =
        steps.heard().iter().skip(1).map(|event| order.iter().position(|one| *one == event.step)).collect();
    ensure!(places.iter().all(Option::is_some) && places.is_sorted(), "{:?}", steps.heard());

    let mut terminal = Terminal::of(&world.command(&["kill", "web"]))?;
    terminal.until_shown("egress: killing web: removing its files (")?;
    terminal.until_shown("web is gone")?;
    assert_eq!(terminal.end()?, Some(0));
    steps.until("its files are removed", at(Some(StopStep::RemovingFiles)))?;
    steps.until("they are gone", at(None))?;
    Ok(())
}

#[test]
fn a_program_that_stops_bottles_reads_json_and_nothing_else() -> Result<()> {
    let Some(world) = world("stopping with --json", "")? else { return Ok(()) };
    let _web = world.shell("web", &[])?;
    for (word, stop) in [("freeze", Stop::Freeze), ("kill", Stop::Kill)] {
        let said = world.egress(&[word, "web", "--json"])?;
        let reply: StopReply = serde_json::from_str(&said.output)?;
        assert_eq!((said.code, reply.stop, reply.was_already), (0, stop, false));
    }
    let said = world.egress(&["freeze", "nobody"])?;
    ensure!(said.code == 1 && said.output.is_empty() && said.errors.contains("there is no bottle nobody"), "{said:?}");
    Ok(())
}
