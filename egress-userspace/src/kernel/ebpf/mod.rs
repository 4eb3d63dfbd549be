//! Gates as eBPF programs on tc hooks, with their state in pinned maps.
//!
//! Knows how to load, pin, adopt and attach the program that `egress-ebpf` is the source of; knows nothing of what it
//! decides. Maps and links outlive this process: the next one finds both where this one left them.

mod attachment;
mod filter;
mod layout;
mod pins;

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuHashMap, PerCpuValues, RingBuf};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use egress_common::{ABI_VERSION, DropEvent, RateWindow};
use nix::time::{ClockId, clock_gettime};

pub use attachment::TcAttachment;

use self::attachment::{Attached, BoxError, HOOKS, Identity, Place};
use self::layout::{CounterWords, EntryBytes, NOTHING_COUNTED};
use self::pins::{ABI_MAP, MAPS, Pins};
use super::{AttachedProgram, Counter, Enforcer, Gate, GateStatus, IfIndex, KernelError};
use crate::fault::{self, Point};

/// Where gates are pinned unless somebody says otherwise.
pub const PIN_DIRECTORY: &str = "/sys/fs/bpf/egress";

/// Grace periods of the kernel take milliseconds; a loaded host may need more.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(5);
const RELEASE_POLL: Duration = Duration::from_millis(1);

/// Where programs do not load.
const HINT: &str = "it needs root, and Linux 5.8 or later with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF";

/// Built by `cargo xtask ebpf`.
static PROGRAM: &[u8] = include_bytes_aligned!("../gate.bpf.o");

/// Of `bpf(2)`: an element that is there stays.
const BPF_NOEXIST: u64 = 1;

type Entries = HashMap<MapData, u32, EntryBytes>;
type Rates = HashMap<MapData, u32, [u8; size_of::<RateWindow>()]>;
type Counters = PerCpuHashMap<MapData, u32, CounterWords>;

/// The eBPF backend. Calls may come from any thread; cutting waits for nothing slower than another map write.
pub struct EbpfEnforcer {
    attachment: TcAttachment,
    pins: Pins,
    gates_map: u32,
    /// The kernel's hashes of the program of each hook.
    tags: [u64; HOOKS.len()],
    program: Mutex<Ebpf>,
    gates: Mutex<Entries>,
    tallies: Mutex<Tallies>,
    drop_events: Mutex<RingBuf<MapData>>,
}

struct Tallies {
    counters: Counters,
    drop_rates: Rates,
    reset_rates: Rates,
}

impl EbpfEnforcer {
    /// Loads the program and adopts the maps pinned in `directory`, or pins new ones.
    pub fn new(directory: &Path, attachment: TcAttachment) -> Result<Self, KernelError> {
        let pins = Pins::open(directory)?;
        let mut program = load(&pins)?;
        let tags = tags(&program)?;
        let enforcer = Self {
            attachment: attachment.settle(),
            gates_map: MapInfo::from_pin(pins.map("gates")).map_err(opening("gates"))?.id(),
            pins,
            tags,
            gates: Mutex::new(take(&mut program, "gates")?.try_into().map_err(opening("gates"))?),
            tallies: Mutex::new(Tallies {
                counters: take(&mut program, "counters")?.try_into().map_err(opening("counters"))?,
                drop_rates: take(&mut program, "drop_rates")?.try_into().map_err(opening("drop_rates"))?,
                reset_rates: take(&mut program, "reset_rates")?.try_into().map_err(opening("reset_rates"))?,
            }),
            drop_events: Mutex::new(take(&mut program, "drop_events")?.try_into().map_err(opening("drop_events"))?),
            program: Mutex::new(program),
        };
        enforcer.write_version()?;
        Ok(enforcer)
    }

    /// How gates are put on interfaces here; never `Auto`.
    #[must_use]
    pub fn attachment(&self) -> TcAttachment {
        self.attachment
    }

    fn write_version(&self) -> Result<(), KernelError> {
        let map = take(&mut lock(&self.program), ABI_MAP)?;
        let mut versions: Array<MapData, u32> = map.try_into().map_err(opening(ABI_MAP))?;
        versions.set(0, ABI_VERSION, 0).map_err(writing(ABI_MAP))
    }

    fn put_on_interface(&self, interface: IfIndex) -> Result<(), BoxError> {
        let name = attachment::interface_name(interface)?.ok_or("there is no such interface")?;
        let mut loaded = lock(&self.program);
        for (hook, name_of) in HOOKS {
            let program: &SchedClassifier =
                loaded.program(name_of).ok_or("the object lacks the program")?.try_into()?;
            let place = Place { interface, name: &name, hook };
            if attachment::needs_copy(self.attachment, &place, program, &self.pins)? {
                *loaded = load(&self.pins)?;
            }
            let program: &mut SchedClassifier =
                loaded.program_mut(name_of).ok_or("the object lacks the program")?.try_into()?;
            attachment::attach(self.attachment, &place, program, &self.pins)?;
            if hook == TcAttachType::Ingress {
                fault::point(Point::HalfAttached);
            }
        }
        Ok(())
    }

