//! Containers that are frozen: stood still, their files made an image, how they were made written down.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;

use bollard::models::ContainerConfig;

use super::configuration::{LABEL, without_ours};
use super::{DockerRuntime, step};
use crate::bottle::native::freeze::write;
use crate::bottle::native::namespace::tolerate_absence;
use crate::bottle::{BottleError, Caller, SavedLaunch};
use crate::domain::BottleName;

/// Begins the names of images that frozen bottles are kept in.
const IMAGE_PREFIX: &str = "egress-frozen/";
/// In the bottle's directory, once it has been told to stand still.
const HELD: &str = "held";
/// A label of the image: what it is of.
const FROM: &str = "egress.frozen-from";

impl DockerRuntime {
    /// Makes every process of a container stand still.
    pub(in crate::bottle) async fn hold(&self, bottle: &BottleName) -> Result<(), BottleError> {
        let mark = self.marked(bottle)?;
        let failed = |source| step(bottle, "holding its processes", source);
        // Before it is done, so that whoever comes after a crash knows of it.
        fs::write(self.held_file(bottle), "").map_err(failed)?;
        let pause = async { self.engine().await?.pause(&mark.container).await.map_err(failed) };
        let paused = pause.await;
        if paused.is_err() {
            // Not held: a later start would freeze a bottle that has been restored meanwhile.
            tolerate_absence(fs::remove_file(self.held_file(bottle))).map_err(failed)?;
        }
        paused
    }

    /// Lets them go on.
    pub(in crate::bottle) async fn release(&self, bottle: &BottleName) -> Result<(), BottleError> {
        let mark = self.marked(bottle)?;
        let failed = |source| step(bottle, "letting its processes go on", source);
        self.engine().await?.unpause(&mark.container).await.map_err(failed)?;
        tolerate_absence(fs::remove_file(self.held_file(bottle))).map_err(failed)
    }

    /// Whether they have been told to stand still. A container that somebody else paused is not.
    pub(in crate::bottle) fn is_held(&self, bottle: &BottleName) -> bool {
        self.held_file(bottle).exists()
    }

    /// Makes an image of the container's files and writes down how it was made.
    pub(in crate::bottle) async fn save_launch(&self, bottle: &BottleName) -> Result<(), BottleError> {
        let mark = self.marked(bottle)?;
        let failed = |source| step(bottle, "keeping its files", source);
        let engine = self.engine().await?;
        let seen = engine.look(&mark.container).await.map_err(failed)?;
        let image = image_of(bottle);
        let labels = [(LABEL, bottle.to_string()), (FROM, seen.id.clone())];
        let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let config = ContainerConfig { labels: Some(labels), ..ContainerConfig::default() };
        engine.commit(&seen.id, &image, config).await.map_err(failed)?;
        let save = || {
            let shared = self.shared_of(bottle);
            let caller = self.owner_of(bottle);
            let made = without_ours(seen.config, seen.host_config, &image, &shared);
            let saved = SavedLaunch {
                command: Vec::new(),
                environment: Vec::new(),
                directory: OsString::from("/"),
                shared: shared.into_iter().map(OsString::from).collect(),
                caller,
                container: Some(serde_json::to_string(&made)?),
            };
            write(&self.host.launch_file(bottle), &saved)
        };
        save().map_err(|source| step(bottle, "writing down its launch", source))
    }

    /// The container made of it runs: how it was made is of no use any more.
    pub(in crate::bottle) fn forget_launch(&self, bottle: &BottleName) -> Result<(), BottleError> {
        let removed = tolerate_absence(fs::remove_file(self.host.launch_file(bottle)));
        removed.map_err(|source| step(bottle, "removing how it was launched", source))
    }

    /// Removes what the engine keeps of an ended bottle: its frozen image, its container if it was attached. Asks for no
    /// engine when there is nothing.
    pub(in crate::bottle) async fn remove_kept(&self, bottle: &BottleName) -> Result<(), BottleError> {
        self.remove_attached(bottle).await?;
        let was_container = self.kept_file(bottle).exists();
        if was_container {
            let failed = |source| step(bottle, "removing its frozen image", source);
            self.engine().await?.remove_image(&image_of(bottle)).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Notes who had the container made, and what it shares: freezing needs both, and kept files are known by it.
    pub(super) fn note(&self, bottle: &BottleName, caller: &Caller, shared: &[String]) -> io::Result<()> {
        fs::write(self.kept_file(bottle), serde_json::to_vec(&(caller, shared))?)
    }

    fn kept(&self, bottle: &BottleName) -> Option<(Caller, Vec<String>)> {
        serde_json::from_slice(&fs::read(self.kept_file(bottle)).ok()?).ok()
    }

    fn shared_of(&self, bottle: &BottleName) -> Vec<String> {
        self.kept(bottle).map(|(_, shared)| shared).unwrap_or_default()
    }

    fn owner_of(&self, bottle: &BottleName) -> Caller {
        let root = Caller { uid: 0, gid: 0, groups: Vec::new() };
        self.kept(bottle).map_or(root, |(caller, _)| caller)
    }

    fn kept_file(&self, bottle: &BottleName) -> PathBuf {
        self.host.layout(bottle).layer.directory().join("container.json")
    }

    fn held_file(&self, bottle: &BottleName) -> PathBuf {
        self.host.layout(bottle).directory.join(HELD)
    }
}

fn image_of(bottle: &BottleName) -> String {
    format!("{IMAGE_PREFIX}{}", bottle.as_str().to_ascii_lowercase())
}
