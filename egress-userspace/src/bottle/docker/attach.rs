//! Containers that ran before they were a bottle: taken off their networks, and given back to them.
//!
//! A container is on Docker's network `none`, or on none of Podman's, as long as it is in a bottle. So the engine gives it no
//! interface when it starts it again; with no network at all, Docker would put it back on that of its creation.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bollard::models::{EndpointSettings, MountPointTypeEnum};
use serde::{Deserialize, Serialize};

use super::engine::{Engine, NO_NETWORK, Seen};
use super::inside::{self, Namespaces};
use super::{DockerRuntime, FRONT, LABEL, Mark, exposed, real, step};
use crate::bottle::native::freeze::write;
use crate::bottle::native::namespace::tolerate_absence;
use crate::bottle::native::on_thread;
use crate::bottle::{BottleError, BottleSpec, BuiltBottle, Caller, RunningCommand};
use crate::domain::BottleName;
use crate::fault::{self, Point};

/// What is done to a container that is attached.
pub(super) const OFF: &str = "taking it off its networks";
/// In the bottle's directory of kept things.
const ATTACHED: &str = "attached.json";

/// What to do with a container that cannot be attached.
const REMEDY: &str = "create it again on a bridge network, or run its image by `egress run --runtime docker --image`";
/// The same for one that has the host.
const WITHOUT: &str = "create it again without that, or run its image by `egress run --runtime docker --image`";

/// What an attached container is given back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Attached {
    container: String,
    networks: BTreeMap<String, EndpointSettings>,
}

impl DockerRuntime {
    /// The number of a container that may be attached.
    pub(in crate::bottle) async fn attachable(&self, caller: &Caller, container: &str) -> Result<String, BottleError> {
        let engine = self.engine_for(caller).await?;
        let refuse = |why: String| BottleError::NotAttachable { container: container.to_owned(), why };
        let found = engine.find(container).await.map_err(|source| refuse(source.to_string()))?;
        let seen =
            found.ok_or_else(|| refuse("there is no such container; `docker ps` shows those that run".into()))?;
        why_not(&seen).map_or(Ok(()), |why| Err(refuse(why)))?;
        let places = places(&engine, &seen).await.map_err(|source| refuse(source.to_string()))?;
        has_the_host(&seen, &places, &self.hidden()).map_or(Ok(()), |why| Err(refuse(why)))?;
        Ok(seen.id)
    }

    /// Takes a running container off its networks and gives it our interface, the host's end down.
    pub(in crate::bottle) async fn attach(
        &self,
        spec: &BottleSpec,
        caller: &Caller,
        container: &str,
    ) -> Result<(BuiltBottle, RunningCommand), BottleError> {
        let engine = self.engine_for(caller).await?;
        let id = self.attachable(caller, container).await?;
        let look = |source| step(&spec.name, "looking at its container", source);
        let seen = engine.look(&id).await.map_err(look)?;
        self.make_room(&spec.name, &Mark { container: id.clone(), is_attached: true })?;
        let attached = Attached { container: id.clone(), networks: seen.networks.clone() };
        // Before anything is changed.
        self.remember(&spec.name, caller, &attached).map_err(|source| step(&spec.name, OFF, source))?;
        keep_off_networks(&engine, &seen).await.map_err(|source| step(&spec.name, OFF, source))?;
        fault::point(Point::NetworksLeft);
        let seen = engine.look(&id).await.map_err(look)?;
        let built = self.wire(&engine, spec, &seen).await?;
        fault::point(Point::ContainerWired);
        let task = self.task(&spec.name, id, false, true)?;
        let command = self.spawn(&task, None).map_err(|source| step(&spec.name, FRONT, source))?;
        Ok((built, command))
    }

    /// Takes a bottle's container off networks that somebody has put it on; tells whether there was need. One that is gone, or
    /// whose engine is away, is for others to see to.
    pub(in crate::bottle) async fn keep_off_networks(&self, bottle: &BottleName) -> Result<bool, BottleError> {
        let (Ok(mark), Ok(engine)) = (self.marked(bottle), self.engine().await) else { return Ok(false) };
        let Ok(Some(seen)) = engine.find(&mark.container).await else { return Ok(false) };
        let is_podman = engine.is_podman().await.map_err(|source| step(bottle, OFF, source))?;
        if seen.is_without_network(is_podman) {
            return Ok(false);
        }
        keep_off_networks(&engine, &seen).await.map_err(|source| step(bottle, OFF, source))?;
        Ok(true)
    }