    fn take_off_interface(&self, interface: IfIndex) -> Result<(), BoxError> {
        let name = attachment::interface_name(interface)?;
        for (hook, _) in HOOKS {
            self.pins.remove(&self.pins.link(interface, hook))?;
            if let Some(name) = &name {
                let removed = attachment::remove_filter(&Place { interface, name, hook });
                attachment::unless_gone(interface, removed)?;
            }
        }
        // The kernel lets go of a link some time after its pin.
        let deadline = Instant::now() + RELEASE_TIME_MAX;
        while self.is_on_a_hook(interface)? {
            if Instant::now() > deadline {
                return Err("the kernel still runs it".into());
            }
            thread::sleep(RELEASE_POLL);
        }
        Ok(())
    }

    /// The program of each hook that has its own.
    fn look_up(&self, interface: IfIndex) -> Result<[Option<Attached>; HOOKS.len()], BoxError> {
        self.look_up_as(self.attachment, interface)
    }

    fn look_up_as(&self, way: TcAttachment, interface: IfIndex) -> Result<[Option<Attached>; HOOKS.len()], BoxError> {
        let mut found = [const { None }; HOOKS.len()];
        let Some(name) = attachment::interface_name(interface)? else { return Ok(found) };
        for ((hook, program), found) in HOOKS.into_iter().zip(&mut found) {
            let ours = Identity { program, gates_map: self.gates_map };
            let attached = attachment::attached(way, &Place { interface, name: &name, hook }, ours);
            *found = attachment::unless_gone(interface, attached)?;
        }
        Ok(found)
    }

    /// In whatever way: an earlier controller may have had another.
    fn is_on_a_hook(&self, interface: IfIndex) -> Result<bool, BoxError> {
        for way in TcAttachment::possible() {
            if self.look_up_as(way, interface)?.iter().any(Option::is_some) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes sure that there is something to count in.
    fn make_counters(&self, interface: IfIndex) -> Result<(), KernelError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| KernelError::Map {
            map: "counters",
            action: "sized",
            source: source.into(),
        })?;
        let nothing = PerCpuValues::try_from(vec![NOTHING_COUNTED; cpus]).map_err(|source| KernelError::Map {
            map: "counters",
            action: "sized",
            source: source.into(),
        })?;
        match lock(&self.tallies).counters.insert(interface.0, nothing, BPF_NOEXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(writing("counters")),
        }
    }

    fn forget_tallies(&self, interface: IfIndex) -> Result<(), KernelError> {
        let mut tallies = lock(&self.tallies);
        present(tallies.drop_rates.remove(&interface.0)).map_err(writing("drop_rates"))?;
        present(tallies.reset_rates.remove(&interface.0)).map_err(writing("reset_rates"))?;
        present(tallies.counters.remove(&interface.0)).map_err(writing("counters"))?;
        Ok(())
    }
}

