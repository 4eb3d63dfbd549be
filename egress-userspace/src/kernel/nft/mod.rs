//! Gates made of nftables: a table of its own in the family `netdev`, with two chains on every bottle's interface.
//!
//! What a gate is stands in [`render`]; here it is put into the kernel in one transaction, read back and compared. A cut is
//! one element of a set that every chain looks at first. The table stays when nobody runs, and while somebody runs it is
//! theirs: flushing the ruleset passes it by (Linux 6.9 and later). The interface carries a mark as its alias, because
//! newer kernels put a chain on any interface that comes under its device's name.

mod expression;
mod label;
mod message;
mod render;
mod socket;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use egress_common::{Direction, DropEvent, GATE_TCP_PORTS_MAX};
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use super::{Counter, Enforcer, Gate, GateStatus, IfIndex, KernelError};
use label::{BARE_SET, CUT_SET, DIRECTIONS};
use message::{Batch, DORMANT, Element, HeldChain, HeldTable, OWNED, STAYS, SetKind};
use render::{Chain, cells, render};
use socket::{Interface, Interfaces, Table};

/// The daemon's table where no other name is given.
pub const TABLE_NAME: &str = "egress";

/// What an interface's alias begins with whose gate is ours; its mark follows.
const ALIAS_PREFIX: &str = "egress gate ";

/// How often, and after how long, a table that somebody else owned a moment ago is asked for.
const RELEASE_TRIES: u32 = 10;
const RELEASE_POLL: Duration = Duration::from_millis(20);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Gates as chains of one table, in the network namespace it was opened in.
pub struct NftEnforcer {
    sockets: Mutex<Sockets>,
}

struct Sockets {
    table: Table,
    interfaces: Interfaces,
}

/// A gate as the kernel has it, all of it.
struct Held {
    gate: Gate,
    mark: String,
}

/// What there is under an interface's names, in whatever state.
struct Remains {
    chains: Vec<String>,
    ports: bool,
    counters: BTreeSet<String>,
    cut: Option<Element>,
}

impl NftEnforcer {
    /// Opens the table of this name, which need not be there, and makes it this value's if it is nobody's.
    pub fn new(table: &str) -> Result<Self, KernelError> {
        let open = || -> io::Result<Sockets> {
            let mut sockets = Sockets { table: Table::open(table)?, interfaces: Interfaces::open()? };
            if sockets.table.table()?.is_some() {
                sockets.claim()?;
            }
            Ok(sockets)
        };
        let sockets = open().map_err(|source| KernelError::Load {
            backend: "nftables",
            hint: "it needs root, and Linux 5.16 or later with CONFIG_NF_TABLES_NETDEV and CONFIG_NETFILTER_EGRESS",
            source: source.into(),
        })?;
        Ok(Self { sockets: Mutex::new(sockets) })
    }

    /// Removes the table with everything in it.
    pub(super) fn remove_table(&self) -> Result<(), KernelError> {
        let mut sockets = self.sockets();
        let remove = |sockets: &mut Sockets| -> io::Result<()> {
            if sockets.table.table()?.is_some() { sockets.table.change(Batch::delete_table) } else { Ok(()) }
        };
        remove(&mut sockets).map_err(|source| KernelError::Map {
            map: "table",
            action: "removed",
            source: source.into(),
        })
    }

    /// A thread that panicked while it asked left the kernel as the kernel has it.
    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Enforcer for NftEnforcer {
    fn backend(&self) -> &'static str {
        "nftables"
    }

    fn attach(&self, gate: &Gate) -> Result<(), KernelError> {
        if gate.tcp_ports.len() > GATE_TCP_PORTS_MAX {
            return Err(KernelError::TooManyPorts { max: GATE_TCP_PORTS_MAX, given: gate.tcp_ports.len() });
        }
        let interface = gate.interface;
        self.sockets().attach(gate).map_err(|source| KernelError::Attach { interface, source })
    }

    fn set(&self, interface: IfIndex, status: GateStatus) -> Result<(), KernelError> {
        self.set_many(&[(interface, status)])
    }

    fn set_many(&self, wanted: &[(IfIndex, GateStatus)]) -> Result<(), KernelError> {
        let mut sockets = self.sockets();
        let (mut present, mut missing) = (BTreeMap::new(), None);
        for (interface, status) in wanted {
            let chain = label::chain(Direction::FromBottle, *interface);
            if sockets.table.chain(&chain).map_err(reading("chains"))?.is_some() {
                present.insert(*interface, *status);
            } else {
                missing = missing.or(Some(*interface));
            }
        }
        sockets.set(&present).map_err(|source| KernelError::Map { map: CUT_SET, action: "written", source })?;
        missing.map_or(Ok(()), |interface| Err(KernelError::NoGate(interface)))
    }

