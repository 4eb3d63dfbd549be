//! Every map, each behind functions that say what it is for.
//!
//! Keys live on the stack: the verifier accepts no pointer into the context.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuHashMap, RingBuf};
use aya_ebpf::macros::btf_map;
use egress_common::{
    DROP_EVENTS_BYTES, DROP_EVENTS_PER_WINDOW, Direction, DropEvent, GATES_MAX, GateCounters, GateEntry, Outcome,
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

/// Room for the largest host would cost memory on every host; an element is made when its gate is attached.
#[btf_map(name = "counters")]
static COUNTERS: PerCpuHashMap<u32, GateCounters, { GATES_MAX as usize }, { BPF_F_NO_PREALLOC as usize }> =
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
            mac: mac(entry),
            ipv4: addr_of!((*entry).ipv4).cast::<u32>().read_volatile().to_ne_bytes(),
            gateway: addr_of!((*entry).gateway).cast::<u32>().read_volatile().to_ne_bytes(),
            dns_port: addr_of!((*entry).dns_port).read_volatile(),
            tcp_ports: addr_of!((*entry).tcp_ports).read_volatile(),
        };
        let bottle_id = addr_of!((*entry).bottle_id).read_volatile();
        (addr_of!((*entry).ifindex).read_volatile(), Entry { rules, bottle_id })
    };
    (owner == interface).then_some(entry)
}

/// # Safety
///
/// The entry can be read.
#[inline(always)]
unsafe fn mac(entry: *const GateEntry) -> [u8; 6] {
    // SAFETY: the caller's word; the field stands at a multiple of four bytes of an entry that stands at one of eight.
    let [first, second] = unsafe {
        let words = addr_of!((*entry).mac).cast::<u16>();
        [words.cast::<u32>().read_volatile(), u32::from(words.add(2).read_volatile())]
    };
    let ([a, b, c, d], [e, f]) = (first.to_ne_bytes(), (second as u16).to_ne_bytes());
    [a, b, c, d, e, f]
}

/// Adds one packet to a cell. A gate whose counters somebody has removed loses a count, never a decision.
#[inline(always)]
pub(crate) fn add(interface: u32, direction: Direction, outcome: Outcome, bytes: u64) {
    let Some(counters) = COUNTERS.get_ptr_mut(interface) else { return };
    // SAFETY: the counters belong to this CPU, and programs on one hook of one CPU do not interrupt each other. The cells of
    // a direction stand in the order of outcomes and are as many, which the contract asserts; the mask tells the verifier.
    unsafe {
        let tallies = match direction {
            Direction::FromBottle => addr_of_mut!((*counters).from_bottle),
            Direction::ToBottle => addr_of_mut!((*counters).to_bottle),
        };
        let tally = tallies.cast::<Tally>().add(outcome as usize & (Outcome::ALL.len() - 1));
        (*tally).packets += 1;
        (*tally).bytes += bytes;
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
