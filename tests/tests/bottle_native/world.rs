//! A host to build bottles on: a network namespace, a run directory and control groups of its own, removed at the end.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use egress_userspace::bottle::{
    BottleSpec, BuiltBottle, Caller, HostView, HostWiring, Launch, NativeRuntime, RunningCommand,
};
use futures_util::FutureExt;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
/// Trusted inside.
pub(crate) static CA: LazyLock<String> =
    LazyLock::new(|| rcgen::generate_simple_self_signed(["ca.test".to_owned()]).unwrap().cert.pem().replace('\r', ""));
const COMMAND_SECONDS_MAX: u64 = 20;

pub(crate) const ROOT: Caller = Caller { uid: 0, gid: 0, groups: Vec::new() };

pub(crate) fn nobody() -> Caller {
    Caller { uid: 65534, gid: 65533, groups: vec![65533, 4242] }
}

pub(crate) struct World {
    pub(crate) runtime: NativeRuntime,
    pub(crate) directory: tempfile::TempDir,
    last: AtomicU8,
}

pub(crate) struct Bottle {
    pub(crate) spec: BottleSpec,
    pub(crate) built: BuiltBottle,
}

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// Runs `test` in a fresh world, or says why not.
pub(crate) fn in_world(test: impl AsyncFnOnce(&World) + Send) {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI has to run this as root");
        println!("skipped: needs root");
        return;
    }
    let body = || {
        // Threads made from this one, the runtime's included, are in the same namespace.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio.block_on(async {
            let world = World::new();
            world.runtime.prepare_host().await.unwrap();
            let result = AssertUnwindSafe(test(&world)).catch_unwind().await;
            world.tear_down().await;
            result
        })
    };
    let result = std::thread::scope(|scope| scope.spawn(body).join().unwrap());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

impl World {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("egress-bottle-").tempdir().unwrap();
        // The caller's work is in there too, as it is on a real host.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let hidden = directory.path().join("state");
        fs::create_dir(&hidden).unwrap();
        fs::write(hidden.join("secret"), "key").unwrap();
        let hidden_file = directory.path().join("secret-file");
        fs::write(&hidden_file, "key").unwrap();
        let wiring = HostWiring {
            bridge: "egress0".to_owned(),
            gateway: GATEWAY,
            run_directory: directory.path().join("run"),
            layers: hidden.join("bottles"),
            hidden: vec![hidden, hidden_file, directory.path().join("missing")],
            ca_pem: CA.clone(),
            view: HostView::default(),
        };
        let group = directory.path().file_name().unwrap().to_str().unwrap().to_lowercase();
        let runtime = NativeRuntime::new(wiring).with_executable(egress()).with_group(group);
        Self { runtime, directory, last: AtomicU8::new(9) }
    }

    async fn tear_down(&self) {
        for bottle in self.runtime.leftovers().unwrap() {
            self.runtime.take_down(&bottle).await.unwrap();
        }
        self.runtime.remove_host().await.unwrap();
        assert_eq!(self.group(), None, "control groups are left");
    }

    /// From here on this host is one that has not mounted control groups.
    #[expect(clippy::unused_self, reason = "it is done to the thread that the world is on")]
    pub(crate) fn unmount_groups(&self) {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        for line in mounts.lines().filter(|line| line.contains(" - cgroup2 ")) {
            umount2(line.split(' ').nth(4).unwrap(), MntFlags::MNT_DETACH).unwrap();
        }
    }

    /// Where this world's control groups are, once there was one.
    pub(crate) fn group(&self) -> Option<PathBuf> {
        let name = self.directory.path().file_name()?.to_str()?.to_lowercase();
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|mount| PathBuf::from(mount).join(&name));
        mounts.into_iter().find(|group| group.exists())
    }

    pub(crate) fn spec(&self, name: &str) -> BottleSpec {
        let last = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let address = Ipv4Addr::new(10, 213, 0, last);
        BottleSpec { name: name.parse().unwrap(), address, mac: [0x02, 0, 0, 0, 0, last] }
    }

    pub(crate) async fn build(&self, name: &str) -> Bottle {
        let spec = self.spec(name);
        let built = self.runtime.build(&spec).await.unwrap();
        Bottle { spec, built }
    }

    pub(crate) async fn bottle(&self, name: &str) -> Bottle {
        let bottle = self.build(name).await;
        self.runtime.bring_up(&bottle.spec, &bottle.built).await.unwrap();
        bottle
    }

    pub(crate) fn start(&self, bottle: &Bottle, launch: Launch) -> RunningCommand {
        self.runtime.start(&bottle.spec, launch).unwrap()
    }

    /// Runs a command to its end with nothing on its input.
    pub(crate) async fn run(&self, bottle: &Bottle, caller: Caller, command: &[&str]) -> Ended {
        self.run_with_input(bottle, caller, command, Vec::new()).await
    }

    /// Runs a shell script to its end.
    pub(crate) async fn sh(&self, bottle: &Bottle, caller: Caller, script: &str) -> Ended {
        self.run(bottle, caller, &["bash", "-c", script]).await
    }

    pub(crate) async fn run_with_input(
        &self,
        bottle: &Bottle,
        caller: Caller,
        command: &[&str],
        input: Vec<u8>,
    ) -> Ended {
        let (input_reader, mut input_writer) = std::io::pipe().unwrap();
        let (mut output_reader, output_writer) = std::io::pipe().unwrap();
        let (mut errors_reader, errors_writer) = std::io::pipe().unwrap();
        let stdio = [input_reader.into(), output_writer.into(), errors_writer.into()];
        let mut running = self.start(bottle, launch(caller, command, stdio));
        let write = tokio::task::spawn_blocking(move || input_writer.write_all(&input));
        let output = tokio::task::spawn_blocking(move || read(&mut output_reader));
        let errors = tokio::task::spawn_blocking(move || read(&mut errors_reader));
        let ended = tokio::time::timeout(Duration::from_secs(COMMAND_SECONDS_MAX), running.wait()).await;
        let code = ended.expect("the command ends").unwrap();
        // A command need not read its input.
        let _broken_pipe = write.await.unwrap();
        Ended { code, output: output.await.unwrap(), errors: errors.await.unwrap() }
    }
}

pub(crate) fn launch(caller: Caller, command: &[&str], stdio: [OwnedFd; 3]) -> Launch {
    let path = std::env::var_os("PATH").unwrap();
    Launch {
        command: command.iter().map(OsString::from).collect(),
        environment: vec![("PATH".into(), path), ("https_proxy".into(), "http://elsewhere".into())],
        directory: "/".into(),
        shared: Vec::new(),
        hidden: Vec::new(),
        caller,
        stdio,
        has_terminal: false,
        container: None,
    }
}

/// Streams that lead nowhere.
pub(crate) fn nowhere() -> [OwnedFd; 3] {
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    [null(), null(), null()]
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

fn read(reader: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The program beside the directory that the tests are built into.
fn egress() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("egress");
    assert!(program.exists(), "{} is missing: run `cargo build` first", program.display());
    program
}
