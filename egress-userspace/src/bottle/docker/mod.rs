//! Bottles that are containers of Docker or Podman.
//!
//! The engine makes processes and files; the network is ours alone. A container is made without any, and gets the veth that a
//! native bottle has: host end down, gate attached, then up. Docker's own veths are never used, so there is nothing beside
//! the gate, and a container that is started again without us has no network at all.
//!
//! A process of ours stands for each container ([`front`]): what native bottles have in their supervisor.

mod attach;
mod configuration;
mod engine;
mod exposed;
mod freeze;
mod front;
mod init;
mod inside;
mod program;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt;
use rustix::termios::isatty;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::native::{NativeRuntime, RunningCommand, cgroup, environment, files, layout::Layout, on_thread, step_error};
use super::plan::Failure;
use super::{BottleError, BottleSpec, BuiltBottle, Caller, ContainerLaunch, Launch};
use crate::domain::BottleName;
use configuration::{Around, LABEL, Made};
use engine::{Engine, Seen};
use front::Task;
use inside::Namespaces;

pub use front::container_front_main;
pub use init::container_init_main;

/// Begins the names of containers that are made for bottles.
const CONTAINER_PREFIX: &str = "egress-";
/// In the bottle's directory: which container it is.
const MARK: &str = "container";
/// How long a container may take to start.
const START_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Containers are looked at this often although the engine says nothing of them.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Between two tries to reach an engine that is away.
const RECONNECT_EVERY: Duration = Duration::from_millis(200);

/// Makes, starts and removes bottles that are containers.
#[derive(Clone, Debug)]
pub(super) struct DockerRuntime {
    /// Whose wiring, names and groups these bottles share.
    host: NativeRuntime,
    socket: Option<PathBuf>,
}

/// Which container a bottle is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// What the engine knows it by: its number, or, until it has been made, the name that it is to have.
    container: String,
    /// It is not ours to remove.
    is_attached: bool,
}

impl DockerRuntime {
    pub(super) fn new(host: NativeRuntime, socket: Option<PathBuf>) -> Self {
        Self { host, socket }
    }

    /// Makes and starts a container, and wires it; its command waits until the host's end is up.
    pub(super) async fn build(
        &self,
        spec: &BottleSpec,
        launch: Launch,
        container: ContainerLaunch,
    ) -> Result<(BuiltBottle, RunningCommand), BottleError> {
        let engine = self.engine_for(&launch.caller).await?;
        self.check_shares(&launch.shared)?;
        let layout = self.host.layout(&spec.name);
        let prepared = layout.layer.prepare(launch.caller.uid);
        prepared
            .map_err(|source| step(&spec.name, "making a place for what it keeps", source))?
            .map_err(|foreign| BottleError::Foreign { bottle: spec.name.to_string(), owner: foreign.owner })?;
        let name = format!("{CONTAINER_PREFIX}{}", spec.name);
        let around = |has_terminal| self.around(&spec.name, &layout, &launch, has_terminal);
        remove_own(&engine, &spec.name, &name)
            .await
            .map_err(|source| step(&spec.name, "making room for it", source))?;
        self.make_room(&spec.name, &Mark { container: name.clone(), is_attached: false })?;
        let made = made(&engine, &spec.name, &launch, container).await?;
        let [input, output, _] = &launch.stdio;
        let has_terminal = launch.has_terminal && isatty(input) && isatty(output);
        let create = async {
            let around = around(has_terminal)?;
            self.note(&spec.name, &launch.caller, &around.shared)?;
            let id = engine.create(&name, configuration::around(made, around)).await?;
            // Another could get its name.
            self.mark(&spec.name, &Mark { container: id.clone(), is_attached: false })?;
            Ok(id)
        };
        let id = create.await.map_err(|source| step(&spec.name, "making its container", source))?;
        let task = self.task(&spec.name, id.clone(), has_terminal, false)?;
        let mut command = self.spawn(&task, Some(launch.stdio)).map_err(|source| step(&spec.name, FRONT, source))?;
        let seen = until_runs(&engine, &id, &mut command).await;
        let seen = seen.map_err(|source| step(&spec.name, "starting its container", source))?;
        let built = self.wire(&engine, spec, &seen).await?;
        Ok((built, command))
    }

    /// Gives a container that was started again its interface; the host's end is down.
    pub(super) async fn rewire(&self, spec: &BottleSpec) -> Result<(BuiltBottle, u32), BottleError> {
        let mark = self.marked(&spec.name)?;
        let engine = self.engine().await?;
        let look = engine.look(&mark.container).await;
        let seen = look.map_err(|source| step(&spec.name, "looking at its container", source))?;
        if mark.is_attached {
            attach::keep_off_networks(&engine, &seen).await.map_err(|source| step(&spec.name, attach::OFF, source))?;
        }
        let pid = seen.pid.unwrap_or_default();
        Ok((self.wire(&engine, spec, &seen).await?, pid))
    }

