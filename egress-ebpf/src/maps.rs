//! Every map, each behind functions that say what it is for.
//!
//! Keys live on the stack: the verifier accepts no pointer into the context.

use core::ptr::addr_of;

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuHashMap, RingBuf};
use aya_ebpf::macros::btf_map;
use egress_common::{
    COUNTERS_MAX, CounterKey, DROP_EVENTS_BYTES, DROP_EVENTS_PER_WINDOW, DropEvent, GATES_MAX, GateEntry,
    RATE_WINDOW_NS, RESETS_PER_WINDOW, RateWindow, Tally,
};
use gate_rules::classify::Rules;

/// A gate's entry as the program uses it.
pub(crate) struct Entry {
    pub(crate) rules: Rules,
    pub(crate) bottle_id: u32,
}

type Rates = HashMap<u32, RateWindow, { GATES_MAX as usize }>;

#[btf_map(name = "gates")]
static GATES: HashMap<u32, GateEntry, { GATES_MAX as usize }> = HashMap::new();

/// Room for the largest host would cost memory on every host; cells are made when they are first needed.
#[btf_map(name = "counters")]
static COUNTERS: PerCpuHashMap<CounterKey, Tally, { COUNTERS_MAX as usize }, { BPF_F_NO_PREALLOC as usize }> =
    PerCpuHashMap::new();

#[btf_map(name = "drop_events")]
static DROP_EVENTS: RingBuf<DropEvent, { DROP_EVENTS_BYTES as usize }> = RingBuf::new();

#[btf_map(name = "drop_rates")]
static DROP_RATES: Rates = HashMap::new();

#[btf_map(name = "reset_rates")]
static RESET_RATES: Rates = HashMap::new();

/// Written by the loader, for the next loader; the program never reads it.
#[btf_map(name = "abi")]
static ABI: Array<u32, 1> = Array::new();

/// What the gate of an interface knows.
#[inline(always)]
pub(crate) fn entry(interface: u32) -> Option<Entry> {
    let entry: *const GateEntry = GATES.get_ptr(interface)?;
    // SAFETY: a non-null value pointer of this map stays readable while the program runs. State and mode are
    // read as numbers because the map may hold any; all other fields are valid whatever their bytes. The interface is read
    // last, and volatile so that it stays last.
    let (owner, entry) = unsafe {
        let rules = Rules {
            state: addr_of!((*entry).state).cast::<u32>().read_volatile(),
            cut_mode: addr_of!((*entry).cut_mode).cast::<u32>().read_volatile(),
            mac: addr_of!((*entry).mac).read_volatile(),
            ipv4: addr_of!((*entry).ipv4).read_volatile(),
            gateway: addr_of!((*entry).gateway).read_volatile(),
            dns_port: addr_of!((*entry).dns_port).read_volatile(),
            tcp_ports: addr_of!((*entry).tcp_ports).read_volatile(),
        };
        let bottle_id = addr_of!((*entry).bottle_id).read_volatile();
        (addr_of!((*entry).ifindex).read_volatile(), Entry { rules, bottle_id })
    };
    (owner == interface).then_some(entry)
}

/// Adds one packet to a cell.
#[inline(always)]
pub(crate) fn add(key: CounterKey, bytes: u64) {
    match COUNTERS.get_ptr_mut(key) {
        // SAFETY: the cell belongs to this CPU, and programs on one hook of one CPU do not interrupt each other.
        Some(tally) => unsafe {
            (*tally).packets += 1;
            (*tally).bytes += bytes;
        },
        // A full map loses a count, never a decision.
        None => drop(COUNTERS.insert(key, Tally { packets: 1, bytes }, u64::from(BPF_ANY))),
    }
}

/// May this interface report another drop?
#[inline(always)]
pub(crate) fn take_report(interface: u32, now_ns: u64) -> bool {
    take(&DROP_RATES, interface, DROP_EVENTS_PER_WINDOW, now_ns)
}

/// May this interface answer with another reset?
#[inline(always)]
pub(crate) fn take_reset(interface: u32, now_ns: u64) -> bool {
    take(&RESET_RATES, interface, RESETS_PER_WINDOW, now_ns)
}

/// CPUs may count over each other: a few more get through then.
#[inline(always)]
fn take(rates: &Rates, interface: u32, per_window: u32, now_ns: u64) -> bool {
    let fresh = RateWindow { started_ns: now_ns, taken: 1, reserved: 0 };
    let Some(window) = rates.get_ptr_mut(interface) else {
        return rates.insert(interface, fresh, u64::from(BPF_ANY)).is_ok();
    };
    // SAFETY: a non-null value pointer of this map stays valid while the program runs; its fields are plain numbers.
    unsafe {
        if now_ns.wrapping_sub((*window).started_ns) >= RATE_WINDOW_NS {
            *window = fresh;
            return true;
        }
        let allowed = (*window).taken < per_window;
        if allowed {
            (*window).taken += 1;
        }
        allowed
    }
}

/// Reports a drop; a full buffer loses it.
#[inline(always)]
pub(crate) fn send(event: &DropEvent) {
    if let Some(mut place) = DROP_EVENTS.reserve(0) {
        place.write(*event);
        place.submit(0);
    }
}