    /// Puts a container back on its networks. Its bottle has ended. Tells whether there was one.
    pub(in crate::bottle) async fn give_back(&self, bottle: &BottleName) -> Result<bool, BottleError> {
        let failed = |source| step(bottle, "giving it back to its networks", source);
        let Some(attached) = self.attached(bottle).map_err(failed)? else { return Ok(false) };
        let engine = self.engine().await?;
        if let Some(seen) = engine.find(&attached.container).await.map_err(failed)? {
            if !engine.is_podman().await.map_err(failed)? {
                engine.disconnect_from(NO_NETWORK, &seen.id).await.map_err(failed)?;
            }
            for (network, endpoint) in attached.networks {
                if network != NO_NETWORK && !seen.networks.contains_key(&network) {
                    engine.connect_to(&network, &seen.id, Some(asked(endpoint))).await.map_err(failed)?;
                }
            }
        }
        self.forget_attached(bottle).map_err(failed)?;
        Ok(true)
    }

    /// Takes our files off an attached container's.
    pub(super) async fn detach_files(&self, bottle: &BottleName, mark: &Mark) -> io::Result<()> {
        let Ok(engine) = self.engine().await else { return Ok(()) };
        match engine.find(&mark.container).await {
            Ok(Some(Seen { pid: Some(pid), .. })) => {
                let (layout, namespaces) = (self.host.layout(bottle), Namespaces::of(pid)?);
                on_thread(move || inside::strip(&layout, &namespaces)).await
            }
            Ok(None) => self.forget_attached(bottle),
            Ok(Some(_)) | Err(_) => Ok(()),
        }
    }

    /// Follows a container again that nobody stands for, after the machine was started again, say.
    pub(super) async fn follow_again(&self, bottle: &BottleName) -> Result<Option<RunningCommand>, BottleError> {
        let failed = |source| step(bottle, "finding its container", source);
        if !self.has(bottle) && self.host.layout(bottle).directory.exists() {
            return Ok(None);
        }
        let Some(attached) = self.attached(bottle).map_err(failed)? else { return Ok(None) };
        if self.engine().await?.find(&attached.container).await.map_err(failed)?.is_none() {
            return Ok(None);
        }
        if !self.has(bottle) {
            self.make_room(bottle, &Mark { container: attached.container.clone(), is_attached: true })?;
        }
        let task = self.task(bottle, attached.container, false, true)?;
        self.spawn(&task, None).map(Some).map_err(|source| step(bottle, FRONT, source))
    }

    /// Removes an attached container, when its bottle is killed.
    pub(super) async fn remove_attached(&self, bottle: &BottleName) -> Result<(), BottleError> {
        let failed = |source| step(bottle, "removing its container", source);
        let Some(attached) = self.attached(bottle).map_err(failed)? else { return Ok(()) };
        self.engine().await?.remove(&attached.container, false).await.map_err(failed)?;
        self.forget_attached(bottle).map_err(failed)
    }

    fn attached_file(&self, bottle: &BottleName) -> PathBuf {
        self.host.layout(bottle).layer.directory().join(ATTACHED)
    }

    fn attached(&self, bottle: &BottleName) -> io::Result<Option<Attached>> {
        match fs::read(self.attached_file(bottle)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => Ok(Some(serde_json::from_slice(&text?)?)),
        }
    }

    fn remember(&self, bottle: &BottleName, caller: &Caller, attached: &Attached) -> io::Result<()> {
        let foreign = |_| io::Error::other("its directory of kept files is another user's");
        self.host.layout(bottle).layer.prepare(caller.uid)?.map_err(foreign)?;
        write(&self.attached_file(bottle), attached)
    }

    pub(super) fn forget_attached(&self, bottle: &BottleName) -> io::Result<()> {
        tolerate_absence(fs::remove_file(self.attached_file(bottle)))
    }
}

/// Takes a container off whatever network of the engine's it is on, for this and every later start. Does nothing when it is
/// on none.
pub(super) async fn keep_off_networks(engine: &Engine, seen: &Seen) -> io::Result<()> {
    let is_podman = engine.is_podman().await?;
    if seen.is_without_network(is_podman) {
        return Ok(());
    }
    for network in seen.networks.keys().filter(|network| *network != NO_NETWORK) {
        engine.disconnect_from(network, &seen.id).await?;
    }
    if !is_podman && !seen.networks.contains_key(NO_NETWORK) {
        engine.connect_to(NO_NETWORK, &seen.id, None).await?;
    }
    let after = engine.look(&seen.id).await?;
    if after.is_without_network(is_podman) { Ok(()) } else { Err(io::Error::other("it is on a network again")) }
}