    /// Returns when the container runs and its interface is another start's.
    pub(super) async fn until_restarted(&self, bottle: &BottleName) {
        let kept = self.host.layout(bottle).namespace;
        loop {
            let Ok(mark) = self.marked(bottle) else {
                sleep(LOOK_AGAIN).await;
                continue;
            };
            let Ok(engine) = self.engine().await else {
                sleep(RECONNECT_EVERY).await;
                continue;
            };
            let mut events = std::pin::pin!(engine.events(&mark.container));
            loop {
                if let Ok(Seen { pid: Some(pid), .. }) = engine.look(&mark.container).await
                    && let Some(number) = inside::number(&inside::network_of(pid))
                    && kept.number() != Some(number)
                {
                    return;
                }
                match timeout(LOOK_AGAIN, events.next()).await {
                    Ok(Some(Ok(_))) | Err(_) => {}
                    Ok(Some(Err(_)) | None) => break,
                }
            }
            sleep(RECONNECT_EVERY).await;
        }
    }

    /// The process id of the container's first process on this host, and its number at the engine.
    pub(super) async fn identity(&self, bottle: &BottleName) -> Option<(Option<u32>, String)> {
        let seen = self.engine().await.ok()?.look(&self.marked(bottle).ok()?.container).await.ok()?;
        Some((seen.pid, seen.id))
    }

    /// A bottle that an earlier daemon made, if its container is still followed, or to be followed on.
    pub(super) async fn adopt(&self, spec: &BottleSpec) -> Result<Option<(BuiltBottle, RunningCommand)>, BottleError> {
        let bottle = &spec.name;
        let layout = self.host.layout(bottle);
        let group = self.group(bottle)?;
        let followed = RunningCommand::adopt(&layout.record, &group);
        let command = match followed.map_err(|source| step(bottle, "finding what runs in it", source))? {
            Some(command) => command,
            None => match self.follow_again(bottle).await? {
                Some(command) => command,
                None => return Ok(None),
            },
        };
        let (mac, name) = (spec.mac, layout.interface.clone());
        let existing = move || {
            super::native::wiring::existing(&layout.interface).or_else(|_| {
                inside::wire_nothing(&layout, mac)?;
                super::native::wiring::existing(&layout.interface)
            })
        };
        let interface = on_thread(existing).await.map_err(|source| step(bottle, "finding its interface", source))?;
        Ok(Some((BuiltBottle { interface, interface_name: name }, command)))
    }

    /// Ends and removes what was made for the bottle. An attached container runs on, without network.
    pub(super) async fn take_down(&self, bottle: &BottleName) -> Result<(), BottleError> {
        let Ok(mark) = self.marked(bottle) else { return self.host.take_down(bottle).await };
        // Frozen: its files are in an image, and how it was made is written down.
        let is_frozen = self.host.saved_launch(bottle).is_ok_and(|saved| saved.is_some());
        let is_ours = !mark.is_attached || is_frozen;
        let undone = async {
            if is_ours {
                let socket = self.socket().map_err(io::Error::other)?;
                let engine = Engine::connect(&socket).await?;
                // One that was to be made is marked by a name, which may be another's container.
                let found = engine.find(&mark.container).await?;
                if let Some(seen) = found.filter(|seen| mark.is_attached || is_made_for(seen, bottle)) {
                    engine.remove(&seen.id, is_frozen).await?;
                }
                return self.forget_attached(bottle);
            }
            self.detach_files(bottle, &mark).await
        };
        let removed = undone.await;
        let layout = self.host.layout(bottle);
        // Without a container there is no mark; with one the next try finds it.
        if removed.is_err() && is_ours {
            let interface = layout.clone();
            let group = self.host.group_of(bottle);
            let close = move || inside::unwire(&interface).and(group.and_then(|group| cgroup::remove(&group)));
            on_thread(close).await.map_err(|source| step(bottle, "taking its interface away", source))?;
        } else {
            self.host.take_down(bottle).await?;
        }
        removed.map_err(|source| BottleError::NotUndone {
            bottle: bottle.to_string(),
            step: "making its container",
            source,
        })
    }

    /// Whether what there is of a bottle is a container's.
    pub(super) fn has(&self, bottle: &BottleName) -> bool {
        self.host.layout(bottle).directory.join(MARK).exists()
    }

