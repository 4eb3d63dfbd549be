//! Settings and routes that change while the daemon runs: read anew when a file changes and on SIGHUP. A file that is wrong
//! changes nothing and is complained about until it is mended; so does a settings file that is gone. With them, the networks
//! that this host is in: names may not lead there.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use crate::domain::{AuditKind, CutMode, Network, ProviderName, with_causes};
use crate::policy::{RouteFiles, is_own_public, metered_hosts};
use crate::settings::Settings;

use super::launch::Launcher;
use super::secrets::{Looked, SecretFiles};
use super::{bounds, files, policy, routes};

/// How late a changed file is noticed, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How late it is noticed, at most, that the host is in another network.
const LOOK_AROUND_EVERY: Duration = Duration::from_secs(5);

/// What settings say that is asked for now and then. Clones share it.
#[derive(Clone)]
pub(super) struct InForce(Arc<watch::Sender<Said>>);

pub(super) struct Said {
    providers: BTreeSet<ProviderName>,
    cut_mode: CutMode,
    metrics: Option<SocketAddr>,
    problem: Option<String>,
    routes_problem: Option<String>,
    secrets_problem: Option<String>,
    networks_problem: Option<String>,
    secret_files: Vec<PathBuf>,
}

impl InForce {
    pub(super) fn new(settings: &Settings) -> Self {
        Self(Arc::new(watch::Sender::new(Said::of(settings))))
    }

    /// Is there a provider of that name, for a budget to be about?
    pub(super) fn knows(&self, provider: &ProviderName) -> bool {
        self.0.borrow().providers.contains(provider)
    }

    /// Every provider's name.
    pub(super) fn providers(&self) -> Vec<ProviderName> {
        self.0.borrow().providers.iter().cloned().collect()
    }

    /// What a cut bottle hears of it.
    pub(super) fn cut_mode(&self) -> CutMode {
        self.0.borrow().cut_mode
    }

    /// Where metrics are to be had besides the control socket.
    pub(super) fn metrics(&self) -> Option<SocketAddr> {
        self.0.borrow().metrics
    }

    /// Files with secrets that routes name.
    pub(super) fn secret_files(&self) -> Vec<PathBuf> {
        self.0.borrow().secret_files.clone()
    }

    /// Why the settings file, or a routes file, is not what is in force, or a secret not to be had.
    pub(super) fn problem(&self) -> Option<String> {
        let said = self.0.borrow();
        let problems = [
            ("settings.yml is not in force, the settings of before are", &said.problem),
            ("routes are not in force, those of before are", &said.routes_problem),
            ("requests that need it are refused", &said.secrets_problem),
            ("names are kept out of the networks that this host was in before", &said.networks_problem),
        ];
        let told = problems.into_iter().filter_map(|(what, why)| Some(format!("{what}: {}", why.as_ref()?)));
        let told: Vec<String> = told.collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// Changes whenever something else is said.
    pub(super) fn changed(&self) -> watch::Receiver<Said> {
        self.0.subscribe()
    }

    fn replace(&self, settings: &Settings) {
        self.0.send_modify(|said| {
            let (routes_problem, secrets_problem) = (said.routes_problem.take(), said.secrets_problem.take());
            let networks_problem = said.networks_problem.take();
            let secret_files = std::mem::take(&mut said.secret_files);
            *said = Said { routes_problem, secrets_problem, networks_problem, secret_files, ..Said::of(settings) };
        });
    }

    fn complain_of_routes(&self, problem: Option<String>) {
        self.0.send_modify(|said| said.routes_problem = problem);
    }

    fn complain_of_secrets(&self, problem: Option<String>) {
        self.0.send_modify(|said| said.secrets_problem = problem);
    }

    /// Is it another complaint than before?
    fn complain_of_networks(&self, problem: Option<String>) -> bool {
        self.0.send_if_modified(|said| {
            let is_other = said.networks_problem != problem;
            said.networks_problem = problem;
            is_other
        })
    }

    fn hide(&self, secret_files: Vec<PathBuf>) {
        self.0.send_modify(|said| said.secret_files = secret_files);
    }

    fn complain(&self, problem: Option<String>) {
        self.0.send_modify(|said| said.problem = problem);
    }
}

impl Said {
    fn of(settings: &Settings) -> Self {
        Self {
            providers: providers(settings),
            cut_mode: settings.cut_mode,
            metrics: settings.metrics,
            problem: None,
            routes_problem: None,
            secrets_problem: None,
            networks_problem: None,
            secret_files: Vec::new(),
        }
    }
}

pub(super) fn providers(settings: &Settings) -> BTreeSet<ProviderName> {
    let own = settings.providers.iter().map(|provider| provider.name.clone());
    metered_hosts().into_iter().map(|row| row.provider).chain(own).collect()
}

/// Who watches the files and whom they are for.
pub(super) struct Reload {
    home: PathBuf,
    settings: Settings,
    routes: RouteFiles,
    networks: BTreeSet<Network>,
    secret_files: SecretFiles,
    launcher: Launcher,
}

/// What tells one state of a file from the next: modified (seconds, nanoseconds), length, number. `None` when it is gone.
pub(super) type Stamp = Option<(i64, i64, u64, u64)>;

impl Reload {
    /// What these files say is in force, but for the secrets that routes name: the proxy hears of them first.
    pub(super) async fn begin(
        home: PathBuf,
        (settings, routes, networks): (Settings, RouteFiles, BTreeSet<Network>),
        launcher: Launcher,
    ) -> Self {
        let secret_files = SecretFiles::new(home.clone());
        let mut reload = Self { home, settings, routes, networks, secret_files, launcher };
        reload.reload_secrets(true).await;
        reload
    }

