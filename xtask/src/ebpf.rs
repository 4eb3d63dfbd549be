//! Builds the gate from source.
//!
//! The object is committed, so that building egress needs stable Rust and nothing else; this is how it comes about,
//! and how anybody can see that it is what the source says. The object names no directory of its builder: the same
//! source and toolchain give the same bytes anywhere.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use aya::EbpfLoader;
use aya::programs::SchedClassifier;

const OBJECT: &str = "egress-userspace/src/kernel/gate.bpf.o";
/// Which toolchain made the object, beside it.
const RECORD: &str = "egress-userspace/src/kernel/gate.bpf.toolchain";
const TARGET: &str = "bpfel-unknown-none";
const PROGRAMS: [&str; 2] = ["from_bottle", "to_bottle"];

/// What an outer cargo or rustup would pass on, and would make the build another one.
const FOREIGN_VARIABLES: [&str; 12] = [
    "CARGO",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "RUST_RECURSION_COUNT",
];

/// Debian's Rust brings the sources of `core`; LLVM's headers and libraries are for bpf-linker.
const DEBIAN_PACKAGES: [&str; 8] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "libxml2-dev",
];
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
const LINKER_VERSION: &str = "0.13.0";

/// What builds the object.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    linker: PathBuf,
    strip: PathBuf,
}

/// Builds the object and puts it in its place, or with `check` only compares.
pub(crate) fn run(check: bool) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let root = root()?;
    if check { compare(&toolchain, &root) } else { replace(&toolchain, &root) }
}

impl Toolchain {
    fn find() -> Result<Self> {
        let (cargo, rustc) = rust().with_context(|| missing("a Rust toolchain with the sources of core"))?;
        let linker = find_program("bpf-linker").with_context(|| missing("bpf-linker"))?;
        let strip = find_strip().with_context(|| missing("llvm-strip"))?;
        Ok(Self { cargo, rustc, linker, strip })
    }

    /// What decides about the bytes, as it is recorded beside them.
    fn versions(&self) -> Result<String> {
        let verbose = output(Command::new(&self.rustc).arg("-vV"))?;
        // The builder's processor picks the source files of the helpers' bindings.
        let rustc: Vec<&str> = verbose
            .lines()
            .enumerate()
            .filter(|(n, line)| *n == 0 || line.starts_with("host:"))
            .map(|(_, line)| line)
            .collect();
        let linker = output(Command::new(&self.linker).arg("--version"))?;
        let strip = output(Command::new(&self.strip).arg("--version"))?;
        let strip = strip.lines().map(str::trim).find(|line| line.contains("version")).unwrap_or("unknown");
        Ok(format!("{}\n{}\nllvm-strip: {strip}\n", rustc.join("\n"), linker.trim()))
    }

    /// Builds the object into `target` and returns it.
    fn build(&self, root: &Path, target: &Path) -> Result<Vec<u8>> {
        println!("building the gate and the core library for {TARGET} …");
        let start = Instant::now();
        let mut build = Command::new(&self.cargo);
        for variable in FOREIGN_VARIABLES {
            build.env_remove(variable);
        }
        build
            .current_dir(root.join("egress-ebpf"))
            .args(["build", "--release", "--locked", "--bin", "gate", "--target", TARGET, "-Z", "build-std=core"])
            .arg("--target-dir")
            .arg(target)
            .env("PATH", self.path()?)
            .env("RUSTC", &self.rustc)
            // Lets a stable compiler take `-Z`, which is what building core needs.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags(root)?.join(OsStr::new("\u{1f}")));
        run_to_end(&mut build)?;
        let built = target.join(TARGET).join("release/gate");
        let stripped = target.join("gate.bpf.o");
        // Debug sections go, .BTF stays.
        run_to_end(Command::new(&self.strip).arg("-g").arg(&built).arg("-o").arg(&stripped))?;
        println!("built in {:.0} s", start.elapsed().as_secs_f32());
        Ok(fs::read(stripped)?)
    }

    /// The search path with the linker's directory first.
    fn path(&self) -> Result<OsString> {
        let own = self.linker.parent().map(Path::to_owned);
        let inherited = env::var_os("PATH").unwrap_or_default();
        Ok(env::join_paths(own.into_iter().chain(env::split_paths(&inherited)))?)
    }

    fn flags(&self, root: &Path) -> Result<Vec<OsString>> {
        // The linker by name alone: flags that name a directory would make crates of another name.
        let fixed = ["-C", "debuginfo=2", "-C", "link-arg=--btf", "-C", "linker=bpf-linker"];
        let mut flags: Vec<OsString> = fixed.map(OsString::from).into();
        let sysroot = output(Command::new(&self.rustc).env_remove("RUSTUP_TOOLCHAIN").args(["--print", "sysroot"]))?;
        let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
        let mut names = vec![(root.to_owned(), "egress".to_owned()), (sources.clone(), "rust".to_owned())];
        // Debian's are a link to somewhere else.
        names.extend(fs::canonicalize(&sources).ok().map(|real| (real, "rust".to_owned())));
        names.extend(registries().into_iter().map(|registry| (registry, "registry".to_owned())));
        for (path, name) in names {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(path);
            flag.push("=");
            flag.push(name);
            flags.push(flag);
        }
        Ok(flags)
    }
}