    /// The bottle's directory with the mark and our files, and its group.
    fn make_room(&self, bottle: &BottleName, mark: &Mark) -> Result<(), BottleError> {
        let layout = self.host.layout(bottle);
        let group = self.group(bottle)?;
        let make = || {
            layout.directory.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::create_dir(&layout.directory)?;
            self.mark(bottle, mark)?;
            inside::write_files(&layout, &self.host.wiring)?;
            cgroup::create(&group)
        };
        make().map_err(|source| step(bottle, "making its directory", source))
    }

    /// The mark is the old one or the new one at any moment.
    fn mark(&self, bottle: &BottleName, mark: &Mark) -> io::Result<()> {
        let path = self.host.layout(bottle).directory.join(MARK);
        let unfinished = path.with_extension("new");
        fs::write(&unfinished, serde_json::to_vec(mark)?)?;
        fs::rename(&unfinished, &path)
    }

    fn marked(&self, bottle: &BottleName) -> Result<Mark, BottleError> {
        let path = self.host.layout(bottle).directory.join(MARK);
        let read = || Ok(serde_json::from_slice(&fs::read(&path)?)?);
        read().map_err(|source: io::Error| step(bottle, "reading which container it is", source))
    }

    fn group(&self, bottle: &BottleName) -> Result<PathBuf, BottleError> {
        self.host.group_of(bottle).map_err(|source| step(bottle, "finding the control groups", source))
    }

    async fn wire(&self, engine: &Engine, spec: &BottleSpec, seen: &Seen) -> Result<BuiltBottle, BottleError> {
        const STEP: &str = "making its network interfaces";
        let namespaces = async {
            let pid = seen.pid.ok_or_else(|| io::Error::other("the container does not run"))?;
            let namespaces = Namespaces::of(pid)?;
            // The number was the container's all the while, so these are.
            let again = engine.look(&seen.id).await?;
            let is_same = again.pid == Some(pid) && again.started == seen.started;
            if is_same { Ok(namespaces) } else { Err(io::Error::other("it was started again meanwhile")) }
        };
        let namespaces = namespaces.await.map_err(|source| step(&spec.name, STEP, source))?;
        let (layout, wiring, owned) = (self.host.layout(&spec.name), self.host.wiring.clone(), spec.clone());
        let wire = move || inside::wire(&owned, &layout, &wiring, &namespaces);
        on_thread(wire).await.map_err(|source| step(&spec.name, STEP, source))
    }