    /// Watches until the future is dropped. `seen` are the files as they were read at start.
    pub(super) async fn watch(mut self, mut hang_up: Signal, (mut seen, mut seen_routes): Seen) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut look_around = tokio::time::interval(LOOK_AROUND_EVERY);
        look_around.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let is_asked = tokio::select! {
                _ = look.tick() => false,
                _ = look_around.tick() => {
                    self.look_around().await;
                    continue;
                }
                Some(()) = hang_up.recv() => true,
            };
            let found = stamp(&self.home);
            if is_asked || found != seen {
                seen = found;
                self.reload(found).await;
            }
            let found = routes::stamps(&self.home);
            if is_asked || found != seen_routes {
                seen_routes = found;
                self.reload_routes().await;
            }
            self.reload_secrets(is_asked).await;
            if is_asked {
                self.look_around().await;
            }
        }
    }

    /// The host may be in other networks than before.
    async fn look_around(&mut self) {
        let found = self.launcher.runtime.own_networks().await.map_err(|error| with_causes(&error));
        let (networks, complaint) = looked_around(&self.networks, found);
        let is_news = self.launcher.in_force.complain_of_networks(complaint.clone());
        if let Some(problem) = complaint.filter(|_| is_news) {
            error!(problem, "names are kept out of the networks that this host was in before");
        }
        if networks == self.networks {
            return;
        }
        self.networks = networks;
        info!(networks = self.networks.len(), "this host is in other public networks, into which no name may lead");
        self.push(&self.settings).await;
    }

    /// Tells the proxy, and all whom it concerns, what is in force.
    async fn push(&self, settings: &Settings) {
        let known = policy(settings, &self.routes, &self.networks);
        self.launcher.controller.policy(known, bounds(settings)).await;
    }

    /// Connections that are open go on; what they ask next is decided by what is in force then.
    async fn reload_routes(&mut self) {
        let (routes, problems) = routes::read_anew(&self.home, &providers(&self.settings), &self.routes);
        let complaint = routes::complaint(&problems);
        if let Some(problem) = &complaint {
            error!(problem, "a routes file is not in force: it is as it was before, until it is mended");
        }
        self.launcher.in_force.complain_of_routes(complaint);
        if routes == self.routes {
            return;
        }
        self.routes = routes;
        self.reload_secrets(false).await;
        self.push(&self.settings).await;
        info!("routes were read anew and are in force");
        if let Err(error) = self.launcher.ledger.audit(None, AuditKind::RoutesReloaded).await {
            error!(error = with_causes(&error), "that routes were read anew is not in the audit");
        }
    }

    async fn reload_secrets(&mut self, is_asked: bool) {
        if let Some(Looked { values, problems }) = self.secret_files.look(&self.routes, is_asked) {
            self.launcher.in_force.hide(self.secret_files.paths());
            self.launcher.in_force.complain_of_secrets((!problems.is_empty()).then(|| problems.join("; ")));
            self.launcher.controller.secrets(values).await;
        }
    }

    async fn reload(&mut self, found: Stamp) {
        match self.apply(found).await {
            Ok(()) => info!("settings.yml was read anew and is in force"),
            Err(problem) => {
                error!(problem, "settings.yml is not in force: the settings of before are, until it is mended");
                self.launcher.in_force.complain(Some(problem));
            }
        }
    }

    async fn apply(&mut self, found: Stamp) -> Result<(), String> {
        let path = files::settings_path(&self.home);
        if found.is_none() && self.settings != Settings::default() {
            // A file that is moved away for a moment would otherwise lift every budget.
            return Err(format!("{} is gone: to run without settings, write an empty one", path.display()));
        }
        let settings = files::read_settings(&self.home).map_err(|error| with_causes(&error))?;
        self.launcher.ledger.set_rules(settings.rules.clone()).await.map_err(|error| with_causes(&error))?;
        self.launcher.ledger.set_durability(settings.durability).await.map_err(|error| with_causes(&error))?;
        if settings.upstream_ca != self.settings.upstream_ca {
            warn!("upstream.ca is read when the daemon starts: restart it for the change");
        }
        if settings.enforcer != self.settings.enforcer {
            warn!("enforcer is read when the daemon starts: restart it for the change");
        }
        self.replace(&settings).await;
        self.push(&settings).await;
        self.settings = settings;
        if let Err(error) = self.launcher.ledger.audit(None, AuditKind::SettingsReloaded).await {
            error!(error = with_causes(&error), "that settings were read anew is not in the audit");
        }
        Ok(())
    }

    /// Gates that are to be other gates now are made anew before anybody compares them.
    async fn replace(&self, settings: &Settings) {
        let _turn = self.launcher.mending.lock().await;
        self.launcher.in_force.replace(settings);
        if settings.cut_mode == self.settings.cut_mode {
            return;
        }
        if let Err(error) = self.launcher.renew_gates().await {
            error!(error = with_causes(&error), "gates are cut as before until they are compared with the ledger");
        }
    }
}

