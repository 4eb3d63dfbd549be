//! The container engine behind its Unix socket: Docker, or Podman, which answers to the same requests.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{
    ContainerConfig, ContainerCreateBody, EndpointSettings, EventMessage, HostConfig, ImageInspect, MountPoint,
    NetworkConnectRequest, NetworkDisconnectRequest,
};
use bollard::query_parameters::{
    AttachContainerOptions, CommitContainerOptions, CreateContainerOptions, EventsOptions, InspectContainerOptions,
    KillContainerOptions, RemoveContainerOptions, RemoveImageOptions, ResizeContainerTTYOptions, StartContainerOptions,
    WaitContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::{Stream, StreamExt};

use crate::bottle::Caller;

pub(super) use bollard::container::{AttachContainerResults, LogOutput};

/// Where engines listen when nothing is said.
const USUAL_SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/podman/podman.sock"];
/// How long one answer may take: an image that is committed may be large.
const ANSWER_SECONDS_MAX: u64 = 300;
/// Docker's network without interfaces.
pub(super) const NO_NETWORK: &str = "none";
/// So often a container is looked at again whose state nobody can read.
const LOOKS_MAX: u32 = 40;
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const NOT_FOUND: u16 = 404;
/// It is so already.
const NOT_MODIFIED: u16 = 304;

/// The socket that is said, or else `DOCKER_HOST`, or else the usual ones: the first that is there.
pub(super) fn socket(said: Option<&Path>) -> Option<PathBuf> {
    if let Some(said) = said {
        return Some(said.to_owned()).filter(|path| is_socket(path));
    }
    let host = std::env::var("DOCKER_HOST").ok();
    let host = host.as_deref().and_then(|host| host.strip_prefix("unix://")).map(PathBuf::from);
    host.into_iter().chain(USUAL_SOCKETS.map(PathBuf::from)).find(|path| is_socket(path))
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// Whether the caller could ask the engine directly. Who can is root on this host by it, so nobody else may ask through us.
pub(super) fn admits(socket: &Path, caller: &Caller) -> io::Result<bool> {
    let metadata = fs::metadata(socket)?;
    let is_member = caller.gid == metadata.gid() || caller.groups.contains(&metadata.gid());
    let may = |shift: u32| metadata.mode() >> shift & 0o2 != 0;
    Ok(caller.uid == 0 || (caller.uid == metadata.uid() && may(6)) || (is_member && may(3)) || may(0))
}

/// A connection to it.
#[derive(Clone, Debug)]
pub(super) struct Engine(Docker);

/// A container at one moment.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// As the engine numbers it.
    pub(super) id: String,
    /// Its first process, while it runs.
    pub(super) pid: Option<u32>,
    /// When it was started last, as the engine writes it.
    pub(super) started: String,
    pub(super) exit_code: i32,
    pub(super) networks: BTreeMap<String, EndpointSettings>,
    pub(super) config: ContainerConfig,
    pub(super) host_config: HostConfig,
    pub(super) mounts: Vec<MountPoint>,
}

impl Seen {
    /// A label's value.
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.config.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// Whether it has no interfaces of the engine's, nor will have when it is started again. With no network at all Docker puts
    /// it back on that of its creation; Podman does not.
    pub(super) fn is_without_network(&self, is_podman: bool) -> bool {
        let is_made_without = self.host_config.network_mode.as_deref() == Some(NO_NETWORK);
        self.networks.keys().all(|network| network == NO_NETWORK)
            && (is_podman || is_made_without || !self.networks.is_empty())
    }
}

impl Engine {
    pub(super) async fn connect(socket: &Path) -> io::Result<Self> {
        let path = socket.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        let docker = Docker::connect_with_unix(path, ANSWER_SECONDS_MAX, API_DEFAULT_VERSION).map_err(into_io)?;
        Ok(Self(docker.negotiate_version().await.map_err(into_io)?))
    }

    /// Whether its containers are in a user's own namespaces, where a veth of ours cannot go.
    pub(super) async fn is_rootless(&self) -> io::Result<bool> {
        let options = self.0.info().await.map_err(into_io)?.security_options.unwrap_or_default();
        Ok(options.iter().any(|option| option.contains("name=rootless")))
    }

    /// Whether it is Podman, which cannot take a running container off all of its networks.
    pub(super) async fn is_podman(&self) -> io::Result<bool> {
        let components = self.0.version().await.map_err(into_io)?.components.unwrap_or_default();
        Ok(components.iter().any(|component| component.name.contains("Podman")))
    }

    pub(super) async fn image(&self, name: &str) -> io::Result<ImageInspect> {
        self.0.inspect_image(name).await.map_err(into_io)
    }

    /// Makes a container of this name; tells its number.
    pub(super) async fn create(&self, name: &str, body: ContainerCreateBody) -> io::Result<String> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..CreateContainerOptions::default() };
        self.0.create_container(Some(options), body).await.map(|created| created.id).map_err(into_io)
    }

    pub(super) async fn start(&self, container: &str) -> io::Result<()> {
        self.0.start_container(container, None::<StartContainerOptions>).await.map_err(into_io)
    }

    pub(super) async fn look(&self, container: &str) -> io::Result<Seen> {
        let mut looks = 0;
        let found = loop {
            match self.0.inspect_container(container, None::<InspectContainerOptions>).await {
                // Podman's containers are, for a moment, in states that Docker's interface has no word for: `stopped`.
                Err(Error::JsonDataError { .. } | Error::JsonSerdeError { .. }) if looks < LOOKS_MAX => looks += 1,
                found => break found.map_err(into_io)?,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let state = found.state.unwrap_or_default();
        let pid = state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        Ok(Seen {
            id: found.id.unwrap_or_default(),
            pid: pid.filter(|_| state.running == Some(true)),
            started: state.started_at.map(|at| at.to_string()).unwrap_or_default(),
            exit_code: state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or_default(),
            networks: found.network_settings.unwrap_or_default().networks.unwrap_or_default().into_iter().collect(),
            config: found.config.unwrap_or_default(),
            host_config: found.host_config.unwrap_or_default(),
            mounts: found.mounts.unwrap_or_default(),
        })
    }

    /// The same, `None` when there is no such container.
    pub(super) async fn find(&self, container: &str) -> io::Result<Option<Seen>> {
        match self.look(container).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    /// Ends and removes a container, and its volumes without a name if they are not to be kept; fine when there is none.
    pub(super) async fn remove(&self, container: &str, keeps_volumes: bool) -> io::Result<()> {
        let options = RemoveContainerOptions { v: !keeps_volumes, force: true, link: false };
        tolerate_absence(self.0.remove_container(container, Some(options)).await)
    }

    /// Removes an image; fine when there is none.
    pub(super) async fn remove_image(&self, image: &str) -> io::Result<()> {
        let options = RemoveImageOptions { force: true, ..RemoveImageOptions::default() };
        tolerate_absence(self.0.remove_image(image, Some(options), None).await.map(|_| ()))
    }

    pub(super) async fn signal(&self, container: &str, signal: i32) -> io::Result<()> {
        let options = KillContainerOptions { signal: signal.to_string() };
        self.0.kill_container(container, Some(options)).await.map_err(into_io)
    }

    pub(super) async fn resize(&self, container: &str, (columns, rows): (u16, u16)) -> io::Result<()> {
        let options = ResizeContainerTTYOptions { h: rows.into(), w: columns.into() };
        self.0.resize_container_tty(container, options).await.map_err(into_io)
    }

    /// Makes every process of it stand still; fine when they do.
    pub(super) async fn pause(&self, container: &str) -> io::Result<()> {
        match self.0.pause_container(container).await {
            Err(_) if self.is_paused(container).await => Ok(()),
            done => done.map_err(into_io),
        }
    }

    /// Lets them go on; fine when they do.
    pub(super) async fn unpause(&self, container: &str) -> io::Result<()> {
        match self.0.unpause_container(container).await {
            Err(_) if !self.is_paused(container).await => Ok(()),
            done => done.map_err(into_io),
        }
    }

    async fn is_paused(&self, container: &str) -> bool {
        let found = self.0.inspect_container(container, None::<InspectContainerOptions>).await;
        found.is_ok_and(|found| found.state.is_some_and(|state| state.paused == Some(true)))
    }

    /// What a volume is made of, where that is something of this host's and not the engine's own.
    pub(super) async fn device_of(&self, volume: &str) -> io::Result<Option<PathBuf>> {
        let options = self.0.inspect_volume(volume).await.map_err(into_io)?.options;
        Ok(options.get("device").map(PathBuf::from).filter(|device| device.is_absolute()))
    }

    /// Makes an image of its files, by this name.
    pub(super) async fn commit(&self, container: &str, image: &str, config: ContainerConfig) -> io::Result<()> {
        let options = CommitContainerOptions {
            container: Some(container.to_owned()),
            repo: Some(image.to_owned()),
            tag: Some("latest".to_owned()),
            pause: false,
            ..CommitContainerOptions::default()
        };
        self.0.commit_container(options, config).await.map(|_| ()).map_err(into_io)
    }

    /// Its streams, from here on.
    pub(super) async fn streams(&self, container: &str, with_input: bool) -> io::Result<AttachContainerResults> {
        let options = AttachContainerOptions {
            stream: true,
            stdin: with_input,
            stdout: true,
            stderr: true,
            ..AttachContainerOptions::default()
        };
        self.0.attach_container(container, Some(options)).await.map_err(into_io)
    }

    /// Returns when it does not run, or the engine has had enough of waiting.
    pub(super) async fn wait(&self, container: &str, condition: &str) -> io::Result<()> {
        let options = WaitContainerOptions { condition: condition.to_owned() };
        match self.0.wait_container(container, Some(options)).next().await {
            Some(Err(Error::DockerContainerWaitError { .. })) => Ok(()),
            Some(answer) => answer.map(|_| ()).map_err(into_io),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// What happens to it.
    pub(super) fn events(&self, container: &str) -> impl Stream<Item = Result<EventMessage, Error>> + use<> {
        let filters = [("container".to_owned(), vec![container.to_owned()])].into();
        self.0.events(Some(EventsOptions { filters: Some(filters), ..EventsOptions::default() }))
    }

    pub(super) async fn connect_to(
        &self,
        network: &str,
        container: &str,
        endpoint: Option<EndpointSettings>,
    ) -> io::Result<()> {
        let request = NetworkConnectRequest { container: container.to_owned(), endpoint_config: endpoint };
        self.0.connect_network(network, request).await.map_err(into_io)
    }

    pub(super) async fn disconnect_from(&self, network: &str, container: &str) -> io::Result<()> {
        let request = NetworkDisconnectRequest { container: container.to_owned(), force: Some(true) };
        tolerate_absence(self.0.disconnect_network(network, request).await)
    }
}

fn tolerate_absence(result: Result<(), Error>) -> io::Result<()> {
    match result {
        Err(Error::DockerResponseServerError { status_code: NOT_FOUND | NOT_MODIFIED, .. }) => Ok(()),
        other => other.map_err(into_io),
    }
}

fn into_io(error: Error) -> io::Error {
    if let Error::DockerResponseServerError { status_code, message } = error {
        let kind = if status_code == NOT_FOUND { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
        return io::Error::new(kind, message);
    }
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    #[test]
    fn who_may_not_ask_the_engine_may_not_ask_through_us() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let (owner, group) = (metadata.uid(), metadata.gid());
        let check = |mode: u32, uid: u32, gid: u32, groups: &[u32], expected: bool| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let caller = Caller { uid, gid, groups: groups.to_vec() };
            assert_eq!(admits(&path, &caller).unwrap(), expected, "{mode:o} {caller:?}");
        };
        let (other, others) = (owner + 4711, group + 4711);
        check(0o600, 0, others, &[], true);
        check(0o600, other, others, &[group], false);
        check(0o660, other, others, &[group], true);
        check(0o660, other, group, &[], true);
        check(0o660, other, others, &[], false);
        check(0o666, other, others, &[], true);
    }

    #[test]
    fn a_socket_that_is_said_is_the_only_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert_eq!(socket(Some(&path)), None);
        let _listener = UnixListener::bind(&path).unwrap();
        assert_eq!(socket(Some(&path)), Some(path));
    }
}
