//! Gates that exist only here: what the kernel would hold, for tests of whoever uses an [`Enforcer`].
//!
//! Holds state, passes no packets. Any call can be told to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use egress_common::{DropEvent, GATE_TCP_PORTS_MAX};

use super::{Counter, Enforcer, Gate, GateStatus, IfIndex, KernelError};

/// A call that can be told to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// [`Enforcer::attach`]
    Attach,
    /// [`Enforcer::set`]
    Set,
    /// [`Enforcer::detach`]
    Detach,
    /// [`Enforcer::gates`], [`Enforcer::is_attached`], [`Enforcer::is_partly_attached`], [`Enforcer::counters`] and
    /// [`Enforcer::drop_events`]
    Read,
}

/// A gate of bottle 3, for tests to which no more of it matters.
#[cfg(test)]
pub(crate) fn sample_gate(interface: IfIndex, status: GateStatus) -> Gate {
    Gate {
        interface,
        bottle: crate::domain::BottleId(3),
        mac: [2; 6],
        address: [10, 0, 0, 2].into(),
        gateway: [10, 0, 0, 1].into(),
        tcp_ports: vec![443],
        dns_port: 53,
        status,
        cut_mode: crate::domain::CutMode::Reset,
    }
}

/// Gates in memory.
#[derive(Debug, Default)]
pub struct FakeEnforcer {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    gates: BTreeMap<IfIndex, Gate>,
    attached: BTreeSet<IfIndex>,
    /// With a program in one direction only.
    halved: BTreeSet<IfIndex>,
    counters: BTreeMap<IfIndex, Vec<Counter>>,
    drop_events: Vec<DropEvent>,
    failing: BTreeSet<Call>,
}

impl FakeEnforcer {
    /// From here on `call` fails, and leaves everything as it is.
    pub fn fail(&self, call: Call) {
        self.state().failing.insert(call);
    }

    /// From here on every call works again.
    pub fn heal(&self) {
        self.state().failing.clear();
    }

    /// As if somebody had taken the program off the interface behind our back.
    pub fn lose_attachment(&self, interface: IfIndex) {
        self.state().attached.remove(&interface);
    }

    /// As if somebody had taken the program off one direction.
    pub fn lose_hook(&self, interface: IfIndex) {
        let mut state = self.state();
        if state.attached.remove(&interface) {
            state.halved.insert(interface);
        }
    }

    /// As if the gate had counted this; replaces what it had counted.
    pub fn count(&self, interface: IfIndex, counters: Vec<Counter>) {
        self.state().counters.insert(interface, counters);
    }

    /// As if a gate had reported a drop.
    pub fn report(&self, event: DropEvent) {
        self.state().drop_events.push(event);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, call: Call) -> Result<MutexGuard<'_, State>, KernelError> {
        let state = self.state();
        if state.failing.contains(&call) {
            let action = match call {
                Call::Set | Call::Attach => "written",
                Call::Detach => "removed",
                Call::Read => "read",
            };
            return Err(KernelError::Map { map: "gates", action, source: "it was told to fail".into() });
        }
        Ok(state)
    }
}

impl Enforcer for FakeEnforcer {
    fn backend(&self) -> &'static str {
        "fake"
    }

    fn attach(&self, gate: &Gate) -> Result<(), KernelError> {
        let mut state = self.enter(Call::Attach)?;
        if gate.tcp_ports.len() > GATE_TCP_PORTS_MAX {
            return Err(KernelError::TooManyPorts { max: GATE_TCP_PORTS_MAX, given: gate.tcp_ports.len() });
        }
        if state.attached.insert(gate.interface) {
            state.counters.remove(&gate.interface);
        }
        state.halved.remove(&gate.interface);
        state.gates.insert(gate.interface, gate.clone());
        Ok(())
    }

    fn set(&self, interface: IfIndex, status: GateStatus) -> Result<(), KernelError> {
        let mut state = self.enter(Call::Set)?;
        state.gates.get_mut(&interface).ok_or(KernelError::NoGate(interface))?.status = status;
        Ok(())
    }

    fn detach(&self, interface: IfIndex) -> Result<(), KernelError> {
        let mut state = self.enter(Call::Detach)?;
        state.gates.remove(&interface);
        state.attached.remove(&interface);
        state.halved.remove(&interface);
        state.counters.remove(&interface);
        Ok(())
    }

    fn gates(&self) -> Result<Vec<Gate>, KernelError> {
        Ok(self.enter(Call::Read)?.gates.values().cloned().collect())
    }

    fn is_attached(&self, interface: IfIndex) -> Result<bool, KernelError> {
        Ok(self.enter(Call::Read)?.attached.contains(&interface))
    }

    fn is_partly_attached(&self, interface: IfIndex) -> Result<bool, KernelError> {
        let state = self.enter(Call::Read)?;
        Ok(state.attached.contains(&interface) || state.halved.contains(&interface))
    }

    fn counters(&self, interface: IfIndex) -> Result<Vec<Counter>, KernelError> {
        Ok(self.enter(Call::Read)?.counters.get(&interface).cloned().unwrap_or_default())
    }

    fn drop_events(&self, max: usize) -> Result<Vec<DropEvent>, KernelError> {
        let mut state = self.enter(Call::Read)?;
        let taken = max.min(state.drop_events.len());
        Ok(state.drop_events.drain(..taken).collect())
    }
}