/// The networks that count after a look at them, and what is to be complained of: they are those of `before` if nothing was seen.
fn looked_around(
    before: &BTreeSet<Network>,
    found: Result<BTreeSet<Network>, String>,
) -> (BTreeSet<Network>, Option<String>) {
    match found {
        Ok(networks) => (own_public(networks), None),
        Err(problem) => (before.clone(), Some(problem)),
    }
}

/// Of the host's networks, those that hold public addresses.
pub(super) fn own_public(networks: BTreeSet<Network>) -> BTreeSet<Network> {
    networks.into_iter().filter(|network| is_own_public(*network)).collect()
}

/// The settings file and the routes files.
pub(super) type Seen = (Stamp, routes::Stamps);

/// The settings file as it is.
pub(super) fn stamp(home: &Path) -> Stamp {
    let found = std::fs::metadata(files::settings_path(home)).ok()?;
    Some((found.mtime(), found.mtime_nsec(), found.len(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: Result<&[&str], &str>, expected: (&[&str], Option<&str>)) {
        let networks = |addresses: &[&str]| -> BTreeSet<Network> {
            addresses.iter().map(|address| Network::new(address.parse().unwrap(), 24)).collect()
        };
        let before = networks(&["5.6.7.0"]);
        let after = looked_around(&before, found.map(networks).map_err(str::to_owned));
        assert_eq!(after, (networks(expected.0), expected.1.map(str::to_owned)), "{found:?}");
    }

    #[test]
    fn the_networks_of_before_count_while_none_can_be_read() {
        check(Ok(&["5.6.8.0", "10.0.0.0"]), (&["5.6.8.0"], None));
        check(Ok(&[]), (&[], None));
        check(Err("no memory"), (&["5.6.7.0"], Some("no memory")));
    }

    #[test]
    fn a_complaint_of_networks_stands_until_they_can_be_read() {
        let in_force = InForce::new(&Settings::default());
        let complaint = || Some("no memory".to_owned());
        assert!(in_force.complain_of_networks(complaint()));
        assert!(!in_force.complain_of_networks(complaint()), "the log has it already");
        in_force.replace(&Settings::default());
        let expected = "names are kept out of the networks that this host was in before: no memory";
        assert_eq!(in_force.problem().as_deref(), Some(expected));
        assert!(in_force.complain_of_networks(None));
        assert_eq!(in_force.problem(), None);
    }
}
