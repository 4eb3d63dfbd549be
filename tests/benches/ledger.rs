//! Admissions and settlements per second, beside what the disk can make durable at all.
//!
//! Every task admits a request and settles it, again and again; each waits until both are committed. A pair's time is that of
//! both together. Tasks share one bottle with a chain of five scopes, all with a budget: the most a decision has to look at.
#![expect(clippy::print_stdout, reason = "the table is this program's output")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use egress_userspace::domain::{
    BottleId, BottleRules, Budget, CutoffPolicy, Durability, Ending, Known, Limit, Precedence, ProviderNotes, Rules,
    RuntimeKind, Settlement, SpendRequest, Tokens, UnixMillis, Usage, UsageDetails,
};
use egress_userspace::ledger::{AddressPool, Ledger, NewRun, Terms};
use tempfile::TempDir;

/// How long each line is measured.
const TIME: Duration = Duration::from_secs(4);
/// How long it runs before that.
const WARM_UP: Duration = Duration::from_secs(1);
/// Tasks at once.
const TASKS: [usize; 3] = [1, 64, 256];
/// What is written before each of the disk's own syncs: a page, as of a log.
const PAGE_BYTES: usize = 4096;

fn main() -> Result<()> {
    let directory = TempDir::new()?;
    println!("{:<12}{:>8}{:>12}{:>12}{:>12}{:>12}", "durability", "at once", "pairs/s", "p50 ms", "p99 ms", "worst ms");
    for durability in [Durability::Process, Durability::Power] {
        for tasks in TASKS {
            let path = directory.path().join(format!("{durability:?}-{tasks}"));
            let mut times = measure(&path, durability, tasks)?;
            times.sort_unstable();
            let at = |share: f64| percentile(&times, share).as_secs_f64() * 1_000.0;
            let rate = times.len() as f64 / TIME.as_secs_f64();
            let name = format!("{durability:?}").to_lowercase();
            println!("{name:<12}{tasks:>8}{rate:>12.0}{:>12.2}{:>12.2}{:>12.2}", at(0.5), at(0.99), at(1.0));
        }
    }
    println!(
        "the disk alone: {:.0} appended pages made durable per second, one after the other",
        syncs(directory.path())?
    );
    Ok(())
}

fn percentile(times: &[Duration], share: f64) -> Duration {
    let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
    times.get(index).copied().unwrap_or_default()
}

fn measure(path: &Path, durability: Durability, tasks: usize) -> Result<Vec<Duration>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let terms = Terms { rules: rules()?, durability, clock: Arc::new(now), boot: String::new() };
        let ledger = Ledger::open(path, terms)?;
        let run = NewRun {
            name: "web".parse()?,
            agent: Some("reviewer".parse()?),
            extends: None,
            budget: vec![("claude".parse()?, limit())],
            policy: CutoffPolicy::Cutoff,
            runtime: RuntimeKind::Native,
            container: None,
        };
        let pool = AddressPool { gateway: [10, 213, 0, 1].into(), prefix: 16 };
        let bottle = ledger.begin_run(run, pool).await?.id;
        let begin = Instant::now() + WARM_UP;
        let mut set = tokio::task::JoinSet::new();
        for _ in 0..tasks {
            set.spawn(pairs(ledger.clone(), bottle, begin));
        }
        let mut times = Vec::new();
        while let Some(done) = set.join_next().await {
            times.extend(done??);
        }
        Ok(times)
    })
}

async fn pairs(ledger: Ledger, bottle: BottleId, begin: Instant) -> Result<Vec<Duration>> {
    let request = SpendRequest {
        bottle,
        provider: "claude".parse()?,
        host: "api.anthropic.com".parse()?,
        target: "POST /v1/messages".to_owned(),
        is_metered: true,
        model: Some("claude-test-1".to_owned()),
        input_estimate: Tokens(1_000),
        output_cap: Tokens(1_000),
    };
    let mut times = Vec::new();
    loop {
        let start = Instant::now();
        let admitted = ledger.admit(request.clone()).await?.ok().context("the budget is gone")?;
        ledger.settle(settlement(admitted.permit)).await?;
        let end = Instant::now();
        if end > begin + TIME {
            return Ok(times);
        }
        if start >= begin {
            times.push(end - start);
        }
    }
}

fn settlement(permit: egress_userspace::domain::PermitId) -> Settlement {
    Settlement {
        permit,
        usage: Usage { input: Tokens(900), output: Tokens(50), ..Usage::default() },
        details: UsageDetails::default(),
        known: Known::Reported,
        ending: Ending::Complete,
        status: Some(200),
        model: Some("claude-test-1".to_owned()),
        provider_request_id: Some("req_011CSHoEeqs5C35K2UUqR7Fy".to_owned()),
        notes: ProviderNotes::default(),
    }
}

/// The agent, the bottle, its parent, its grandparent and the host, all with a budget that binds.
fn rules() -> Result<Rules> {
    let budget = || -> Result<Budget> { Ok(vec![("claude".parse()?, limit())]) };
    let bottle = |extends: Option<&str>| -> Result<BottleRules> {
        let extends = extends.map(str::parse).transpose()?;
        Ok(BottleRules { extends, budget: budget()?, ..BottleRules::default() })
    };
    let family = [("web", Some("base")), ("base", Some("root")), ("root", None)];
    let bottles = family.into_iter().map(|(name, extends)| Ok((name.parse()?, bottle(extends)?)));
    Ok(Rules {
        host: budget()?,
        agents: BTreeMap::from([("reviewer".parse()?, budget()?)]),
        bottles: bottles.collect::<Result<_>>()?,
        precedence: Precedence::Strict,
        ..Rules::default()
    })
}

fn limit() -> Limit {
    Limit::lifetime(Tokens(1 << 60))
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// How often a second an appended page reaches the disk.
fn syncs(directory: &Path) -> Result<f64> {
    let mut file = File::create(directory.join("pages"))?;
    let (start, mut count) = (Instant::now(), 0_u32);
    while start.elapsed() < WARM_UP {
        file.write_all(&[0x5a; PAGE_BYTES])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}