    fn detach(&self, interface: IfIndex) -> Result<(), KernelError> {
        let removed = self.sockets().detach(interface);
        removed.map_err(|source| KernelError::Interface { interface, action: "removed", source: source.into() })
    }

    fn gates(&self) -> Result<Vec<Gate>, KernelError> {
        let mut sockets = self.sockets();
        // One whose owner was not gone yet when this value was made.
        if sockets.table.table().map_err(reading("table"))?.is_some_and(|table| table.flags == STAYS) {
            sockets.claim().map_err(reading("table"))?;
        }
        let chains = sockets.table.chains().map_err(reading("chains"))?;
        let cut = sockets.cut().map_err(reading(CUT_SET))?;
        let mut comments: BTreeMap<IfIndex, [String; 2]> = BTreeMap::new();
        for chain in chains {
            for (place, direction) in DIRECTIONS.into_iter().enumerate() {
                let Some(interface) = label::interface_of(&chain.name, direction) else { continue };
                if let Some(comment) = comments.entry(interface).or_default().get_mut(place) {
                    *comment = chain.hook.as_ref().map(|hook| hook.comment.clone()).unwrap_or_default();
                }
            }
        }
        let gate = |(interface, [from, to]): (IfIndex, [String; 2])| {
            let status = cut.get(&interface).copied().unwrap_or(GateStatus::Open);
            label::read(interface, &from, &to, status).0
        };
        Ok(comments.into_iter().map(gate).collect())
    }

    fn is_attached(&self, interface: IfIndex) -> Result<bool, KernelError> {
        let held = self.sockets().held(interface);
        let failed =
            |source: io::Error| KernelError::Interface { interface, action: "looked up", source: source.into() };
        Ok(held.map_err(failed)?.is_some())
    }

    fn is_partly_attached(&self, interface: IfIndex) -> Result<bool, KernelError> {
        let is_left = self.sockets().has_part_on(interface);
        is_left.map_err(|source| KernelError::Interface { interface, action: "looked up", source: source.into() })
    }

    fn counters(&self, interface: IfIndex) -> Result<Vec<Counter>, KernelError> {
        let mut sockets = self.sockets();
        let mut counters = Vec::new();
        for (direction, outcome) in cells() {
            let name = label::counter(direction, outcome, interface);
            let tally = sockets.table.counter(&name).map_err(reading("counters"))?.unwrap_or_default();
            if tally.packets > 0 {
                let bytes = tally.bytes + tally.packets * u64::from(render::uncounted_bytes(direction));
                counters.push(Counter { direction, outcome, packets: tally.packets, bytes });
            }
        }
        Ok(counters)
    }

    /// None: nftables has no buffer of ours. The counters tell.
    fn drop_events(&self, _max: usize) -> Result<Vec<DropEvent>, KernelError> {
        Ok(Vec::new())
    }
}

impl Sockets {
    /// Makes the table, or makes one that is nobody's ours, and wakes one that is dormant. Kernels that know no owner have a
    /// table that is anybody's.
    fn claim(&mut self) -> io::Result<()> {
        // The kernel may take the table from an owner that has gone a moment after its end.
        for _ in 0..RELEASE_TRIES {
            if !self.table.is_anothers()? {
                break;
            }
            thread::sleep(RELEASE_POLL);
        }
        let Some(HeldTable { flags, .. }) = self.table.table()? else {
            return match self.table.change(|batch| batch.add_table(OWNED | STAYS)) {
                Err(error) if is(&error, &[Errno::EOPNOTSUPP, Errno::EINVAL]) => {
                    self.table.change(|batch| batch.add_table(0))
                }
                other => other,
            };
        };
        let awake = flags & !DORMANT;
        let wanted = if awake == STAYS { OWNED | STAYS } else { awake };
        if wanted == flags { Ok(()) } else { self.table.change(|batch| batch.add_table(wanted)) }
    }

    fn attach(&mut self, gate: &Gate) -> Result<(), BoxError> {
        self.claim()?;
        let found = self.interfaces.find(gate.interface)?.ok_or("there is no such interface")?;
        let held = self.held(gate.interface)?;
        if held.as_ref().is_some_and(|held| held.gate == *gate) {
            return Ok(());
        }
        let mark = match &held {
            Some(held) => held.mark.clone(),
            None => self.mark(gate.interface)?,
        };
        self.replace(gate, &found, &mark, held.is_some())?;
        let held = self.held(gate.interface)?.ok_or("the kernel does not hold what was written")?;
        if held.gate != *gate { Err("the kernel holds another gate than was written".into()) } else { Ok(()) }
    }

    /// Puts a new mark on an interface: nothing that was there before has it.
    fn mark(&mut self, interface: IfIndex) -> io::Result<String> {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
        let mark = format!("{:x}{:08x}", now.tv_sec(), now.tv_nsec());
        self.interfaces.set_alias(interface, &format!("{ALIAS_PREFIX}{mark}"))?;
        Ok(mark)
    }

