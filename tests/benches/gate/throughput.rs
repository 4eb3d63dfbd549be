//! `iperf3` between the two ends of a veth, with a gate and without, turn by turn.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::gate::{Backend, GATEWAY, address};

use super::{BACKENDS, Stage, name};

/// A port that the bottle is given.
const PORT: u16 = 8080;
const SECONDS: u32 = 3;
const TAKES: usize = 5;

pub(super) fn measure() -> Result<()> {
    let kinds: Vec<Option<Backend>> = [None].into_iter().chain(BACKENDS.map(Some)).collect();
    let mut rates = vec![[Vec::new(), Vec::new()]; kinds.len()];
    for _ in 0..TAKES {
        for (kind, rates) in kinds.iter().zip(&mut rates) {
            let stage = Stage::new(*kind)?;
            for (is_to_bottle, rates) in [false, true].into_iter().zip(rates) {
                rates.push(rate(&stage, is_to_bottle)?);
            }
        }
    }
    println!("{:<16}{:>18}{:>12}{:>18}{:>12}", "", "from bottle Gb/s", "of no gate", "to bottle Gb/s", "of no gate");
    let medians: Vec<[f64; 2]> = rates.into_iter().map(|rates| rates.map(median)).collect();
    let [bare_from, bare_to] = medians.first().copied().context("nothing was measured")?;
    for (kind, [from, to]) in kinds.iter().zip(&medians) {
        println!("{:<16}{from:>18.2}{:>12.3}{to:>18.2}{:>12.3}", name(*kind), from / bare_from, to / bare_to);
    }
    Ok(())
}

/// Gigabits a second, as the receiver has counted.
fn rate(stage: &Stage, is_to_bottle: bool) -> Result<f64> {
    let gateway = address(GATEWAY).to_string();
    let mut server = stage.world.host.run(|| {
        let mut server = Command::new("iperf3");
        server.args(["-s", "-1", "-B", &gateway, "-p", &PORT.to_string()]);
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        server.spawn().context("iperf3 is missing: Debian's package iperf3 has it")
    })?;
    sleep(Duration::from_millis(300));
    let output = stage.world.bottle.run(|| {
        let mut client = Command::new("iperf3");
        client.args(["-c", &gateway, "-p", &PORT.to_string(), "-t", &SECONDS.to_string(), "-J"]);
        client.args(is_to_bottle.then_some("-R"));
        Ok(client.output()?)
    })?;
    server.wait()?;
    ensure!(output.status.success(), "iperf3: {}", String::from_utf8_lossy(&output.stdout));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let bits = told
        .pointer("/end/sum_received/bits_per_second")
        .and_then(serde_json::Value::as_f64)
        .context("iperf3 tells no rate")?;
    Ok(bits / 1e9)
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
}
