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

/// The id of the program that the filter with this priority and handle runs.
pub(super) fn program_id(
    interface: IfIndex,
    hook: TcAttachType,
    priority: u16,
    handle: u32,
) -> io::Result<Option<u32>> {
    let filters = dump(interface, hook)?;
    let ours = filters
        .iter()
        .find(|filter| u32::from(filter.header.handle) == handle && filter.header.info >> 16 == u32::from(priority));
    Ok(ours.and_then(|filter| filter.attributes.iter().find_map(program_of)))
}

fn program_of(attribute: &TcAttribute) -> Option<u32> {
    let TcAttribute::Options(options) = attribute else { return None };
    options.iter().find_map(
        |option| {
            if let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option { Some(*id) } else { None }
        },
    )
}

fn dump(interface: IfIndex, hook: TcAttachType) -> io::Result<Vec<TcMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(interface, hook)?, 0)?;
    let mut filters = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        if read(&answer, &mut filters)? {
            return Ok(filters);
        }
    }
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

/// Reads the messages of one datagram; true at the end of the dump.
fn read(mut datagram: &[u8], filters: &mut Vec<TcMessage>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram).map_err(io::Error::other)?;
        let length = usize::try_from(message.header.length).map_err(io::Error::other)?.next_multiple_of(4);
        if let NetlinkPayload::Done(_) = message.payload {
            return Ok(true);
        } else if let NetlinkPayload::Error(error) = message.payload {
            return Err(error.to_io());
        } else if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewTrafficFilter(filter)) = message.payload {
            filters.push(filter);
        }
        datagram = datagram.get(length.max(1)..).unwrap_or_default();
    }
    Ok(false)
}
