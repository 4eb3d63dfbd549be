//! What only gates of nftables have: a table that others could change, beside the tables of others.

use std::thread;

use anyhow::{Result, ensure};
use egress_common::{CutReason, Direction, Outcome};
use egress_userspace::domain::CutMode;
use egress_userspace::kernel::{Gate, GateStatus};
use harness::gate::{Backend, PATIENCE, until};
use harness::netns::command;

use super::SHORTLY;
use super::frames::{self, Case};
use super::stage::{A_MOMENT, Sides, Stage};

/// Somebody runs `nft` while nobody holds the table; then the next controller comes.
pub(super) fn behind_our_back(stage: &mut Stage, words: &str) -> Result<()> {
    stage.close()?;
    nft(stage, words)?;
    stage.reopen()
}

/// Rules that are gone let nothing more through: the chain drops what nothing accepts.
pub(super) fn a_gate_without_rules_passes_nothing(stage: &mut Stage) -> Result<()> {
    let interface = stage.world.interface.0;
    for way in ["from", "to"] {
        behind_our_back(stage, &format!("flush chain netdev egress {way}-bottle-{interface}"))?;
    }
    for (direction, cases) in
        [(Direction::FromBottle, frames::from_bottle()), (Direction::ToBottle, frames::to_bottle())]
    {
        let sides = Sides::new(stage, direction)?;
        for case in cases {
            sides.line.send(&case.frame)?;
            thread::sleep(A_MOMENT);
            ensure!(!sides.witness.has_seen(case.marker), "{direction:?}: arrived: {}", case.name);
        }
    }
    ensure!(!stage.is_attached()?, "nobody noticed");
    stage.attach(&stage.world.gate())?;
    stage.check_all(|case| case.outcome)
}

pub(super) fn nft_reads_names(stage: &Stage) -> Result<()> {
    let interface = stage.world.interface.0;
    stage.attach(&Gate { cut_mode: CutMode::Reset, ..stage.world.gate() })?;
    let has = |text: &str, words: &[&str]| words.iter().all(|word| text.contains(word));
    let table = nft(stage, "list table netdev egress")?;
    let words = [
        "comment \"bottle=42 address=10.213.0.2 mac=02:00:0a:d5:00:02 gateway=10.213.0.1 mark=",
        "comment \"tcp=8080,443,80 dns=53 cut=reset\"",
        "elements = { 80, 443, 8080 }",
        "type filter hook ingress device \"gate0\"",
        "policy drop;",
        "iif @cut goto told-from-bottle-",
        "limit rate 64/second burst 64 packets",
        "reject with tcp reset",
    ];
    ensure!(has(&table, &words), "{table}");
    stage.set(GateStatus::Cut(CutReason::Budget))?;
    let cut = nft(stage, "list set netdev egress cut")?;
    ensure!(has(&cut, &["type iface_index", "elements = { \"gate0\" comment \"budget\" }"]), "{cut}");
    stage.world.send(Direction::FromBottle, &frames::from_bottle()[0].frame)?;
    let list = format!("list counter netdev egress from-bottle-{interface}-cut");
    ensure!(
        until(PATIENCE, || nft(stage, &list).is_ok_and(|text| text.contains("packets 1 "))),
        "{}",
        nft(stage, &list)?
    );
    Ok(())
}

/// Whatever is changed in a gate is noticed and can be made good.
pub(super) fn any_tampering_is_missed(backend: Backend) -> Result<()> {
    let mut stage = Stage::attached(backend)?;
    let told = Gate { cut_mode: CutMode::Reset, ..stage.world.gate() };
    let i = stage.world.interface.0;
    for words in [
        format!("delete rule netdev egress from-bottle-{i} handle {{first rule}}"),
        format!("insert rule netdev egress from-bottle-{i} accept"),
        format!("add rule netdev egress to-bottle-{i} accept"),
        format!("flush chain netdev egress told-to-bottle-{i}"),
        format!("chain netdev egress to-bottle-{i} {{ policy accept; }}"),
        format!("delete chain netdev egress from-bottle-{i}"),
        "delete table netdev egress".to_owned(),
    ] {
        stage.attach(&told)?;
        ensure!(stage.is_attached()?);
        let words = match words.split_once("{first rule}") {
            Some((start, _)) => format!("{start}{}", first_rule(&stage)?),
            None => words,
        };
        behind_our_back(&mut stage, &words)?;
        ensure!(!stage.is_attached()?, "nobody noticed: {words}");
        stage.attach(&told)?;
        ensure!(stage.is_attached()?, "not made good: {words}");
        ensure!(stage.gates.gates()? == [told.clone()], "another gate after: {words}");
    }
    stage.set(GateStatus::Cut(CutReason::Budget))?;
    behind_our_back(&mut stage, "flush set netdev egress cut")?;
    ensure!(stage.gates.gates()? == [told.clone()], "an opened gate passes for a cut one");
    behind_our_back(&mut stage, "add element netdev egress cut { gate0 }")?;
    let status = GateStatus::Cut(CutReason::Tampered);
    ensure!(stage.gates.gates()? == [Gate { status, ..told.clone() }]);
    stage.attach(&Gate { cut_mode: CutMode::Drop, ..told })?;
    stage.check_all(|case| case.outcome)
}

