//! Which backend holds the gates, and which one held them before.

use std::path::Path;
use std::sync::Arc;

use super::{EbpfEnforcer, Enforcer, KernelError, NftEnforcer, TABLE_NAME, TcAttachment};
use crate::domain::EnforcerChoice;

/// A map that is pinned wherever eBPF gates have been.
const PINNED_MAP: &str = "gates";

/// The backend that was chosen.
pub struct Opened {
    /// Holds the gates.
    pub enforcer: Arc<dyn Enforcer>,
    /// The other backend, where it may still hold gates of an earlier controller.
    pub earlier: Option<Arc<dyn Enforcer>>,
    /// Where the gates are, for people.
    pub place: String,
    /// Why it is not eBPF, if that was tried.
    pub not_ebpf: Option<KernelError>,
}

/// Opens a backend. `pins` is where eBPF gates are pinned, and names the table of nftables.
///
/// # Errors
/// When it does not work here, or when gates of the other one cannot be read: bottles would have two gates that disagree.
pub fn open(choice: EnforcerChoice, pins: &Path, attachment: TcAttachment) -> Result<Opened, KernelError> {
    let ebpf = || EbpfEnforcer::new(pins, attachment);
    match choice {
        EnforcerChoice::Ebpf => with_ebpf(ebpf()?, pins),
        EnforcerChoice::Nftables => with_nftables(pins, attachment, None),
        EnforcerChoice::Auto => match ebpf() {
            Ok(ebpf) => with_ebpf(ebpf, pins),
            // This kernel, or this container, cannot. Gates that it holds and that cannot be read are another matter.
            Err(error @ (KernelError::Load { .. } | KernelError::Pins { .. })) => {
                with_nftables(pins, attachment, Some(error))
            }
            Err(error) => Err(error),
        },
    }
}

/// Opens a backend for gates that are thrown away: nobody else's are looked for.
///
/// # Errors
/// When it does not work here.
pub fn open_alone(
    choice: EnforcerChoice,
    pins: &Path,
    attachment: TcAttachment,
) -> Result<Box<dyn Enforcer>, KernelError> {
    let ebpf = || Ok(Box::new(EbpfEnforcer::new(pins, attachment)?) as Box<dyn Enforcer>);
    let nftables = || Ok(Box::new(NftEnforcer::new(&table_name(pins))?) as Box<dyn Enforcer>);
    match choice {
        EnforcerChoice::Ebpf => ebpf(),
        EnforcerChoice::Nftables => nftables(),
        EnforcerChoice::Auto => ebpf().or_else(|_: KernelError| nftables()),
    }
}

/// Removes the table of thrown-away gates, whatever is in it. Pins go with their directory.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_alone(pins: &Path) -> Result<(), KernelError> {
    // A kernel without nftables holds no table.
    NftEnforcer::new(&table_name(pins)).map_or(Ok(()), |nftables| nftables.remove_table())
}

fn with_ebpf(ebpf: EbpfEnforcer, pins: &Path) -> Result<Opened, KernelError> {
    // A kernel without nftables holds no gates of it.
    let nftables =
        NftEnforcer::new(&table_name(pins)).ok().filter(|found| !found.gates().is_ok_and(|gates| gates.is_empty()));
    let earlier = nftables.map(|nftables| Arc::new(nftables) as Arc<dyn Enforcer>);
    Ok(Opened { enforcer: Arc::new(ebpf), earlier, place: pins.display().to_string(), not_ebpf: None })
}

fn with_nftables(pins: &Path, attachment: TcAttachment, not_ebpf: Option<KernelError>) -> Result<Opened, KernelError> {
    let table = table_name(pins);
    let enforcer = Arc::new(NftEnforcer::new(&table)?);
    let earlier: Option<Arc<dyn Enforcer>> =
        if pins.join(PINNED_MAP).exists() { Some(Arc::new(EbpfEnforcer::new(pins, attachment)?)) } else { None };
    Ok(Opened { enforcer, earlier, place: format!("table netdev {table}"), not_ebpf })
}

/// The table that belongs to a pin directory: its name, as `nft` can read it.
fn table_name(pins: &Path) -> String {
    let name = pins.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let is_word = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let name: String = name.chars().map(|character| if is_word(character) { character } else { '-' }).collect();
    if name.starts_with(|first: char| first.is_ascii_alphabetic()) { name } else { format!("{TABLE_NAME}{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pins: &str, table: &str) {
        assert_eq!(table_name(Path::new(pins)), table);
    }

    #[test]
    fn a_pin_directory_names_a_table() {
        check("/sys/fs/bpf/egress", "egress");
        check("/sys/fs/bpf/egress-test-7", "egress-test-7");
        check("/sys/fs/bpf/7 up!", "egress7-up-");
        check("/", "egress");
    }
}
