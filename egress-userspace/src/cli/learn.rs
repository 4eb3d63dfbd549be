//! What a bottle tried and was refused, written as a routes file to be reviewed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::control::Client;
use crate::domain::{AuditKind, AuditRow, BottleName, Host, MethodName, PathPattern, RefusalReason, UnixMillis};

use super::arguments::Output;
use super::{audit, show};

/// Paths of one host that are written out; of more, none is.
const PATHS_MAX: usize = 8;
/// From this length on, a part of a path that holds a digit is taken for an identifier.
const IDENTIFIER_BYTES_MIN: usize = 8;

/// One host, as a bottle tried it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Tried {
    ports: BTreeSet<u16>,
    methods: BTreeSet<String>,
    paths: BTreeSet<String>,
}

/// Prints what a bottle has tried since then: as a routes file, or as JSON.
///
/// # Errors
/// When the daemon does not answer.
pub(super) async fn learn(
    client: &Client,
    bottle: &BottleName,
    since: Option<UnixMillis>,
    output: Output,
) -> Result<()> {
    let tried = tried(&audit::rows_of(client, bottle, since).await?);
    if output.json {
        let hosts: Vec<_> = tried.into_iter().map(|(host, tried)| TriedHost { host, tried }).collect();
        return show::json(&serde_json::json!({ "bottle": bottle, "hosts": hosts }));
    }
    show::lines(&[written(bottle, &tried).trim_end().to_owned()]);
    Ok(())
}

/// What a bottle has tried since then, as a routes file.
///
/// # Errors
/// When the daemon does not answer.
async fn file(client: &Client, bottle: &BottleName, since: Option<UnixMillis>) -> Result<String> {
    let rows = audit::rows_of(client, bottle, since).await?;
    Ok(written(bottle, &tried(&rows)))
}

/// Prints it where the command's own output is not.
pub(super) async fn print(client: &Client, bottle: &BottleName, since: UnixMillis) -> Result<()> {
    show::note(file(client, bottle, Some(since)).await?.trim_end());
    Ok(())
}

/// The same, by name.
#[derive(Debug, Serialize)]
struct TriedHost {
    host: Host,
    #[serde(flatten)]
    tried: Tried,
}

fn tried(rows: &[AuditRow]) -> BTreeMap<Host, Tried> {
    let mut hosts: BTreeMap<Host, Tried> = BTreeMap::new();
    for row in rows {
        let AuditKind::RequestRefused { reason, host: Some(host), target, .. } = &row.kind else { continue };
        if !matches!(reason, RefusalReason::HostNotAllowed | RefusalReason::RouteForbids) {
            continue;
        }
        let tried = hosts.entry(host.clone()).or_default();
        let (method, path) = target.split_once(' ').unwrap_or((target, ""));
        if let Some(port) = path.strip_prefix("port ").and_then(|port| port.parse().ok()) {
            tried.ports.insert(port);
        } else if path.starts_with('/') && method.parse::<MethodName>().is_ok() {
            tried.methods.insert(method.to_owned());
            tried.paths.insert(general(path));
        }
    }
    hosts
}

/// A path, `*` in place of what tells requests of its kind apart.
fn general(path: &str) -> String {
    let is_identifier = |part: &str| {
        let has_digit = part.bytes().any(|byte| byte.is_ascii_digit());
        !part.is_empty()
            && (part.bytes().all(|byte| byte.is_ascii_digit()) || (has_digit && part.len() >= IDENTIFIER_BYTES_MIN))
    };
    path.split('/').map(|part| if is_identifier(part) { "*" } else { part }).collect::<Vec<_>>().join("/")
}

fn written(bottle: &BottleName, hosts: &BTreeMap<Host, Tried>) -> String {
    if hosts.is_empty() {
        return format!("# Bottle {bottle} tried no host that it may not reach.\n");
    }
    let mut text = format!(
        "# What bottle {bottle} tried and was refused. Review it, keep what it needs in routes/{bottle}.yaml or routes.yaml.\n\
         routes:\n"
    );
    for (host, tried) in hosts {
        // Writing to a string cannot fail.
        let _ = write_host(&mut text, host, tried);
    }
    text
}

fn write_host(text: &mut String, host: &Host, tried: &Tried) -> std::fmt::Result {
    writeln!(text, "  - host: {host}")?;
    if !tried.ports.is_empty() {
        let ports: Vec<String> = tried.ports.iter().map(u16::to_string).collect();
        writeln!(text, "    ports: {}", ports.join(", "))?;
    }
    if !tried.methods.is_empty() {
        let methods: Vec<&str> = tried.methods.iter().map(String::as_str).collect();
        writeln!(text, "    methods: {}", methods.join(", "))?;
    }
    let is_short = tried.paths.len() <= PATHS_MAX;
    if is_short && !tried.paths.is_empty() && tried.paths.iter().all(|path| path.parse::<PathPattern>().is_ok()) {
        writeln!(text, "    paths:")?;
        for path in &tried.paths {
            writeln!(text, "      - '{}'", path.replace('\'', "''"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::AuditHash;

    fn row(host: &str, target: &str, reason: RefusalReason) -> AuditRow {
        let kind = AuditKind::RequestRefused {
            reason,
            host: Some(host.parse().unwrap()),
            target: target.to_owned(),
            rule: None,
            count: 1,
        };
        let (bottle, hash) = (Some("web".parse().unwrap()), AuditHash([0; 32]));
        AuditRow { number: 1, at: UnixMillis(0), bottle, kind, hash }
    }

    fn check(rows: &[AuditRow], expected: &str) {
        assert_eq!(written(&"web".parse().unwrap(), &tried(rows)), expected);
    }

    #[test]
    fn what_was_tried_is_written_as_routes() {
        let no_host = RefusalReason::HostNotAllowed;
        let rows = [
            row("pypi.org", "DNS", no_host),
            row("pypi.org", "GET /simple/requests/", no_host),
            row("api.b.com", "POST /v1/items/1234567/x", RefusalReason::RouteForbids),
            row("api.b.com", "GET /v1/items/abc12345", no_host),
            row("git.c.com", "CONNECT port 8443", no_host),
            row("leak.com", "POST /x", RefusalReason::SensitiveData),
        ];
        let expected = "\
# What bottle web tried and was refused. Review it, keep what it needs in routes/web.yaml or routes.yaml.
routes:
  - host: api.b.com
    methods: GET, POST
    paths:
      - '/v1/items/*'
      - '/v1/items/*/x'
  - host: git.c.com
    ports: 8443
  - host: pypi.org
    methods: GET
    paths:
      - '/simple/requests/'
";
        check(&rows, expected);
    }

    #[test]
    fn many_paths_and_odd_ones_are_left_out() {
        let many: Vec<_> = (0..9).map(|n| row("a.com", &format!("GET /p{n}"), RefusalReason::HostNotAllowed)).collect();
        let head = "# What bottle web tried and was refused. Review it, keep what it needs in routes/web.yaml or routes.yaml.\nroutes:\n";
        check(&many, &format!("{head}  - host: a.com\n    methods: GET\n"));
        let odd = [row("a.com", "GET /a#b", RefusalReason::HostNotAllowed)];
        check(&odd, &format!("{head}  - host: a.com\n    methods: GET\n"));
        check(&[], "# Bottle web tried no host that it may not reach.\n");
    }
}
