//! Puts a program on an interface's tc hook, finds it there again, and takes it away.
//!
//! Two ways, because tcx came with Linux 6.6: a pinned tcx link, or a filter of the classic clsact qdisc that lives as
//! long as the interface. Either way the gate comes first: a program before it could let a packet pass it by.

use std::fs;
use std::io;
use std::mem::ManuallyDrop;

use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{
    self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle,
};
use aya::programs::{Link, ProgramError, ProgramInfo, SchedClassifier, TcAttachType, loaded_programs};
use nix::errno::Errno;
use nix::net::if_::if_indextoname;

use super::super::IfIndex;
use super::filter::{self, Known};
use super::pins::Pins;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How gates are put on their interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcAttachment {
    /// tcx where the kernel has it, else clsact.
    #[default]
    Auto,
    /// Pinned links (Linux 6.6 and later).
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

/// Where our filter is found again: before others, under a handle nobody else picks.
const FILTER_PRIORITY: u16 = 1;
const FILTER_HANDLE: u32 = 0xe9e5;
/// Where another one is for as long as ours is put before others.
const BESIDE_HANDLE: u32 = FILTER_HANDLE + 1;
const OURS: Known = Known { priority: FILTER_PRIORITY, handle: FILTER_HANDLE };

/// The two hooks a gate sits on, with the program for each.
pub(super) const HOOKS: [(TcAttachType, &str); 2] =
    [(TcAttachType::Ingress, "from_bottle"), (TcAttachType::Egress, "to_bottle")];

/// One hook of one interface that exists.
pub(super) struct Place<'a> {
    pub(super) interface: IfIndex,
    pub(super) name: &'a str,
    pub(super) hook: TcAttachType,
}

/// What a program of ours looks like from outside: its name, and that it reads our map.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    pub(super) program: &'a str,
    pub(super) gates_map: u32,
}

impl TcAttachment {
    /// One hook, as people call it.
    pub(super) fn describe(self, hook: TcAttachType) -> String {
        let way = match self {
            Self::Auto | Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        };
        let direction = match hook {
            TcAttachType::Ingress => "ingress",
            TcAttachType::Egress => "egress",
            TcAttachType::Custom(_) => "custom",
        };
        format!("{way} {direction}")
    }

    /// What this kernel can have.
    pub(super) fn possible() -> impl Iterator<Item = Self> {
        kernel_has_tcx().then_some(Self::Tcx).into_iter().chain([Self::Clsact])
    }

    /// Settles `Auto`.
    pub(super) fn settle(self) -> Self {
        match self {
            Self::Auto if kernel_has_tcx() => Self::Tcx,
            Self::Auto => Self::Clsact,
            Self::Tcx | Self::Clsact => self,
        }
    }
}

