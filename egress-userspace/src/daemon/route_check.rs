//! `egress routes check`: what would become of a request, by the files as they are on disk. Needs no daemon.

use std::path::Path;

use crate::budget;
use crate::domain::{
    Auth, AuthScheme, BottleName, CheckedFile, InboundOnMatch, OutboundOnMatch, RefPattern, RouteAnswer, RouteCheck,
    RouteQuestion,
};
use crate::policy::{Decision, Destination, Forbidden, MeteredTable, RouteFiles, Way};
use crate::settings::Settings;

use super::{DaemonError, files, reload, routes};

/// Reads the files of `home` and answers the question, if there is one.
///
/// # Errors
/// What is wrong with a file, and where.
pub fn check_routes(home: &Path, question: Option<RouteQuestion>) -> Result<RouteCheck, DaemonError> {
    let settings = files::read_settings(home)?;
    let found = routes::read(home, &reload::providers(&settings))?;
    let files = routes::stamps(home).into_keys().map(|path| {
        let bottle = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<BottleName>().ok());
        let is_host = path.parent() == Some(home);
        let file = bottle.filter(|_| !is_host).and_then(|bottle| found.bottles.get(&bottle)).unwrap_or(&found.host);
        CheckedFile { path, routes: file.routes.len() }
    });
    let files = files.collect();
    Ok(RouteCheck { files, answer: question.map(|question| answer(&settings, &found, question)) })
}

fn answer(settings: &Settings, routes: &RouteFiles, question: RouteQuestion) -> RouteAnswer {
    let table = MeteredTable::new(&settings.providers, &settings.upstream_resolve);
    let parent_of = |name: &BottleName| settings.rules.bottles.get(name).and_then(|rules| rules.extends.clone());
    let bottle = question.bottle.as_ref();
    let lineage = bottle.map(|bottle| budget::lineage(bottle, parent_of).unwrap_or_default()).unwrap_or_default();
    let (host, path) = (&question.url.host, question.url.path.as_str());
    let to = Destination { host, port: question.url.port, method: question.method.as_str(), path };
    let (is_allowed, rule, provider, says) = match routes.decide(&lineage, &table, to) {
        Decision::Allowed(way) => {
            (true, way.rule.clone(), way.metered.as_ref().map(|row| row.provider.clone()), said_of(&way))
        }
        Decision::Refused(Forbidden::Host) => (false, None, None, vec![format!("no route names {host}")]),
        Decision::Refused(Forbidden::Request) => {
            let says = format!("routes name {host}, and none is about this port, method and path");
            (false, None, None, vec![says])
        }
    };
    RouteAnswer { question, is_allowed, rule, provider, says }
}

/// What happens on the way.
fn said_of(way: &Way) -> Vec<String> {
    if way.is_spliced {
        return vec!["not intercepted: nothing is seen of what passes but its host, over TLS".to_owned()];
    }
    let mut says = Vec::new();
    if let Some(row) = &way.metered {
        says.push(format!("tokens are counted for {}", row.provider));
    }
    says.push(match &way.auth {
        Auth::Unsaid if way.metered.is_some() => "a credential that the agent brings is refused".to_owned(),
        Auth::Unsaid | Auth::Passthrough => "credentials that the agent brings pass".to_owned(),
        Auth::Inject(scheme, source) => {
            let scheme = match scheme {
                AuthScheme::Bearer => "as a bearer token",
                AuthScheme::Basic => "as user and password",
                AuthScheme::Header(name) => &format!("in the header {name}"),
                AuthScheme::SigV4 => "as a signature for AWS",
            };
            format!("credentials that the agent brings are taken out, that of {source} is put in {scheme}")
        }
    });
    if way.private {
        says.push("the name may lead to an address of this network".to_owned());
    }
    let pushes: Vec<&str> = way.git_push.iter().map(RefPattern::as_str).collect();
    says.push(match (way.git_fetch, pushes.as_slice()) {
        (false, []) => "git neither fetches nor pushes".to_owned(),
        (true, []) => "git fetches and does not push".to_owned(),
        (true, pushes) => format!("git fetches, and pushes to {}", pushes.join(", ")),
        (false, pushes) => format!("git pushes to {} and does not fetch", pushes.join(", ")),
    });
    says.push(match way.outbound {
        OutboundOnMatch::Off => "nothing is looked for in requests".to_owned(),
        OutboundOnMatch::Block => "a request in which a detector finds something is refused".to_owned(),
        OutboundOnMatch::Redact => "what a detector finds in a request is taken out".to_owned(),
        OutboundOnMatch::Supervise => {
            let seconds = way.approval_timeout.as_secs();
            format!("a request in which a detector finds something waits up to {seconds} s for an operator")
        }
    });
    says.push(match way.inbound {
        InboundOnMatch::Off => "nothing is looked for in responses".to_owned(),
        InboundOnMatch::Block => "a response in which a detector finds something ends there".to_owned(),
        InboundOnMatch::Redact => "what a detector finds in a response is taken out".to_owned(),
    });
    says
}