    fn around<'a>(
        &self,
        bottle: &'a BottleName,
        layout: &Layout,
        launch: &Launch,
        has_terminal: bool,
    ) -> io::Result<Around<'a>> {
        let shared: Vec<PathBuf> = files::shared(launch.shared.clone());
        let is_shared = shared.iter().any(|path| launch.directory.starts_with(path));
        let text = |path: &Path| path.to_str().map(str::to_owned).ok_or(io::ErrorKind::InvalidInput);
        let shared = shared.iter().map(|path| text(path)).collect::<Result<_, _>>()?;
        let directory = if is_shared { Some(text(&launch.directory)?) } else { None };
        let variables = environment::inside(bottle, self.host.wiring.gateway, Vec::new());
        Ok(Around {
            bottle,
            program: program::own()?,
            authority: inside::directory_of(layout),
            variables: configuration::variables(variables),
            shared,
            directory,
            has_terminal,
        })
    }

    /// What is shared cannot be covered in a container, as it is in a native bottle.
    fn check_shares(&self, shared: &[PathBuf]) -> Result<(), BottleError> {
        let hidden = self.hidden();
        for directory in shared {
            if let Some(place) = exposed::place(&real(directory), true, &hidden) {
                return Err(BottleError::NotShareable { directory: directory.clone(), place: place.to_owned() });
            }
        }
        Ok(())
    }

    /// Real paths of what no bottle sees of this host.
    fn hidden(&self) -> Vec<PathBuf> {
        let usual = files::HIDDEN.iter().map(PathBuf::from);
        let own = self.host.wiring.hidden.iter().cloned().chain(self.socket().ok());
        usual.chain(own).filter_map(|path| fs::canonicalize(path).ok()).collect()
    }

    fn task(
        &self,
        bottle: &BottleName,
        container: String,
        has_terminal: bool,
        attached: bool,
    ) -> Result<Task, BottleError> {
        let layout = self.host.layout(bottle);
        let (socket, group) = (self.socket()?, self.group(bottle)?);
        Ok(Task { socket, container, group, record: layout.record, has_terminal, is_attached: attached })
    }

    /// Starts the process that stands for the container.
    fn spawn(&self, task: &Task, stdio: Option<[std::os::fd::OwnedFd; 3]>) -> io::Result<RunningCommand> {
        let [input, output, errors] = match stdio {
            Some(stdio) => stdio.map(Stdio::from),
            None => [Stdio::null(), Stdio::null(), Stdio::null()],
        };
        let mut command = Command::new(&self.host.executable);
        // A terminal's Ctrl-C that is meant for the daemon is not meant for bottles. One with a terminal leads a session of
        // its own, which no leader of a group can make.
        if !task.has_terminal {
            command.process_group(0);
        }
        let child = command
            .args([front::SUBCOMMAND, &serde_json::to_string(task)?])
            .env_clear()
            .current_dir("/")
            .stdin(input)
            .stdout(output)
            .stderr(errors)
            .spawn()?;
        RunningCommand::started(child, File::open("/dev/null")?)
    }

    fn socket(&self) -> Result<PathBuf, BottleError> {
        engine::socket(self.socket.as_deref()).ok_or_else(|| BottleError::NoEngine { said: self.socket.clone() })
    }

    async fn engine(&self) -> Result<Engine, BottleError> {
        let socket = self.socket()?;
        Engine::connect(&socket).await.map_err(|source| BottleError::Engine { socket, source })
    }

    pub(super) async fn may_use_engine(&self, caller: &Caller) -> Result<(), BottleError> {
        self.engine_for(caller).await.map(drop)
    }

    /// The engine, for one who may use it and whose containers can have our network.
    async fn engine_for(&self, caller: &Caller) -> Result<Engine, BottleError> {
        let socket = self.socket()?;
        let ask = |source| BottleError::Engine { socket: socket.clone(), source };
        if !engine::admits(&socket, caller).map_err(ask)? {
            return Err(BottleError::MayNotUseEngine { socket });
        }
        let engine = self.engine().await?;
        if engine.is_rootless().await.map_err(ask)? {
            return Err(BottleError::Rootless { socket });
        }
        Ok(engine)
    }
}

const FRONT: &str = "starting what stands for its container";

async fn made(
    engine: &Engine,
    bottle: &BottleName,
    launch: &Launch,
    container: ContainerLaunch,
) -> Result<Made, BottleError> {
    match container {
        ContainerLaunch::Image { image, variables } => {
            let found = match engine.image(&image).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BottleError::NoImage { image }),
                found => found.map_err(|source| step(bottle, "looking at its image", source))?,
            };
            let text = |word: &std::ffi::OsString| word.to_str().map(str::to_owned).ok_or(io::ErrorKind::InvalidInput);
            let words = launch.command.iter().map(text).collect::<Result<Vec<_>, _>>();
            let words = words.map_err(|kind| step(bottle, "reading its command", kind.into()))?;
            let made = configuration::of_image(&image, found, words, variables);
            if configuration::command_of(&made).is_empty() {
                return Err(BottleError::NoCommand { image });
            }
            Ok(made)
        }
        ContainerLaunch::Frozen(text) => serde_json::from_str(&text)
            .map_err(|_| step(bottle, "reading how it was made", io::ErrorKind::InvalidData.into())),
    }
}

/// A container that a crashed run of this bottle left. Nobody else's.
async fn remove_own(engine: &Engine, bottle: &BottleName, name: &str) -> io::Result<()> {
    match engine.find(name).await? {
        Some(seen) if is_made_for(&seen, bottle) => engine.remove(&seen.id, false).await,
        Some(_) => Err(io::Error::other(format!(
            "there is another container of the name {name}: rename it, or give the bottle another name"
        ))),
        None => Ok(()),
    }
}

fn is_made_for(seen: &Seen, bottle: &BottleName) -> bool {
    seen.label(LABEL) == Some(bottle.as_str())
}

/// Waits until the container runs; an error when what stands for it has ended.
async fn until_runs(engine: &Engine, name: &str, command: &mut RunningCommand) -> io::Result<Seen> {
    let deadline = Instant::now() + START_MAX;
    while Instant::now() < deadline {
        let seen = engine.look(name).await?;
        if seen.pid.is_some() {
            return Ok(seen);
        }
        if let Ok(ended) = timeout(LOOK_EVERY, command.wait()).await {
            return Err(io::Error::other(format!("it has ended, with exit code {}", ended?)));
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// As the engine finds it; as it is written when nothing is there.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn step(bottle: &BottleName, step: &'static str, source: io::Error) -> BottleError {
    step_error(bottle, Failure { step, source })
}