/// What of an endpoint was asked for, and not given by the engine.
fn asked(endpoint: EndpointSettings) -> EndpointSettings {
    EndpointSettings {
        ipam_config: endpoint.ipam_config,
        links: endpoint.links,
        aliases: endpoint.aliases,
        driver_opts: endpoint.driver_opts,
        ..EndpointSettings::default()
    }
}

/// Why a container cannot be attached, and what to do instead.
fn why_not(seen: &Seen) -> Option<String> {
    if seen.pid.is_none() {
        return Some("it does not run; start it first".to_owned());
    }
    if let Some(bottle) = seen.label(LABEL) {
        return Some(format!("it is bottle {bottle} already"));
    }
    let mode = seen.host_config.network_mode.as_deref().unwrap_or_default();
    let remedy = REMEDY;
    let kind = mode.split_once(':').map_or(mode, |(kind, _)| kind);
    match kind {
        "host" => Some(format!("it is in the host's network, where nothing stands between it and the world; {remedy}")),
        "container" | "ns" => Some(format!("it shares the network of another container ({mode}); {remedy}")),
        "slirp4netns" | "pasta" => Some(format!("its network is a user's own ({mode}); {remedy}")),
        "none" => Some(format!("it has no network and may have been made to have none; {remedy}")),
        _ if seen.networks.keys().all(|network| network == NO_NETWORK) => {
            Some("it is in a bottle already, or on no network; `egress list` shows bottles".to_owned())
        }
        _ => None,
    }
}

/// Real paths of what a container has mounted of this host, and whether it may write there.
async fn places(engine: &Engine, seen: &Seen) -> io::Result<Vec<(PathBuf, bool)>> {
    let mut places = Vec::new();
    for mount in &seen.mounts {
        let source = match (mount.typ, &mount.source, &mount.name) {
            (Some(MountPointTypeEnum::BIND), Some(source), _) => Some(PathBuf::from(source)),
            (Some(MountPointTypeEnum::VOLUME), _, Some(name)) => engine.device_of(name).await?,
            _ => None,
        };
        places.extend(source.map(|source| (real(&source), mount.rw != Some(false))));
    }
    Ok(places)
}

/// Why no gate would hold a container.
fn has_the_host(seen: &Seen, places: &[(PathBuf, bool)], hidden: &[PathBuf]) -> Option<String> {
    let found =
        |(path, is_writable): &(PathBuf, bool)| Some((path.clone(), exposed::place(path, *is_writable, hidden)?));
    let place = || {
        let (path, place) = places.iter().find_map(found)?;
        let to = |path: &Path| path.display().to_string();
        Some(format!("it has {} of the host mounted, which is or holds {}", to(&path), to(place)))
    };
    let what = exposed::privilege(&seen.host_config).or_else(place)?;
    Some(format!("{what}, so no gate would hold it; {WITHOUT}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::{ContainerConfig, HostConfig};

    fn check(mode: &str, networks: &[&str], pid: Option<u32>, expected: Option<&str>) {
        let seen = Seen {
            id: "1".to_owned(),
            pid,
            started: String::new(),
            exit_code: 0,
            networks: networks.iter().map(|name| ((*name).to_owned(), EndpointSettings::default())).collect(),
            config: ContainerConfig::default(),
            host_config: HostConfig { network_mode: Some(mode.to_owned()), ..HostConfig::default() },
            mounts: Vec::new(),
        };
        let why = why_not(&seen);
        match expected {
            Some(text) => assert!(why.as_ref().is_some_and(|why| why.contains(text)), "{mode}: {why:?}"),
            None => assert_eq!(why, None, "{mode}"),
        }
    }

    #[test]
    fn what_cannot_be_attached_is_refused_with_a_reason() {
        check("default", &["bridge"], Some(7), None);
        check("own", &["own", "other"], Some(7), None);
        check("default", &["bridge"], None, Some("does not run"));
        check("host", &["host"], Some(7), Some("host's network"));
        check("container:abc", &[], Some(7), Some("another container"));
        check("slirp4netns", &[], Some(7), Some("user's own"));
        check("none", &["none"], Some(7), Some("no network"));
        check("default", &["none"], Some(7), Some("in a bottle already"));
    }
}
