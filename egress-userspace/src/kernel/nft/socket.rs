//! Speaks to nftables and to the kernel's list of interfaces, in the network namespace it was opened in, whatever thread
//! asks.

use std::io;

use egress_common::Tally;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use super::super::IfIndex;
use super::expression::Expression;
use super::message::{self, Answer, Batch, Element, HeldChain, HeldTable, OWNED};

/// Room for the largest change: all gates there can be, cut at once.
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// A list that somebody changes meanwhile is asked for again, so often.
const LIST_ATTEMPTS_MAX: usize = 16;

/// A socket to nftables, for one table.
pub(super) struct Table {
    name: String,
    socket: Socket,
    address: SocketAddr,
    sequence: u32,
}

/// What is known of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    /// Text that goes with the interface and that anybody may set.
    pub(super) alias: String,
}

/// A socket to the list of interfaces.
pub(super) struct Interfaces {
    socket: Socket,
    sequence: u32,
}

impl Table {
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER_BYTES)?;
        socket.set_cap_ack(true)?;
        let address = socket.bind_auto()?;
        Ok(Self { name: name.to_owned(), socket, address, sequence: 0 })
    }

    /// Makes a change: all of it or nothing.
    pub(super) fn change(&mut self, write: impl FnOnce(&mut Batch)) -> io::Result<()> {
        let sequence = self.next();
        let mut batch = Batch::new(&self.name, sequence);
        write(&mut batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.ask(&batch.finish(), sequence).map(drop)
    }

    /// Does the table belong to another socket?
    pub(super) fn is_anothers(&mut self) -> io::Result<bool> {
        let own = self.address.port_number();
        Ok(self.table()?.is_some_and(|table| table.flags & OWNED != 0 && table.owner != own))
    }

    pub(super) fn table(&mut self) -> io::Result<Option<HeldTable>> {
        self.get(message::get_table, |item| Some(message::read_table(item)))
    }

    pub(super) fn chain(&mut self, name: &str) -> io::Result<Option<HeldChain>> {
        self.get(|table, sequence| message::get_chain(table, name, sequence), message::read_chain)
    }

    pub(super) fn has_set(&mut self, name: &str) -> io::Result<bool> {
        let found = self.get(|table, sequence| message::get_set(table, name, sequence), |_| Some(()))?;
        Ok(found.is_some())
    }

    pub(super) fn counter(&mut self, name: &str) -> io::Result<Option<Tally>> {
        self.get(|table, sequence| message::get_counter(table, name, sequence), message::read_counter)
    }

    pub(super) fn element(&mut self, set: &str, key: &[u8]) -> io::Result<Option<Element>> {
        let first = |item: &[u8]| message::read_elements(item).into_iter().next();
        self.get(|table, sequence| message::get_element(table, set, key, sequence), first)
    }

    /// All chains of the table.
    pub(super) fn chains(&mut self) -> io::Result<Vec<HeldChain>> {
        let mut chains = Vec::new();
        self.list(|_, sequence| message::list_chains(sequence), |item| chains.extend(message::read_chain(item)))?;
        chains.retain(|chain| chain.table == self.name);
        Ok(chains)
    }

    pub(super) fn rules(&mut self, chain: &str) -> io::Result<Vec<Vec<Expression>>> {
        let mut rules = Vec::new();
        let request = |table: &str, sequence| message::list_rules(table, chain, sequence);
        self.list(request, |item| rules.push(message::read_rule(item)))?;
        Ok(rules)
    }

    pub(super) fn elements(&mut self, set: &str) -> io::Result<Vec<Element>> {
        let mut elements = Vec::new();
        let request = |table: &str, sequence| message::list_elements(table, set, sequence);
        self.list(request, |item| elements.extend(message::read_elements(item)))?;
        Ok(elements)
    }

    /// `None` when there is no such thing.
    fn get<T>(
        &mut self,
        request: impl Fn(&str, u32) -> Vec<u8>,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let mut found = None;
        self.list(request, |item| found = read(item))?;
        Ok(found)
    }

    /// What is not there has nothing in it.
    fn list(&mut self, request: impl Fn(&str, u32) -> Vec<u8>, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut answer = Err(io::ErrorKind::Interrupted.into());
        for _ in 0..LIST_ATTEMPTS_MAX {
            let sequence = self.next();
            let mut bytes = request(&self.name, sequence);
            // Without a status nothing would tell where an answer ends that is no list.
            message::acknowledge(&mut bytes);
            answer = self.ask(&bytes, sequence);
            if !matches!(&answer, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
                break;
            }
        }
        match answer {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
            other => {
                other?.iter().for_each(|item| each(item));
                Ok(())
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn ask(&self, request: &[u8], sequence: u32) -> io::Result<Vec<Vec<u8>>> {
        self.socket.send(request, 0)?;
        let (mut items, mut is_whole) = (Vec::new(), true);
        loop {
            let (received, _) = self.socket.recv_from_full()?;
            for answer in message::answers(&received, sequence) {
                match answer {
                    Answer::Done | Answer::Status(0) if is_whole => return Ok(items),
                    Answer::Done | Answer::Status(0) => return Err(io::ErrorKind::Interrupted.into()),
                    Answer::Status(error) => return Err(io::Error::from_raw_os_error(error)),
                    Answer::Item(item) => items.push(item.to_vec()),
                    Answer::Interrupted => is_whole = false,
                }
            }
        }
    }
}

impl Interfaces {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        Ok(Self { socket, sequence: 0 })
    }

    /// `None` when it is gone.
    pub(super) fn find(&mut self, interface: IfIndex) -> io::Result<Option<Interface>> {
        let answer = self.ask(RouteNetlinkMessage::GetLink(link(interface)), NLM_F_REQUEST);
        let link = match answer {
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => return Ok(None),
            other => other?.filter(|link| link.header.index == interface.0).ok_or(io::ErrorKind::InvalidData)?,
        };
        let mut found = Interface { name: String::new(), alias: String::new() };
        for attribute in link.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                found.name = name;
            } else if let LinkAttribute::IfAlias(alias) = attribute {
                found.alias = alias;
            }
        }
        Ok(Some(found))
    }

    pub(super) fn set_alias(&mut self, interface: IfIndex, alias: &str) -> io::Result<()> {
        let mut message = link(interface);
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        self.ask(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK)?;
        Ok(())
    }

    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Option<LinkMessage>> {
        self.send(message, flags)?;
        loop {
            let (received, _) = self.socket.recv_from_full()?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&received).map_err(io::Error::other)?;
            // One that nobody took says nothing of what is asked.
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            if let NetlinkPayload::Error(error) = answer.payload {
                return if error.code.is_none() { Ok(None) } else { Err(error.to_io()) };
            } else if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = answer.payload {
                return Ok(Some(link));
            }
            return Err(io::ErrorKind::InvalidData.into());
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        (header.flags, header.sequence_number) = (flags, self.sequence);
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }
}

fn link(interface: IfIndex) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = interface.0;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In every namespace.
    const LOOPBACK: IfIndex = IfIndex(1);
    const NOBODYS: IfIndex = IfIndex(0x7fff_0000);

    #[test]
    fn an_answer_that_nobody_took_is_no_answer() {
        let mut interfaces = Interfaces::open().unwrap();
        interfaces.send(RouteNetlinkMessage::GetLink(link(LOOPBACK)), NLM_F_REQUEST).unwrap();
        assert_eq!(interfaces.find(NOBODYS).unwrap(), None);
        assert_eq!(interfaces.find(LOOPBACK).unwrap().unwrap().name, "lo");
    }
}
