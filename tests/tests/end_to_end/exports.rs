//! Usage as it leaves: lines for spreadsheets, sums by whatever is asked, bars.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::world::{World, program};
use serde_json::Value;

use crate::world;

/// What a bottle would like a spreadsheet to run.
const FORMULA: &str = "=claude-test+input-10+output-5";

fn spend(world: &World) -> Result<()> {
    for (bottle, agent, model, times) in [
        ("web", "reviewer", "claude-test+input-100+output-20", 2),
        ("web", "writer", "claude-a,b-test+input-7+output-3", 1),
        ("api", "writer", FORMULA, 1),
    ] {
        let mut shell = world.shell(bottle, &["--agent", agent])?;
        for _ in 0..times {
            assert_eq!(shell.ask(model)?.status, 200);
        }
        shell.end()?;
    }
    Ok(())
}

/// Rows of comma-separated values, as Python reads them.
fn read(csv: &str) -> Result<Vec<Vec<String>>> {
    let script = "import csv,json,sys; print(json.dumps(list(csv.reader(sys.stdin))))";
    let mut python =
        Command::new("python3").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut python.stdin.take().context("no input")?, csv.as_bytes())?;
    Ok(serde_json::from_slice(&python.wait_with_output()?.stdout)?)
}

#[test]
fn usage_leaves_as_lines_and_sums() -> Result<()> {
    let Some(world) = world("exports", "")? else { return Ok(()) };
    spend(&world)?;
    let rows = world.usage()?.rows;
    let lines = read(&world.egress(&["usage", "--csv"])?.output)?;
    ensure!(lines.len() == rows.len() + 1 && lines.iter().all(|line| line.len() == lines[0].len()), "{lines:?}");
    let column = |name: &str| lines[0].iter().position(|column| column == name).context("no such column");
    for (line, row) in lines[1..].iter().zip(&rows) {
        assert_eq!(line[column("bottle")?], row.bottle.as_str());
        assert_eq!(line[column("total")?], row.usage.total().0.to_string());
        let model = row.model.clone().unwrap_or_default();
        let expected = if model.starts_with('=') { format!("'{model}") } else { model };
        assert_eq!(line[column("model")?], expected);
    }
    ensure!(lines.iter().flatten().any(|cell| cell.starts_with("'=")), "no formula was there: {lines:?}");

    let by = world.egress(&["usage", "--by", "agent,bottle", "--csv", "--since", "1h"])?.output;
    let expected = "\
agent,bottle,requests,input,cache_write,cache_read,output,total
reviewer,web,2,200,0,0,40,240
writer,api,1,10,0,0,5,15
writer,web,1,7,0,0,3,10
";
    assert_eq!(by, expected);
    let by: Value = world.json(&["usage", "web", "--by", "day", "--by", "provider"])?;
    let group = &by["groups"][0];
    assert_eq!((&group["total"], &group["provider"], &group["requests"]), (&250.into(), &"claude".into(), &3.into()));
    ensure!(group["day"].as_str().is_some_and(|day| day.len() == 10), "{by}");
    let since: Value = world.json(&["usage", "--since", "1h"])?;
    assert_eq!(since["rows"].as_array().map(Vec::len), Some(rows.len()));
    assert_eq!(since["sums"][1]["requests"], 3);
    assert_eq!(read(&world.egress(&["usage", "--csv", "--last", "1"])?.output)?.len(), 2);
    let table = world.egress(&["usage", "--since", "1h"])?.output;
    ensure!(table.starts_with("TIME") && table.contains("web claude: 250 tokens in 3 requests"), "{table}");
    for (locale, bar) in [("C", '#'), ("C.UTF-8", '█')] {
        let chart = world.command(&["usage", "--by", "agent", "--chart"]).env("LC_ALL", locale).output()?;
        let chart = String::from_utf8(chart.stdout)?;
        ensure!(chart.contains(&format!("\nreviewer 240 {bar}{bar}")), "{chart}");
    }
    let wrong = world.egress(&["usage", "--by", "colour"])?;
    ensure!(wrong.code == 2 && wrong.errors.contains("write bottle, agent, provider, model or day"), "{wrong:?}");
    Ok(())
}

#[test]
fn whoever_reads_may_stop() -> Result<()> {
    let Some(world) = world("a broken pipe", "")? else { return Ok(()) };
    spend(&world)?;
    let egress = format!("{} --run-dir {}", program("egress").display(), world.names.run.display());
    for words in ["usage --csv", "usage --json", "usage", "usage --by bottle", "metrics"] {
        // Nobody reads at all: the pipe is broken before the first byte.
        let line = format!("{{ {egress} {words}; echo $? >&2; }} | true");
        let done = Command::new("sh").args(["-c", &line]).output()?;
        let errors = String::from_utf8_lossy(&done.stderr);
        ensure!(errors.trim() == "0", "{words}: {errors}");
    }
    Ok(())
}

#[test]
fn settings_and_routes_are_told_as_json() -> Result<()> {
    let Some(world) = world("json of checks", "")? else { return Ok(()) };
    let home = world.names.home.display().to_string();
    let check: Value = world.json(&["settings", "check", "--home", &home])?;
    assert_eq!((&check["is_sound"], &check["problem"]), (&true.into(), &Value::Null));
    world.write_settings("colour: red")?;
    let wrong = world.egress(&["settings", "check", "--home", &home, "--json"])?;
    let check: Value = serde_json::from_str(&wrong.output)?;
    ensure!(wrong.code == 1 && check["problem"].as_str().is_some_and(|text| text.contains(":1:1: ")), "{wrong:?}");
    let mut bottle = world.shell("web", &[])?;
    bottle.sh("curl -s --max-time 5 https://nowhere.example/")?;
    let learnt: Value = world.json(&["routes", "learn", "web"])?;
    assert_eq!(learnt["hosts"][0]["host"], "nowhere.example");
    Ok(())
}