    /// The whole gate anew in one transaction; what it has counted stays if it is the same interface's.
    fn replace(&mut self, gate: &Gate, found: &Interface, mark: &str, keeps_counters: bool) -> io::Result<()> {
        let interface = gate.interface;
        let wanted = render(gate, &found.name, mark);
        let remains = self.remains(interface)?;
        let (has_cut, has_bare) = (self.table.has_set(CUT_SET)?, self.table.has_set(BARE_SET)?);
        self.table.change(|batch| {
            if !has_cut {
                batch.add_set(CUT_SET, SetKind::Interfaces);
            }
            if !has_bare {
                batch.add_set(BARE_SET, SetKind::BareTcp);
                batch.add_elements(BARE_SET, &elements(render::bare_tcp()));
            }
            remains.delete(batch, interface, keeps_counters);
            for (direction, outcome) in cells() {
                let counter = label::counter(direction, outcome, interface);
                if !(keeps_counters && remains.counters.contains(&counter)) {
                    batch.add_counter(&counter);
                }
            }
            let ports = label::ports_set(interface);
            batch.add_set(&ports, SetKind::Ports);
            batch.add_elements(&ports, &elements(wanted.ports.iter().map(|port| port.to_be_bytes())));
            batch.add_elements(CUT_SET, cut_element(interface, gate.status).as_slice());
            wanted.chains.iter().for_each(|chain| batch.add_chain(chain));
        })
    }

    /// The gate of an interface, if the kernel has it as it must be, entirely.
    fn held(&mut self, interface: IfIndex) -> io::Result<Option<Held>> {
        let Some(found) = self.interfaces.find(interface)? else { return Ok(None) };
        if self.table.table()?.is_none_or(|table| table.flags & DORMANT != 0) {
            return Ok(None);
        }
        let mut comments = Vec::new();
        for direction in DIRECTIONS {
            let chain = self.table.chain(&label::chain(direction, interface))?;
            let Some(hook) = chain.and_then(|chain| chain.hook) else { return Ok(None) };
            comments.push(hook.comment);
        }
        let [from, to] = comments.as_slice() else { return Ok(None) };
        let cut = self.table.element(CUT_SET, &key(interface))?;
        let status = cut.map_or(GateStatus::Open, |cut| GateStatus::Cut(label::reason(cut.comment.as_deref())));
        let (gate, mark) = label::read(interface, from, to, status);
        let wanted = render(&gate, &found.name, &mark);
        let ports: Vec<_> = wanted.ports.iter().map(|port| port.to_be_bytes().to_vec()).collect();
        let is_whole = found.alias == format!("{ALIAS_PREFIX}{mark}")
            && self.keys(&label::ports_set(interface))? == ports
            && self.keys(BARE_SET)? == render::bare_tcp()
            && self.holds(&wanted.chains)?;
        Ok(is_whole.then_some(Held { gate, mark }))
    }