/// The name of an interface; `None` when it is gone.
pub(super) fn interface_name(interface: IfIndex) -> Result<Option<String>, BoxError> {
    match if_indextoname(interface.0) {
        // nix takes the null pointer of a failed call for a name.
        Ok(name) if name.is_empty() => Ok(None),
        Ok(name) => Ok(Some(name.into_string()?)),
        Err(Errno::ENXIO | Errno::ENODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An interface may go while it is asked about; then there is nothing on it.
pub(super) fn unless_gone<T: Default>(interface: IfIndex, result: Result<T, BoxError>) -> Result<T, BoxError> {
    match result {
        Err(_) if interface_name(interface)?.is_none() => Ok(T::default()),
        result => result,
    }
}

/// Puts the program on the hook. One of ours that is there is replaced in place: there is no moment without.
pub(super) fn attach(
    way: TcAttachment,
    place: &Place<'_>,
    program: &mut SchedClassifier,
    pins: &Pins,
) -> Result<(), BoxError> {
    match way {
        TcAttachment::Auto | TcAttachment::Tcx => attach_tcx(place, program, pins),
        TcAttachment::Clsact => attach_clsact(place, program),
    }
}

/// A program of ours on a hook.
pub(super) struct Attached {
    pub(super) program: ProgramInfo,
    /// No other's sees a packet before, and lets it pass.
    pub(super) is_first: bool,
}

/// Does the kernel refuse the program here, because it is on the hook but not where it must be? A copy it takes.
pub(super) fn needs_copy(
    way: TcAttachment,
    place: &Place<'_>,
    program: &SchedClassifier,
    pins: &Pins,
) -> Result<bool, BoxError> {
    if way == TcAttachment::Clsact {
        return Ok(false);
    }
    let (program, (_, attached)) = (program.info()?.id(), SchedClassifier::query_tcx(place.name, place.hook)?);
    Ok(attached.iter().any(|attached| attached.id() == program) && first_link(place, pins)?.is_none())
}

/// Our program, if it is on the hook.
pub(super) fn attached(way: TcAttachment, place: &Place<'_>, ours: Identity<'_>) -> Result<Option<Attached>, BoxError> {
    let found: Vec<Attached> = match way {
        TcAttachment::Auto | TcAttachment::Tcx => {
            let programs = SchedClassifier::query_tcx(place.name, place.hook)?.1.into_iter().enumerate();
            programs.map(|(before, program)| Attached { program, is_first: before == 0 }).collect()
        }
        TcAttachment::Clsact => filter_program(place)?.into_iter().collect(),
    };
    for attached in found {
        if attached.program.name_as_str() == Some(ours.program)
            && attached.program.map_ids()?.is_some_and(|maps| maps.contains(&ours.gates_map))
        {
            return Ok(Some(attached));
        }
    }
    Ok(None)
}

/// Takes the filter off the hook. (A tcx link goes with its pin.)
pub(super) fn remove_filter(place: &Place<'_>) -> Result<(), BoxError> {
    if filter_program(place)?.is_some() {
        filter_link(place)?.detach()?;
    }
    Ok(())
}

fn kernel_has_tcx() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

fn attach_tcx(place: &Place<'_>, program: &mut SchedClassifier, pins: &Pins) -> Result<(), BoxError> {
    if let Some(link) = first_link(place, pins)? {
        let link = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
        // Dropped here, the link lives on in its pin.
        program.take_link(link)?;
        return Ok(());
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let link = program.attach_with_options(place.name, place.hook, order)?;
    // A link that is there was left by an interface that had this number before, or others have come before it. It goes when
    // the new one is in its place.
    let beside = pins.next_link(place.interface, place.hook);
    pins.remove(&beside)?;
    FdLink::try_from(program.take_link(link)?)?.pin(&beside)?;
    Ok(fs::rename(beside, pins.link(place.interface, place.hook))?)
}

/// Our pinned link, if it is on the hook before all others.
fn first_link(place: &Place<'_>, pins: &Pins) -> Result<Option<FdLink>, BoxError> {
    let Some(link) = pinned_link(&pins.link(place.interface, place.hook))? else { return Ok(None) };
    let program = link.info()?.program_id();
    let (_, attached) = SchedClassifier::query_tcx(place.name, place.hook)?;
    Ok(attached.first().is_some_and(|first| first.id() == program).then_some(link))
}

fn pinned_link(pin: &std::path::Path) -> Result<Option<FdLink>, BoxError> {
    match PinnedLink::from_pin(pin) {
        Ok(link) => Ok(Some(link.into())),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn attach_clsact(place: &Place<'_>, program: &mut SchedClassifier) -> Result<(), BoxError> {
    match tc::qdisc_add_clsact(place.name) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {}
        other => other?,
    }
    let link = match filter_program(place)? {
        Some(Attached { is_first: true, .. }) => program.attach_to_link(filter_link(place)?)?,
        // A later filter of a priority comes before earlier ones.
        Some(Attached { is_first: false, .. }) => {
            let beside = add_filter(place, program, BESIDE_HANDLE)?;
            filter_link(place)?.detach()?;
            let link = add_filter(place, program, FILTER_HANDLE)?;
            program.detach(beside)?;
            link
        }
        None => add_filter(place, program, FILTER_HANDLE)?,
    };
    Ok(leave(program, link)?)
}

fn add_filter(
    place: &Place<'_>,
    program: &mut SchedClassifier,
    handle: u32,
) -> Result<SchedClassifierLinkId, ProgramError> {
    let options = NlOptions { priority: FILTER_PRIORITY, handle: TcHandle::from(handle), ..NlOptions::default() };
    program.attach_with_options(place.name, place.hook, TcAttachOptions::Netlink(options))
}

/// A classic link detaches when it is dropped; the filter is to stay.
fn leave(program: &mut SchedClassifier, link: SchedClassifierLinkId) -> Result<(), ProgramError> {
    let _stays = ManuallyDrop::new(program.take_link(link)?);
    Ok(())
}

fn filter_link(place: &Place<'_>) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(place.name, place.hook, FILTER_PRIORITY, TcHandle::from(FILTER_HANDLE), None)
}

fn filter_program(place: &Place<'_>) -> Result<Option<Attached>, BoxError> {
    let found = filter::find(place.interface, place.hook, OURS)?;
    let Some(id) = found.program else { return Ok(None) };
    for program in loaded_programs() {
        let program = program?;
        if program.id() == id {
            return Ok(Some(Attached { program, is_first: !found.is_behind }));
        }
    }
    Ok(None)
}