#[expect(clippy::print_stdout, reason = "the tool tells what it has done")]
fn replace(toolchain: &Toolchain, root: &Path) -> Result<()> {
    let object = toolchain.build(root, &root.join("egress-ebpf/target"))?;
    refuse_traces(&object, root)?;
    fs::write(root.join(OBJECT), &object)?;
    fs::write(root.join(RECORD), toolchain.versions()?)?;
    println!("{OBJECT}: {} bytes", object.len());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the tool tells what it has found")]
fn compare(toolchain: &Toolchain, root: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let fresh = toolchain.build(root, scratch.path())?;
    refuse_traces(&fresh, root)?;
    let (recorded, versions) = (fs::read_to_string(root.join(RECORD))?, toolchain.versions()?);
    if recorded == versions {
        ensure!(fresh == fs::read(root.join(OBJECT))?, "{OBJECT} is not what the source makes: run cargo xtask ebpf");
        println!("{OBJECT} is what the source makes");
        return Ok(());
    }
    println!("{OBJECT} was made by another toolchain, its bytes are not compared:\n{recorded}here is\n{versions}");
    if !is_root()? {
        println!("not root: whether the kernel takes the fresh build was not tried");
        return Ok(());
    }
    load(&fresh).context("the kernel does not take the fresh build")?;
    println!("the kernel takes the fresh build");
    Ok(())
}

/// Loads both programs, and lets go of them.
fn load(object: &[u8]) -> Result<()> {
    let mut loaded = EbpfLoader::new().load(object)?;
    for name in PROGRAMS {
        let program: &mut SchedClassifier = loaded.program_mut(name).context("a program is missing")?.try_into()?;
        program.load()?;
    }
    Ok(())
}

/// An object that names where it was built could not be built anywhere else.
fn refuse_traces(object: &[u8], root: &Path) -> Result<()> {
    let mut traces = registries();
    traces.push(root.to_owned());
    traces.extend(env::home_dir());
    for trace in traces {
        let bytes = trace.as_os_str().as_encoded_bytes();
        // A home of "/" would be found anywhere.
        let found = bytes.len() > 1 && object.windows(bytes.len()).any(|window| window == bytes);
        ensure!(!found, "the object names {}", trace.display());
    }
    Ok(())
}

/// Debian's Rust if it has the sources, else rustup's nightly.
fn rust() -> Option<(PathBuf, PathBuf)> {
    let debian = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
    let nightly = |tool| {
        let path = output(Command::new("rustup").args(["which", "--toolchain", "nightly", tool])).ok()?;
        Some(PathBuf::from(path.trim()))
    };
    let candidates = [Some(debian), nightly("cargo").zip(nightly("rustc"))];
    candidates.into_iter().flatten().find(|(cargo, rustc)| cargo.exists() && has_core_sources(rustc))
}

fn has_core_sources(rustc: &Path) -> bool {
    let sysroot = output(Command::new(rustc).env_remove("RUSTUP_TOOLCHAIN").args(["--print", "sysroot"]));
    sysroot.is_ok_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir())
}

fn find_strip() -> Option<PathBuf> {
    let debian = Path::new(DEBIAN_LLVM).join("bin/llvm-strip");
    let versioned = (19..=22).rev().map(|version| format!("llvm-strip-{version}"));
    let named = || versioned.chain(["llvm-strip".to_owned()]).find_map(|name| find_program(&name));
    debian.exists().then_some(debian).or_else(named)
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = cargo_home().map(|home| home.join("bin"));
    env::split_paths(&path).chain(own).map(|directory| directory.join(name)).find(|program| program.is_file())
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))
}

/// The directories that crates are unpacked in; each is named after its registry.
fn registries() -> Vec<PathBuf> {
    let sources = cargo_home().map(|home| home.join("registry/src"));
    let entries = sources.and_then(|sources| fs::read_dir(sources).ok());
    entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn missing(what: &str) -> String {
    format!(
        "{what} is not there. On Debian, cargo xtask ebpf --install as root does\n  \
         apt-get install {}\n  \
         LLVM_PREFIX={DEBIAN_LLVM} PATH={DEBIAN_LLVM}/bin:$PATH cargo install bpf-linker --version {LINKER_VERSION} \
         --locked --no-default-features --features llvm-22\n\
         elsewhere\n  \
         rustup toolchain install nightly --component rust-src\n  \
         cargo install bpf-linker\n  \
         and your system's package of llvm-strip",
        DEBIAN_PACKAGES.join(" ")
    )
}

fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(fs::canonicalize(here.parent().context("xtask lies in the workspace")?)?)
}

fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}

fn run_to_end(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