    /// Is a chain of this number on this interface, by its name or its mark? One that went may have left chains behind.
    fn has_part_on(&mut self, interface: IfIndex) -> io::Result<bool> {
        let Some(found) = self.interfaces.find(interface)? else { return Ok(false) };
        for direction in DIRECTIONS {
            let chain = self.table.chain(&label::chain(direction, interface))?;
            // On a hook, but not as it must be, its device is not told.
            let is_on = |chain: HeldChain| chain.hook.is_none_or(|hook| hook.device == found.name);
            if chain.is_some_and(|chain| is_on(chain) || found.alias.starts_with(ALIAS_PREFIX)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn holds(&mut self, chains: &[Chain]) -> io::Result<bool> {
        for chain in chains {
            let held = self.table.chain(&chain.name)?;
            if held.is_none_or(|held| held.hook != chain.hook) || self.table.rules(&chain.name)? != chain.rules {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The keys of a set in order.
    fn keys(&mut self, set: &str) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<_> = self.table.elements(set)?.into_iter().map(|element| element.key).collect();
        keys.sort();
        Ok(keys)
    }

    /// Every gate that is cut.
    fn cut(&mut self) -> io::Result<BTreeMap<IfIndex, GateStatus>> {
        let elements = self.table.elements(CUT_SET)?;
        let cut = elements.iter().filter_map(|element| {
            let interface = IfIndex(u32::from_ne_bytes(*element.key.first_chunk()?));
            Some((interface, GateStatus::Cut(label::reason(element.comment.as_deref()))))
        });
        Ok(cut.collect())
    }

    /// Opens and cuts gates that exist, in one transaction, and looks whether the kernel has it so.
    fn set(&mut self, wanted: &BTreeMap<IfIndex, GateStatus>) -> Result<(), BoxError> {
        let held = self.statuses(wanted)?;
        let differing = || wanted.iter().filter(|(interface, status)| held.get(interface) != Some(status));
        let stale: Vec<_> = differing()
            .filter(|(interface, _)| held.get(interface).is_some_and(|held| *held != GateStatus::Open))
            .map(|(interface, _)| Element { key: key(*interface), comment: None })
            .collect();
        let fresh: Vec<_> = differing().filter_map(|(interface, status)| cut_element(*interface, *status)).collect();
        let change = |sockets: &mut Self| {
            sockets.table.change(|batch| {
                batch.delete_elements(CUT_SET, &stale);
                batch.add_elements(CUT_SET, &fresh);
            })
        };
        let mut changed = change(self);
        // The kernel may take the table from an owner that has gone a moment after its end.
        for _ in 0..RELEASE_TRIES {
            if !changed.as_ref().is_err_and(|error| is(error, &[Errno::EPERM])) {
                break;
            }
            thread::sleep(RELEASE_POLL);
            self.claim()?;
            changed = change(self);
        }
        changed?;
        if self.statuses(wanted)? == *wanted { Ok(()) } else { Err("the kernel does not hold what was written".into()) }
    }

    /// What the kernel says of these gates' status.
    fn statuses(&mut self, of: &BTreeMap<IfIndex, GateStatus>) -> io::Result<BTreeMap<IfIndex, GateStatus>> {
        let mut statuses = BTreeMap::new();
        for interface in of.keys() {
            let cut = self.table.element(CUT_SET, &key(*interface))?;
            let status = cut.map_or(GateStatus::Open, |cut| GateStatus::Cut(label::reason(cut.comment.as_deref())));
            statuses.insert(*interface, status);
        }
        Ok(statuses)
    }

    fn detach(&mut self, interface: IfIndex) -> io::Result<()> {
        let remains = self.remains(interface)?;
        self.table.change(|batch| remains.delete(batch, interface, false))?;
        let found = self.interfaces.find(interface)?;
        if found.is_some_and(|found| found.alias.starts_with(ALIAS_PREFIX)) {
            self.interfaces.set_alias(interface, "")?;
        }
        let shared = u32::from(self.table.has_set(CUT_SET)?) + u32::from(self.table.has_set(BARE_SET)?);
        if self.table.table()?.is_some_and(|table| table.things == shared) {
            self.table.change(Batch::delete_table)?;
        }
        Ok(())
    }

    fn remains(&mut self, interface: IfIndex) -> io::Result<Remains> {
        let mut remains = Remains {
            chains: Vec::new(),
            ports: self.table.has_set(&label::ports_set(interface))?,
            counters: BTreeSet::new(),
            cut: self.table.element(CUT_SET, &key(interface))?,
        };
        // Those on hooks first: they go to the others.
        for name in [label::chain, label::told_chain] {
            for direction in DIRECTIONS {
                let name = name(direction, interface);
                if self.table.chain(&name)?.is_some() {
                    remains.chains.push(name);
                }
            }
        }
        for (direction, outcome) in cells() {
            let name = label::counter(direction, outcome, interface);
            if self.table.counter(&name)?.is_some() {
                remains.counters.insert(name);
            }
        }
        Ok(remains)
    }
}

impl Remains {
    fn delete(&self, batch: &mut Batch, interface: IfIndex, keeps_counters: bool) {
        self.chains.iter().for_each(|chain| batch.delete_chain(chain));
        if self.ports {
            batch.delete_set(&label::ports_set(interface));
        }
        if !keeps_counters {
            self.counters.iter().for_each(|counter| batch.delete_counter(counter));
        }
        if let Some(cut) = &self.cut {
            let cut = Element { comment: None, ..cut.clone() };
            batch.delete_elements(CUT_SET, &[cut]);
        }
    }
}

/// The cut set's key of an interface.
fn key(interface: IfIndex) -> Vec<u8> {
    interface.0.to_ne_bytes().to_vec()
}

fn cut_element(interface: IfIndex, status: GateStatus) -> Option<Element> {
    match status {
        GateStatus::Open => None,
        GateStatus::Cut(reason) => {
            Some(Element { key: key(interface), comment: Some(label::reason_word(reason).to_owned()) })
        }
    }
}

fn elements(keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<Element> {
    keys.into_iter().map(|key| Element { key: key.as_ref().to_vec(), comment: None }).collect()
}

fn is(error: &io::Error, kinds: &[Errno]) -> bool {
    kinds.iter().any(|kind| error.raw_os_error() == Some(*kind as i32))
}

fn reading(map: &'static str) -> impl Fn(io::Error) -> KernelError {
    move |source| KernelError::Map { map, action: "read", source: source.into() }
}
