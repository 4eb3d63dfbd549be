//! Asks the kernel, over netlink, which classic filter sits on an interface. (aya attaches such filters but cannot list them.)

use std::io;

use aya::programs::TcAttachType;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::super::IfIndex;

/// The parents of clsact's two filter chains (`TC_H_CLSACT` with `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS`).
const PARENT_INGRESS: u32 = 0xffff_fff2;
const PARENT_EGRESS: u32 = 0xffff_fff3;

/// `NLMSG_ERROR`, `NLMSG_DONE` and `RTM_NEWTFILTER`
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_FILTER: u16 = 44;

/// The bytes of netlink's header, and where a filter's handle and what says its priority are after it.
const HEADER_BYTES: usize = 16;
const HANDLE_AT: usize = HEADER_BYTES + 8;
const INFO_AT: usize = HEADER_BYTES + 16;

/// How a filter is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) priority: u16,
    pub(super) handle: u32,
}

/// What there is of a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The id of the program that it runs.
    pub(super) program: Option<u32>,
    /// Another one comes first.
    pub(super) is_behind: bool,
}

/// Looks for this filter.
pub(super) fn find(interface: IfIndex, hook: TcAttachType, known: Known) -> io::Result<Found> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(interface, hook)?, 0)?;
    let mut found = Found::default();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        if read(&answer, known, &mut found)? {
            return Ok(found);
        }
    }
}

fn program_of(attribute: &TcAttribute) -> Option<u32> {
    let TcAttribute::Options(options) = attribute else { return None };
    options.iter().find_map(
        |option| {
            if let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option { Some(*id) } else { None }
        },
    )
}

fn request(interface: IfIndex, hook: TcAttachType) -> io::Result<Vec<u8>> {
    let mut message = TcMessage::with_index(i32::try_from(interface.0).map_err(io::Error::other)?);
    message.header.parent = TcHandle::from(match hook {
        TcAttachType::Ingress => PARENT_INGRESS,
        TcAttachType::Egress => PARENT_EGRESS,
        TcAttachType::Custom(parent) => parent,
    });
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetTrafficFilter(message)));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    Ok(bytes)
}

/// Reads the messages of one datagram; true at the end of the dump. Of others' filters, of whatever kind, only so much as tells
/// that they are others'.
fn read(mut datagram: &[u8], known: Known, found: &mut Found) -> io::Result<bool> {
    while !datagram.is_empty() {
        let length = usize::try_from(number(datagram, 0)?).map_err(io::Error::other)?;
        let message = datagram.get(..length.max(HEADER_BYTES)).ok_or(io::ErrorKind::InvalidData)?;
        datagram = datagram.get(message.len().next_multiple_of(4)..).unwrap_or_default();
        match kind(message)? {
            ERROR | DONE => {
                // The error number, negative.
                let status = number(message, HEADER_BYTES)?.cast_signed();
                return if status == 0 { Ok(true) } else { Err(io::Error::from_raw_os_error(status.saturating_neg())) };
            }
            NEW_FILTER if found.program.is_none() => {
                let (handle, priority) = (number(message, HANDLE_AT)?, number(message, INFO_AT)? >> 16);
                if handle == known.handle && priority == u32::from(known.priority) {
                    found.program = program(message)?;
                } else if handle != 0 {
                    // Without a handle it is no filter but the head of a list.
                    found.is_behind = true;
                }
            }
            _ => {}
        }
    }
    Ok(false)
}

fn program(message: &[u8]) -> io::Result<Option<u32>> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).map_err(io::Error::other)?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewTrafficFilter(filter)) = message.payload else {
        return Ok(None);
    };
    Ok(filter.attributes.iter().find_map(program_of))
}

fn kind(message: &[u8]) -> io::Result<u16> {
    let bytes = message.get(4..).and_then(<[u8]>::first_chunk).ok_or(io::ErrorKind::InvalidData)?;
    Ok(u16::from_ne_bytes(*bytes))
}

fn number(message: &[u8], at: usize) -> io::Result<u32> {
    let bytes = message.get(at..).and_then(<[u8]>::first_chunk).ok_or(io::ErrorKind::InvalidData)?;
    Ok(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Known = Known { priority: 1, handle: 0xe9e5 };

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    /// With an attribute that is longer than the message.
    fn filter(priority: u32, handle: u32) -> Vec<u8> {
        let words = [0, 7, handle, PARENT_INGRESS, priority << 16, u32::MAX];
        message(NEW_FILTER, &words.map(u32::to_ne_bytes).concat())
    }

    fn check(datagram: &[Vec<u8>], expected: Option<(bool, Found)>) {
        let mut found = Found::default();
        let is_over = read(&datagram.concat(), OURS, &mut found).ok();
        assert_eq!(is_over.map(|is_over| (is_over, found)), expected);
    }

    #[test]
    fn of_others_only_their_place_is_read() {
        let behind = Found { is_behind: true, ..Found::default() };
        check(&[filter(1, 0)], Some((false, Found::default())));
        check(&[filter(1, 7)], Some((false, behind)));
        check(&[filter(9, 7), message(DONE, &[0; 4])], Some((true, behind)));
        check(&[filter(1, OURS.handle)], None);
        check(&[message(DONE, &(-12_i32).to_ne_bytes())], None);
        check(&[message(ERROR, &(-19_i32).to_ne_bytes())], None);
        check(&[message(NEW_FILTER, &[0; 4])], None);
    }
}
