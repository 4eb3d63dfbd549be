//! `egress audit --kernel`: gates as the kernel holds them, line by line beside the ledger.
#![expect(clippy::print_stdout, reason = "printing is what this file is for")]

use std::process::ExitCode;

use anyhow::Result;

use crate::control::{Client, GateCounter, GateProgram, GateTerms, KernelGate, KernelReply};
use crate::domain::BottleName;

use super::arguments::Output;
use super::audit::differing;
use super::{Exit, show};

pub(super) async fn audit(client: &Client, bottle: Option<&BottleName>, output: Output) -> Result<ExitCode> {
    let query = bottle.map(|bottle| format!("?bottle={bottle}")).unwrap_or_default();
    let reply: KernelReply = client.get(&format!("audit/kernel{query}")).await?;
    if output.json {
        show::json(&reply)?;
    } else {
        lines(&reply).iter().for_each(|line| println!("{line}"));
    }
    let is_sound = reply.differences.is_empty();
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::from(Exit::Failed as u8) })
}

fn lines(reply: &KernelReply) -> Vec<String> {
    let mut lines = vec![format!("gates by {} in {}", reply.enforcer, reply.pins)];
    for gate in &reply.gates {
        lines.push(String::new());
        lines.extend(gate_lines(gate));
    }
    lines.push(String::new());
    match reply.differences.as_slice() {
        [] => lines.push(format!("{} gates, each as the ledger wants it", reply.gates.len())),
        differences => lines.extend(differences.iter().map(differing)),
    }
    lines
}

fn gate_lines(gate: &KernelGate) -> Vec<String> {
    let name = gate.bottle.as_ref().map_or_else(|| "a bottle that nobody knows".to_owned(), ToString::to_string);
    let mut lines = vec![format!("{name}, interface {}", gate.interface)];
    for (who, terms) in [("ledger", &gate.ledger), ("kernel", &gate.kernel)] {
        let terms = terms.as_ref().map_or_else(|| "no gate".to_owned(), terms_text);
        lines.push(format!("  {who}  {terms}"));
    }
    lines.extend(gate.programs.iter().map(program_line));
    lines.extend(gate.counters.iter().map(counter_line));
    lines
}

/// Two gates that are the same read the same. Why one is cut is the ledger's to know: an operator's cut of one that a budget
/// had cut is not written to the kernel.
fn terms_text(terms: &GateTerms) -> String {
    let ports: Vec<String> = terms.tcp_ports.iter().map(ToString::to_string).collect();
    let state = terms.cut_reason.as_ref().map_or_else(|| "Open".to_owned(), |reason| format!("Cut ({reason})"));
    format!(
        "{} {} to {} tcp {} udp {}, when cut {}: {state}",
        terms.address,
        terms.mac,
        terms.gateway,
        ports.join(","),
        terms.dns_port,
        terms.cut_mode.as_str()
    )
}

fn program_line(program: &GateProgram) -> String {
    let GateProgram { hook, name, id, tag, average_ns } = program;
    let cost = average_ns.map(|average| format!(", {average} ns a packet")).unwrap_or_default();
    format!("  {hook:<13}  program {id} {name} tag {tag}{cost}")
}

fn counter_line(counter: &GateCounter) -> String {
    let GateCounter { direction, outcome, packets, bytes } = counter;
    format!("  {direction:<10}  {outcome:<11}  {packets:>10} packets  {bytes:>12} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{GateDifference, GateFault};
    use crate::domain::CutMode;

    #[test]
    fn ledger_and_kernel_stand_below_each_other() {
        let terms = GateTerms {
            is_cut: false,
            cut_reason: None,
            cut_mode: CutMode::Reset,
            address: [10, 213, 0, 2].into(),
            mac: "02:e9:0a:d5:00:02".to_owned(),
            gateway: [10, 213, 0, 1].into(),
            tcp_ports: vec![8080, 443],
            dns_port: 53,
        };
        let cut = GateTerms { is_cut: true, cut_reason: Some("Operator".to_owned()), ..terms.clone() };
        let program = GateProgram {
            hook: "tcx ingress".to_owned(),
            name: "from_bottle".to_owned(),
            id: 9,
            tag: "00ff".to_owned(),
            average_ns: Some(41),
        };
        let counter = GateCounter { direction: "FromBottle".into(), outcome: "Passed".into(), packets: 7, bytes: 900 };
        let gate = KernelGate {
            bottle: Some("web".parse().unwrap()),
            interface: 12,
            ledger: Some(cut),
            kernel: Some(terms),
            programs: vec![program],
            counters: vec![counter],
        };
        let fault = GateFault::Detached;
        let difference = GateDifference { bottle: gate.bottle.clone(), interface: 12, fault };
        let mut reply = KernelReply {
            enforcer: "ebpf".to_owned(),
            pins: "/sys/fs/bpf/egress".to_owned(),
            gates: vec![gate],
            differences: vec![difference],
        };
        assert_eq!(
            lines(&reply),
            [
                "gates by ebpf in /sys/fs/bpf/egress",
                "",
                "web, interface 12",
                "  ledger  10.213.0.2 02:e9:0a:d5:00:02 to 10.213.0.1 tcp 8080,443 udp 53, when cut reset: Cut (Operator)",
                "  kernel  10.213.0.2 02:e9:0a:d5:00:02 to 10.213.0.1 tcp 8080,443 udp 53, when cut reset: Open",
                "  tcx ingress    program 9 from_bottle tag 00ff, 41 ns a packet",
                "  FromBottle  Passed                7 packets           900 bytes",
                "",
                "web: its gate is not on its interface in both directions",
            ]
        );
        reply.differences.clear();
        assert_eq!(lines(&reply).pop().as_deref(), Some("1 gates, each as the ledger wants it"));
    }
}