impl Enforcer for EbpfEnforcer {
    fn backend(&self) -> &'static str {
        "ebpf"
    }

    fn attach(&self, gate: &Gate) -> Result<(), KernelError> {
        let interface = gate.interface;
        let entry = layout::encode_entry(gate, monotonic_ns())?;
        let found = self.look_up(interface).map_err(looking_up(interface))?;
        if !found.iter().all(Option::is_some) {
            // What was counted belongs to an interface that had this number before.
            self.forget_tallies(interface)?;
        }
        self.make_counters(interface)?;
        lock(&self.gates).insert(interface.0, entry, 0).map_err(writing("gates"))?;
        fault::point(Point::EntryWritten);
        self.put_on_interface(interface).map_err(|source| {
            // A hook that did get its program drops everything without an entry. The first error is the one to tell.
            let _ = lock(&self.gates).remove(&interface.0);
            KernelError::Attach { interface, source }
        })
    }

    fn set(&self, interface: IfIndex, status: GateStatus) -> Result<(), KernelError> {
        let mut gates = lock(&self.gates);
        let entry = present(gates.get(&interface.0, 0).map(Some)).map_err(reading("gates"))?;
        let entry = entry.ok_or(KernelError::NoGate(interface))?;
        let gate = Gate { status, ..layout::decode_entry(interface, &entry) };
        let entry = layout::encode_entry(&gate, monotonic_ns())?;
        gates.insert(interface.0, entry, 0).map_err(writing("gates"))
    }

    fn detach(&self, interface: IfIndex) -> Result<(), KernelError> {
        // The entry first: whatever of the program is left then drops everything.
        present(lock(&self.gates).remove(&interface.0)).map_err(writing("gates"))?;
        self.take_off_interface(interface).map_err(|source| KernelError::Interface {
            interface,
            action: "removed",
            source,
        })?;
        self.forget_tallies(interface)
    }

    fn gates(&self) -> Result<Vec<Gate>, KernelError> {
        let map = lock(&self.gates);
        let mut gates = Vec::new();
        for entry in map.iter() {
            let (interface, entry) = entry.map_err(reading("gates"))?;
            gates.push(layout::decode_entry(IfIndex(interface), &entry));
        }
        gates.sort_by_key(|gate| gate.interface);
        Ok(gates)
    }

    fn is_attached(&self, interface: IfIndex) -> Result<bool, KernelError> {
        let found = self.look_up(interface).map_err(looking_up(interface))?;
        // Another version's program, or an impostor, has another.
        let is_whole = |(found, tag): (Option<Attached>, u64)| {
            found.is_some_and(|attached| attached.is_first && attached.program.tag() == tag)
        };
        Ok(found.into_iter().zip(self.tags).all(is_whole))
    }

    fn is_partly_attached(&self, interface: IfIndex) -> Result<bool, KernelError> {
        self.is_on_a_hook(interface).map_err(looking_up(interface))
    }

    fn programs(&self, interface: IfIndex) -> Result<Vec<AttachedProgram>, KernelError> {
        let found = self.look_up(interface).map_err(looking_up(interface))?;
        let describe = |((hook, _), attached): ((TcAttachType, &str), Option<Attached>)| {
            let program = attached?.program;
            let average = program.run_time().as_nanos().checked_div(u128::from(program.run_count()));
            Some(AttachedProgram {
                hook: self.attachment.describe(hook),
                name: program.name_as_str().unwrap_or_default().to_owned(),
                id: program.id(),
                tag: program.tag(),
                average_ns: average.and_then(|average| u64::try_from(average).ok()),
            })
        };
        Ok(HOOKS.into_iter().zip(found).filter_map(describe).collect())
    }

    fn counters(&self, interface: IfIndex) -> Result<Vec<Counter>, KernelError> {
        let tallies = lock(&self.tallies);
        let counted = present(tallies.counters.get(&interface.0, 0).map(Some)).map_err(reading("counters"))?;
        let per_cpu: Vec<&CounterWords> = counted.iter().flat_map(|per_cpu| per_cpu.iter()).collect();
        Ok(layout::decode_counters(&per_cpu))
    }

    fn drop_events(&self, max: usize) -> Result<Vec<DropEvent>, KernelError> {
        let mut ring = lock(&self.drop_events);
        let mut events = Vec::new();
        while events.len() < max {
            let Some(record) = ring.next() else { break };
            events.extend(layout::decode_drop_event(&record));
        }
        Ok(events)
    }
}

fn load(pins: &Pins) -> Result<Ebpf, KernelError> {
    let failed = |source: BoxError| KernelError::Load { backend: "eBPF", hint: HINT, source };
    let mut loader = EbpfLoader::new();
    for map in MAPS {
        loader.map_pin_path(map, pins.map(map));
    }
    let mut loaded = loader.load(PROGRAM).map_err(|error| failed(error.into()))?;
    for (_, program) in HOOKS {
        let program = loaded.program_mut(program).ok_or_else(|| failed("the object lacks a program".into()))?;
        let program: &mut SchedClassifier = program.try_into().map_err(|error| failed(BoxError::from(error)))?;
        program.load().map_err(|error| failed(error.into()))?;
    }
    Ok(loaded)
}

fn tags(loaded: &Ebpf) -> Result<[u64; HOOKS.len()], KernelError> {
    let mut tags = [0; HOOKS.len()];
    for ((_, name), tag) in HOOKS.into_iter().zip(&mut tags) {
        let reading = |source: BoxError| KernelError::Load { backend: "eBPF", hint: HINT, source };
        let program = loaded.program(name).ok_or_else(|| reading("the object lacks a program".into()))?;
        *tag = program.info().map_err(|error| reading(error.into()))?.tag();
    }
    Ok(tags)
}

fn take(program: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    let missing = || KernelError::Map { map: name, action: "found", source: "the object lacks it".into() };
    program.take_map(name).ok_or_else(missing)
}

/// A key that is not in the map is no error.
fn present<T: Default>(result: Result<T, MapError>) -> Result<T, MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(T::default()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        other => other,
    }
}

fn looking_up(interface: IfIndex) -> impl Fn(BoxError) -> KernelError {
    move |source| KernelError::Interface { interface, action: "looked up", source }
}

fn opening(map: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map { map, action: "opened", source: source.into() }
}

fn reading(map: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map { map, action: "read", source: source.into() }
}

fn writing(map: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map { map, action: "written", source: source.into() }
}

/// A thread that panicked while it held a map left the map as the kernel has it.
fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
