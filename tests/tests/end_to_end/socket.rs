//! Responses over a WebSocket, as Codex asks for them: counted, held to a budget and cut like any other.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use egress_userspace::domain::{AuditKind, CutCause, Ending, GateView, Known, Scope, Tokens, Usage, UsageRow};
use harness::provider::Served;
use harness::world::{Bottle, Done, PATIENCE, World, program, until};
use serde_json::{Value, json};

use crate::world;

/// 1,100 tokens.
const REQUEST: &str = "gpt-test+input-400+cache-read-200+cache-write-100+output-400+deltas-10";
/// From the moment a byte is written to the moment the test has read it, on a busy machine.
const READING_MAX: Duration = Duration::from_millis(300);

/// The client's command line.
fn line(arguments: &str, models: &[&str]) -> String {
    format!("{} {arguments} {}", program("test-socket").display(), models.join(" "))
}

/// Asks for these responses and returns what was heard.
fn ask(bottle: &mut Bottle, arguments: &str, models: &[&str]) -> Result<Vec<Value>> {
    let done: Done = bottle.sh(&line(arguments, models))?;
    ensure!(done.code == 0, "{done:?}");
    done.output.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// How each response ended.
fn ends(events: &[Value]) -> Vec<&str> {
    let is_end = |kind: &&str| matches!(*kind, "response.completed" | "response.failed" | "error");
    events.iter().filter_map(|event| event["type"].as_str()).filter(is_end).collect()
}

/// The responses that the provider has served.
fn responses(world: &World) -> Vec<Served> {
    world.served().into_iter().filter(|served| served.method == "WS").collect()
}

/// The rows of responses, once there are so many: the first row of a socket is its handshake's, unmetered.
fn rows(world: &World, count: usize) -> Result<Vec<UsageRow>> {
    let metered = || -> Result<Vec<_>> {
        let rows = world.rows("web")?;
        Ok(rows.into_iter().filter(|row| row.known != Known::Unmetered).collect())
    };
    until("all is settled", PATIENCE, || Ok(metered()?.len() >= count)).with_context(|| world.log_tail())?;
    let rows = metered()?;
    ensure!(rows.len() == count, "{rows:?}");
    Ok(rows)
}

#[test]
fn the_ledger_equals_the_provider_for_every_response_of_a_socket() -> Result<()> {
    let Some(world) = world("a socket's ledger", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    let models = [REQUEST, "gpt-test+input-30+deltas-40+fragments", "gpt-test+rate-limited", "gpt-test+successor"];
    let events = ask(&mut bottle, "", &models)?;
    assert_eq!(ends(&events)[..3], ["response.completed", "response.completed", "error"]);
    let lanes = ["gpt-test+input-31+deltas-9+delay-5", "gpt-test+input-32+deltas-7+delay-8", REQUEST];
    let events = ask(&mut bottle, "--lanes", &lanes)?;
    assert_eq!(ends(&events), ["response.completed"; 3]);
    let rows = rows(&world, 8)?;
    let served = responses(&world);
    assert_eq!(served.len(), 8);
    for exchange in served.iter().filter(|served| served.status == 200) {
        let row = rows.iter().find(|row| row.request_id.as_deref() == Some(&exchange.id));
        let row = row.with_context(|| format!("no row of {exchange:?}"))?;
        let usage = exchange.usage;
        let columns = [usage.input, usage.cache_write, usage.cache_read, usage.output].map(Tokens);
        let Usage { input, cache_write, cache_read, output } = row.usage;
        ensure!([input, cache_write, cache_read, output] == columns, "{exchange:?} {row:?}");
        assert_eq!(
            (row.known, row.ending, row.target.as_str()),
            (Known::Reported, Ending::Complete, "WS /v1/responses")
        );
        assert_eq!((row.host.as_str(), row.provider.as_str()), ("api.openai.com", "codex"));
    }
    let rejected = rows.iter().find(|row| row.status == Some(429)).context("no row of the rejected request")?;
    assert_eq!((rejected.usage, rejected.ending), (Usage::default(), Ending::Error));
    ensure!(world.usage()?.sums.iter().all(|sum| sum.held.0 == 0), "tokens are still held");
    Ok(())
}

#[test]
fn a_budget_is_spent_on_one_socket_and_the_refused_request_never_leaves() -> Result<()> {
    let Some(world) = world("a socket's budget", "budget:\n  codex: 5k")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    // Five fit; each goes on where the one before ended, so the sixth is the first that is refused.
    let events = ask(&mut bottle, "", &[REQUEST; 6])?;
    let expected = [["response.completed"; 5].as_slice(), &["response.failed"]].concat();
    assert_eq!(ends(&events), expected, "{}", world.log_tail());
    let refusal = events.last().context("nothing was heard")?;
    assert_eq!(refusal["response"]["error"]["code"], "invalid_prompt");
    let message = refusal["response"]["error"]["message"].as_str().context("no message")?;
    ensure!(message.contains("5,500 of 5,000"), "{message}");
    assert_eq!((&refusal["egress_reason"], &refusal["scope"]), (&json!("budget_exhausted"), &json!("host")));
    assert_eq!((&refusal["budget"], &refusal["used"]), (&json!(5_000), &json!(5_500)));
    world.until_gate("web", GateView::Cut(CutCause::Budget), PATIENCE)?;
    // It has heard why: the gate need not wait for `last_word`.
    let rows = rows(&world, 5)?;
    assert_eq!(rows.iter().map(|row| row.usage.total().0).sum::<u64>(), 5_500);
    let served = responses(&world);
    assert_eq!(served.len(), 5, "the refused request reached the provider");
    let crossed = AuditKind::BudgetCrossed {
        scope: Scope::Host,
        provider: "codex".parse()?,
        budget: Tokens(5_000),
        used: Tokens(5_500),
        held: Tokens::ZERO,
        request: served.last().map(|served| served.id.clone()),
    };
    ensure!(world.audit(Some("web"))?.contains(&crossed), "{:?}", world.audit(Some("web"))?);
    Ok(())
}

#[test]
fn on_a_spent_budget_codex_is_sent_to_http_and_hears_it_there() -> Result<()> {
    let Some(world) = world("codex falls back", "budget:\n  codex: 5k\nlast_word: 10s")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    ask(&mut bottle, "", &["gpt-test+input-5500+deltas-3"])?;
    let refused = ask(&mut bottle, "", &[REQUEST])?;
    assert_eq!(refused[0]["refused"], 426, "{refused:?}");
    let body = refused[0]["body"].as_str().context("no body")?;
    ensure!(body.contains("5,503 of 5,000") && body.contains("budget_exhausted"), "{body}");
    ensure!(world.bottle("web")?.gate == GateView::Open, "an answer to an upgrade is not heard");
    let post =
        "curl -s --max-time 30 -w '\\n%{http_code}' https://api.openai.com/v1/responses -d '{\"model\":\"gpt-test\"}'";
    let done = bottle.sh(post)?;
    let (body, status) = done.output.rsplit_once('\n').context("no answer")?;
    assert_eq!(status, "400", "{body}");
    ensure!(body.contains("budget_exhausted"), "{body}");
    world.until_gate("web", GateView::Cut(CutCause::Budget), PATIENCE)?;
    assert_eq!(responses(&world).len(), 1);
    Ok(())
}

/// How a response is broken off, and what its row says. Each delta has 16 bytes and counts for a token.
struct Case {
    arguments: &'static str,
    model: &'static str,
    ending: Ending,
    output_min: u64,
}

const CASES: [Case; 5] = [
    Case { arguments: "", model: "gpt-test+deltas-50+delay-1+abort-after-13", ending: Ending::HungUp, output_min: 13 },
    Case { arguments: "", model: "gpt-test+deltas-50+stall-after-14", ending: Ending::TimedOut, output_min: 14 },
    Case { arguments: "", model: "gpt-test+deltas-50+error-after-12", ending: Ending::Error, output_min: 12 },
    Case { arguments: "", model: "gpt-test+deltas-9+no-usage", ending: Ending::Complete, output_min: 9 },
    Case {
        arguments: "--leave-after 16",
        model: "gpt-test+deltas-500+delay-20",
        ending: Ending::Cancelled,
        output_min: 12,
    },
];

#[test]
fn every_end_of_a_response_is_settled_once_under_its_name() -> Result<()> {
    let Some(world) = world("a socket's ends", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    for (settled, case) in CASES.iter().enumerate() {
        ask(&mut bottle, case.arguments, &[case.model])?;
        let row = rows(&world, settled + 1)?.pop().context("no row")?;
        ensure!((row.ending, row.known) == (case.ending, Known::Estimated), "{}: {row:?}", case.model);
        ensure!(row.usage.output.0 >= case.output_min && row.usage.input.0 > 0, "{}: {row:?}", case.model);
        until("the provider's side is over", PATIENCE, || Ok(responses(&world).len() == settled + 1))?;
    }
    ensure!(world.usage()?.sums.iter().all(|sum| sum.held.0 == 0), "tokens are still held");
    Ok(())
}

#[test]
fn a_cut_ends_an_open_socket() -> Result<()> {
    let Some(world) = world("an open socket", "")? else { return Ok(()) };
    let mut bottle = world.shell("web", &[])?;
    bottle.begin(&format!("timeout 6 {}", line("", &["gpt-test+deltas-3000+delay-20+output-3000"])))?;
    until("the stream flows", PATIENCE, || Ok(bottle.output().matches("output_text.delta").count() > 10))?;
    assert_eq!(world.egress(&["cut", "web"])?.code, 0);
    let cut = Instant::now();
    sleep(Duration::from_secs(1));
    let last = bottle.last_output().context("no output")?;
    ensure!(last < cut + READING_MAX, "bytes arrived {:?} after the cut", last - cut);
    let row = rows(&world, 1)?.remove(0);
    assert_eq!((row.known, row.ending), (Known::Estimated, Ending::Cut));
    until("the provider is hung up on", PATIENCE, || Ok(responses(&world).len() == 1))?;
    let served = responses(&world).remove(0);
    ensure!(!served.is_complete && row.usage.output.0 >= served.output_sent / 2, "{served:?} {row:?}");
    Ok(())
}