/// Where kernels know no owner, anybody can put a table to sleep at any time: its chains are listed as before.
pub(super) fn a_table_that_sleeps_is_missed_and_woken(backend: Backend) -> Result<()> {
    let mut stage = Stage::new(backend)?;
    behind_our_back(&mut stage, "add table netdev egress")?;
    stage.attach(&stage.world.gate())?;
    stage.check_all(|case| case.outcome)?;
    nft(&stage, "add table netdev egress { flags dormant; }")?;
    ensure!(!stage.is_attached()?, "nobody noticed");
    stage.attach(&stage.world.gate())?;
    ensure!(stage.is_attached()?, "not made good");
    stage.check_all(|case| case.outcome)
}

/// What firewalld, Docker and people do to their own tables.
pub(super) fn others_flush_their_tables_and_not_ours(backend: Backend) -> Result<()> {
    let stage = Stage::attached(backend)?;
    for words in [
        "add table ip filter",
        "add chain ip filter forward { type filter hook forward priority 0; policy drop; }",
        "flush table ip filter",
        "delete table ip filter",
        "add table inet firewalld",
        "delete table inet firewalld",
        // By anybody but who holds the table.
        "flush ruleset",
    ] {
        nft(&stage, words)?;
        ensure!(stage.is_attached()?, "{words}");
    }
    stage.check_all(|case| case.outcome)
}

/// While a controller runs, nobody else changes its table, root neither.
pub(super) fn a_table_that_is_held_is_nobody_elses(backend: Backend) -> Result<()> {
    let mut stage = Stage::attached(backend)?;
    stage.set(GateStatus::Cut(CutReason::Operator))?;
    for words in ["flush set netdev egress cut", "flush table netdev egress", "delete table netdev egress"] {
        let Err(error) = nft(&stage, words) else { anyhow::bail!("{words}: nothing said no") };
        ensure!(format!("{error:#}").contains("not permitted"), "{words}: {error:#}");
    }
    let other = stage.world.host.run(|| backend.open(stage.pins.path()))?;
    ensure!(other.set(stage.world.interface, GateStatus::Open).is_err(), "another process opened the gate");
    stage.check_all(|_| Outcome::Cut)?;
    drop(other);
    stage.close()?;
    stage.reopen()?;
    stage.set(GateStatus::Open)?;
    let Err(_) = nft(&stage, "flush table netdev egress") else { anyhow::bail!("adopted, but not held") };
    Ok(())
}

/// A controller that comes while the kernel still has the table as the last one's.
pub(super) fn a_table_that_is_let_go_of_is_taken(backend: Backend) -> Result<()> {
    let mut stage = Stage::attached(backend)?;
    let next = stage.world.host.run(|| backend.open(stage.pins.path()))?;
    stage.close()?;
    stage.gates = next;
    thread::sleep(SHORTLY);
    stage.gates.gates()?;
    let Err(_) = nft(&stage, "flush table netdev egress") else { anyhow::bail!("it is anybody's") };
    stage.attach(&stage.world.gate())?;
    stage.check_all(|case| case.outcome)
}

/// Newer kernels keep chains by their device's name, older ones with the device: either way nothing passes for attached
/// that is not.
pub(super) fn an_interface_under_another_name_is_missed(backend: Backend) -> Result<()> {
    let stage = Stage::attached(backend)?;
    stage.world.host.ip("link set gate0 name gate1")?;
    ensure!(!stage.is_attached()?, "nobody noticed");
    stage.attach(&stage.world.gate())?;
    stage.world.host.ip("link set gate1 name gate0")?;
    ensure!(!stage.is_attached()?, "nobody noticed that it was named back");
    stage.attach(&stage.world.gate())?;
    stage.check_all(|case| case.outcome)
}

/// Passing is not the last word: other tables' chains on the interface are still asked.
pub(super) fn other_tables_still_see_what_passed(stage: &Stage, case: &Case) -> Result<()> {
    nft(stage, "add table netdev other")?;
    nft(stage, "add chain netdev other in { type filter hook ingress device gate0 priority 500; policy drop; }")?;
    let witness = stage.world.witness_at_host()?;
    stage.world.send(Direction::FromBottle, &case.frame)?;
    thread::sleep(SHORTLY);
    ensure!(!witness.has_seen(case.marker), "the gate let it past a chain that drops");
    Ok(())
}

fn nft(stage: &Stage, words: &str) -> Result<String> {
    stage.world.host.run(|| command("nft", words))
}

fn first_rule(stage: &Stage) -> Result<u64> {
    let chain = format!("-a list chain netdev egress from-bottle-{}", stage.world.interface.0);
    let text = nft(stage, &chain)?;
    let handle = text.lines().find(|line| line.contains("@cut")).and_then(|line| line.rsplit(' ').next());
    Ok(handle.unwrap_or_default().parse()?)
}
