//! The measuring client as a process of its own: prints one JSON document.
#![expect(clippy::print_stdout, reason = "the measurement is this program's output")]

use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::load::{Limit, Load, run};

fn main() -> Result<()> {
    let mut load = Load {
        connect: ([127, 0, 0, 1], 443).into(),
        is_explicit: false,
        ca: "/etc/ssl/certs/ca-certificates.crt".into(),
        body: r#"{"model":"claude","max_tokens":100,"messages":[]}"#.to_owned(),
        headers: Vec::new(),
        streams: 1,
        limit: Limit::Requests(100),
        spread: Duration::ZERO,
        has_warm_up: false,
        has_event_times: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{name} takes a value"));
        match name.as_str() {
            "--connect" => load.connect = value()?.parse()?,
            "--explicit" => load.is_explicit = true,
            "--ca" => load.ca = value()?.into(),
            "--body" => load.body = value()?,
            "--streams" => load.streams = value()?.parse()?,
            "--header" => {
                let line = value()?;
                let (name, text) = line.split_once(':').with_context(|| format!("{line} is no header"))?;
                load.headers.push((name.trim().to_owned(), text.trim().to_owned()));
            }
            "--requests" => load.limit = Limit::Requests(value()?.parse()?),
            "--seconds" => load.limit = Limit::Time(Duration::from_secs_f64(value()?.parse()?)),
            "--spread-us" => load.spread = Duration::from_micros(value()?.parse()?),
            "--warm-up" => load.has_warm_up = true,
            "--event-times" => load.has_event_times = true,
            _ => bail!(
                "unknown argument {name}: there are --connect --explicit --ca --body --header --streams --requests \
                 --seconds --spread-us --warm-up --event-times"
            ),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(run(load))?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}
