//! Requests to nftables and its answers, as `linux/netfilter/nf_tables.h` has them.
//!
//! Pure. A change is a [`Batch`]: the kernel makes all of it or nothing, in one moment.

use egress_common::{Direction, Tally};

use super::expression::{Expression, decode_all, plain, plain_value};
use super::render::{Chain, Hook};
use super::wire::{Attributes, find, find_long, find_number, find_text, read};

/// Bytes of netlink's header and of netfilter's after it.
const HEADER_BYTES: usize = 16;
const FAMILY_HEADER_BYTES: usize = 4;

/// `NFNL_SUBSYS_NFTABLES`
const SUBSYSTEM: u16 = 10;
/// `NFPROTO_NETDEV`
const FAMILY: u8 = 5;
const FAMILY_ANY: u8 = 0;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const ERROR: u16 = 2;
const DONE: u16 = 3;

const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
/// In answers only.
const INTERRUPTED: u16 = 0x10;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const EINTR: i32 = 4;

const TABLE: u16 = 0;
const CHAIN: u16 = 3;
const RULE: u16 = 6;
const SET: u16 = 9;
const ELEMENT: u16 = 12;
const OBJECT: u16 = 18;
/// What is added to the number of a thing.
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;

/// A table whose chains are on no hook, though they are listed as if they were. (`NFT_TABLE_F_DORMANT`)
pub(super) const DORMANT: u32 = 0x1;
/// A table that belongs to the socket that made it: others may read it, not change it, and flushing the ruleset passes
/// it by. (`NFT_TABLE_F_OWNER`)
pub(super) const OWNED: u32 = 0x2;
/// Such a table stays when the socket is closed, and is then anybody's. (`NFT_TABLE_F_PERSIST`)
pub(super) const STAYS: u32 = 0x4;

const SET_IS_CONSTANT: u32 = 0x2;
/// Types of `nft`, for what it prints.
const TYPE_NF_PROTO: u32 = 2;
const TYPE_INET_SERVICE: u32 = 13;
const TYPE_INTERFACE: u32 = 20;
/// One type after another in a key.
const TYPE_BITS: u32 = 6;

const POLICY_DROP: u32 = 0;
/// Before all others.
const PRIORITY: u32 = i32::MIN.cast_unsigned();
/// `NFT_OBJECT_COUNTER`
const COUNTER: u32 = 1;
/// Elements of a set in one message, whose list has at most 65,535 bytes.
const ELEMENTS_PER_MESSAGE_MAX: usize = 512;
/// The kind of `nft`'s comments, in user data of anything.
const COMMENT: u8 = 0;
/// The kind of what `nft` notes of a set's keys, and what it notes.
const KEY_ORDER: u8 = 0;
const HOST_ORDER: u32 = 1;
const NETWORK_ORDER: u32 = 2;

/// The sets there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetKind {
    /// Of interfaces.
    Interfaces,
    /// Of ports; its elements do not change while a rule uses it.
    Ports,
    /// Of lengths and numbers of words.
    BareTcp,
}

/// One element of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) comment: Option<String>,
}

/// What the kernel has of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeldChain {
    pub(super) table: String,
    pub(super) name: String,
    pub(super) hook: Option<Hook>,
}

/// What the kernel has of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeldTable {
    pub(super) flags: u32,
    /// How many things it has.
    pub(super) things: u32,
    /// The port of the socket that it belongs to; 0 is nobody's.
    pub(super) owner: u32,
}

/// One message of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    /// The end of a list.
    Done,
    /// 0 is success; else what the system calls the error.
    Status(i32),
    /// Something.
    Item(&'a [u8]),
    /// Somebody changed what is being listed; the list is neither as it was nor as it is.
    Interrupted,
}

/// Messages of one change.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    table: String,
    bytes: Vec<u8>,
    last: usize,
    sequence: u32,
}

impl Batch {
    /// An empty change of a table.
    pub(super) fn new(table: &str, sequence: u32) -> Self {
        let mut bytes = Vec::new();
        put(&mut bytes, BATCH_BEGIN, REQUEST, FAMILY_ANY, sequence, &Attributes::new());
        Self { table: table.to_owned(), bytes, last: 0, sequence }
    }

    /// The bytes to send; the kernel acknowledges what was last added.
    pub(super) fn finish(mut self) -> Vec<u8> {
        acknowledge(self.bytes.get_mut(self.last..).unwrap_or_default());
        put(&mut self.bytes, BATCH_END, REQUEST, FAMILY_ANY, self.sequence, &Attributes::new());
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.last == 0
    }

    pub(super) fn add_table(&mut self, flags: u32) {
        let attributes = Attributes::new().text(1, &self.table).number(2, flags);
        self.put(TABLE + NEW, CREATE, &attributes);
    }

    pub(super) fn delete_table(&mut self) {
        self.put(TABLE + DELETE, 0, &Attributes::new().text(1, &self.table));
    }

    pub(super) fn add_chain(&mut self, chain: &Chain) {
        let mut attributes = Attributes::new().text(1, &self.table).text(3, &chain.name);
        if let Some(hook) = &chain.hook {
            let place =
                Attributes::new().number(1, hook_number(hook.direction)).number(2, PRIORITY).text(3, &hook.device);
            attributes = attributes.nested(4, &place).number(5, POLICY_DROP).text(7, "filter");
            attributes = attributes.bytes(12, &user_data(&hook.comment));
        }
        self.put(CHAIN + NEW, CREATE, &attributes);
        for rule in &chain.rules {
            self.add_rule(&chain.name, rule);
        }
    }

    pub(super) fn delete_chain(&mut self, name: &str) {
        self.put(CHAIN + DELETE, 0, &Attributes::new().text(1, &self.table).text(3, name));
    }

    pub(super) fn add_counter(&mut self, name: &str) {
        let zero = Tally::default();
        let data = Attributes::new().long(1, zero.bytes).long(2, zero.packets);
        let attributes = Attributes::new().text(1, &self.table).text(2, name).number(3, COUNTER).nested(4, &data);
        self.put(OBJECT + NEW, CREATE, &attributes);
    }

    pub(super) fn delete_counter(&mut self, name: &str) {
        self.put(OBJECT + DELETE, 0, &Attributes::new().text(1, &self.table).text(2, name).number(3, COUNTER));
    }

    pub(super) fn add_set(&mut self, name: &str, kind: SetKind) {
        let (flags, key_type, key_bytes, order) = match kind {
            SetKind::Interfaces => (0, TYPE_INTERFACE, 4, HOST_ORDER),
            SetKind::Ports => (SET_IS_CONSTANT, TYPE_INET_SERVICE, 2, NETWORK_ORDER),
            // It has no name for these, and cannot print what it knows no length of; two bytes and one are right.
            SetKind::BareTcp => (SET_IS_CONSTANT, (TYPE_INET_SERVICE << TYPE_BITS) | TYPE_NF_PROTO, 8, NETWORK_ORDER),
        };
        // A set may be named by a number within a batch; the number is asked for even where the name does.
        let set = Attributes::new().text(1, &self.table).text(2, name).number(3, flags);
        let set = set.number(4, key_type).number(5, key_bytes).number(10, kind as u32 + 1);
        // For `nft`, which cannot know how the kernel keeps keys.
        let [a, b, c, d] = order.to_ne_bytes();
        self.put(SET + NEW, CREATE, &set.bytes(13, &[KEY_ORDER, 4, a, b, c, d]));
    }

    pub(super) fn delete_set(&mut self, name: &str) {
        self.put(SET + DELETE, 0, &Attributes::new().text(1, &self.table).text(2, name));
    }

    pub(super) fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.put_elements(ELEMENT + NEW, CREATE, set, elements);
    }

    pub(super) fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.put_elements(ELEMENT + DELETE, 0, set, elements);
    }

    fn put_elements(&mut self, what: u16, flags: u16, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_PER_MESSAGE_MAX) {
            self.put(what, flags, &element_list(&self.table, set, some));
        }
    }

    fn add_rule(&mut self, chain: &str, rule: &[Expression]) {
        let steps = rule.iter().fold(Attributes::new(), |steps, step| steps.nested(1, &step.encode()));
        let attributes = Attributes::new().text(1, &self.table).text(2, chain).nested(4, &steps);
        self.put(RULE + NEW, CREATE | APPEND, &attributes);
    }

    fn put(&mut self, what: u16, flags: u16, attributes: &Attributes) {
        self.last = self.bytes.len();
        let kind = (SUBSYSTEM << 8) | what;
        put(&mut self.bytes, kind, REQUEST | flags, FAMILY, self.sequence, attributes);
    }
}

pub(super) fn get_table(table: &str, sequence: u32) -> Vec<u8> {
    ask(TABLE, 0, sequence, &Attributes::new().text(1, table))
}

pub(super) fn get_chain(table: &str, chain: &str, sequence: u32) -> Vec<u8> {
    ask(CHAIN, 0, sequence, &Attributes::new().text(1, table).text(3, chain))
}

/// Of all tables: the kernel knows no filter here.
pub(super) fn list_chains(sequence: u32) -> Vec<u8> {
    ask(CHAIN, DUMP, sequence, &Attributes::new())
}

pub(super) fn list_rules(table: &str, chain: &str, sequence: u32) -> Vec<u8> {
    ask(RULE, DUMP, sequence, &Attributes::new().text(1, table).text(2, chain))
}

pub(super) fn get_set(table: &str, set: &str, sequence: u32) -> Vec<u8> {
    ask(SET, 0, sequence, &Attributes::new().text(1, table).text(2, set))
}

pub(super) fn get_element(table: &str, set: &str, key: &[u8], sequence: u32) -> Vec<u8> {
    let element = Element { key: key.to_vec(), comment: None };
    ask(ELEMENT, 0, sequence, &element_list(table, set, &[element]))
}

pub(super) fn list_elements(table: &str, set: &str, sequence: u32) -> Vec<u8> {
    ask(ELEMENT, DUMP, sequence, &Attributes::new().text(1, table).text(2, set))
}

pub(super) fn get_counter(table: &str, name: &str, sequence: u32) -> Vec<u8> {
    ask(OBJECT, 0, sequence, &Attributes::new().text(1, table).text(2, name).number(3, COUNTER))
}

/// Asks that the answer end with a status; the end of a list is one of its own.
pub(super) fn acknowledge(request: &mut [u8]) {
    if let Some(flags) = request.get_mut(6..).and_then(|rest| rest.first_chunk_mut()) {
        *flags = (u16::from_ne_bytes(*flags) | ACKNOWLEDGE).to_ne_bytes();
    }
}

/// Splits what was received into the messages that answer this request.
pub(super) fn answers(mut received: &[u8], sequence: u32) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        loop {
            let length = usize::try_from(u32::from_ne_bytes(*received.first_chunk()?)).ok()?;
            let message = received.get(..length)?;
            let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
            let flags = u16::from_ne_bytes(*message.get(6..)?.first_chunk()?);
            let found = u32::from_ne_bytes(*message.get(8..)?.first_chunk()?);
            let body = message.get(HEADER_BYTES..)?;
            received = received.get(length.next_multiple_of(4)..).unwrap_or_default();
            if found != sequence {
                continue;
            }
            return Some(match kind {
                DONE if flags & INTERRUPTED != 0 => Answer::Status(EINTR),
                _ if flags & INTERRUPTED != 0 => Answer::Interrupted,
                // A list that broke off ends with what the system calls the error, too.
                DONE => match body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes)) {
                    error @ ..0 => Answer::Status(error.saturating_neg()),
                    0.. => Answer::Done,
                },
                ERROR => Answer::Status(i32::from_ne_bytes(*body.first_chunk()?).saturating_neg()),
                _ => Answer::Item(body.get(FAMILY_HEADER_BYTES..)?),
            });
        }
    })
}

pub(super) fn read_table(item: &[u8]) -> HeldTable {
    let number = |attribute| find_number(item, attribute).unwrap_or(0);
    HeldTable { flags: number(2), things: number(3), owner: number(7) }
}

pub(super) fn read_chain(item: &[u8]) -> Option<HeldChain> {
    let drops = find_number(item, 5) == Some(POLICY_DROP);
    let place = find(item, 4).filter(|place| drops && find_number(place, 2) == Some(PRIORITY));
    let hook = place.and_then(|place| {
        let number = find_number(place, 1)?;
        let direction =
            [Direction::FromBottle, Direction::ToBottle].into_iter().find(|way| hook_number(*way) == number)?;
        let comment = find(item, 12).and_then(comment).unwrap_or_default();
        Some(Hook { direction, device: find_text(place, 3)?.to_owned(), comment })
    });
    Some(HeldChain { table: find_text(item, 1)?.to_owned(), name: find_text(item, 3)?.to_owned(), hook })
}

pub(super) fn read_rule(item: &[u8]) -> Vec<Expression> {
    find(item, 4).map(decode_all).unwrap_or_default()
}

pub(super) fn read_elements(item: &[u8]) -> Vec<Element> {
    let list = find(item, 3).unwrap_or_default();
    let element = |(_, element)| {
        let key = plain_value(find(element, 1)?)?.to_vec();
        Some(Element { key, comment: find(element, 6).and_then(comment) })
    };
    read(list).filter_map(element).collect()
}

pub(super) fn read_counter(item: &[u8]) -> Option<Tally> {
    let data = find(item, 4)?;
    Some(Tally { bytes: find_long(data, 1)?, packets: find_long(data, 2)? })
}

fn hook_number(direction: Direction) -> u32 {
    match direction {
        Direction::FromBottle => 0,
        Direction::ToBottle => 1,
    }
}

fn element_list(table: &str, set: &str, elements: &[Element]) -> Attributes {
    let list = elements.iter().fold(Attributes::new(), |list, element| {
        let mut attributes = Attributes::new().nested(1, &plain(&element.key));
        if let Some(comment) = &element.comment {
            attributes = attributes.bytes(6, &user_data(comment));
        }
        list.nested(1, &attributes)
    });
    Attributes::new().text(1, table).text(2, set).nested(3, &list)
}

/// As `nft` keeps a comment: kind, length with the zero at the end, text.
fn user_data(comment: &str) -> Vec<u8> {
    let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    [COMMENT, length].into_iter().chain(comment.bytes()).chain([0]).collect()
}

fn comment(user_data: &[u8]) -> Option<String> {
    let [COMMENT, length, text @ ..] = user_data else { return None };
    let text = text.get(..usize::from(*length).checked_sub(1)?)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn ask(what: u16, flags: u16, sequence: u32, attributes: &Attributes) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, (SUBSYSTEM << 8) | (what + GET), REQUEST | flags, FAMILY, sequence, attributes);
    bytes
}

fn put(bytes: &mut Vec<u8>, kind: u16, flags: u16, family: u8, sequence: u32, attributes: &Attributes) {
    let attributes = attributes.as_bytes();
    let length = u32::try_from(HEADER_BYTES + FAMILY_HEADER_BYTES + attributes.len()).unwrap_or(u32::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // The kernel fills in the port of the sender.
    bytes.extend(0_u32.to_ne_bytes());
    // Of a batch's ends this is the subsystem they are for, of all others nothing.
    let resource = if family == FAMILY_ANY { SUBSYSTEM } else { 0 };
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_read_as_it_is_written() {
        let hook = Hook { direction: Direction::ToBottle, device: "gate0".to_owned(), comment: "tcp=80".to_owned() };
        let chain = Chain { name: "to-bottle-7".to_owned(), hook: Some(hook.clone()), rules: vec![] };
        let mut batch = Batch::new("egress", 5);
        assert!(batch.is_empty());
        batch.add_chain(&chain);
        assert!(!batch.is_empty());
        let bytes = batch.finish();
        let items: Vec<_> = answers(&bytes, 5).collect();
        let [_, Answer::Item(item), _] = items[..] else { panic!("{items:?}") };
        let expected = HeldChain { table: "egress".to_owned(), name: chain.name, hook: Some(hook) };
        assert_eq!(read_chain(item), Some(expected));
    }

    #[test]
    fn elements_are_read_as_they_are_written() {
        let element =
            |key: u8, comment: Option<&str>| Element { key: vec![key; 4], comment: comment.map(str::to_owned) };
        let elements: Vec<_> = (0..200).map(|key| element(key, (key % 2 == 0).then_some("operator"))).collect();
        let list = element_list("egress", "cut", &elements);
        assert_eq!(read_elements(list.as_bytes()), elements);
        assert_eq!(comment(&[0, 200, b'x', 0]), None, "longer than it is");
        assert_eq!(comment(&[0, 0]), None, "shorter than nothing");
    }

    #[test]
    fn a_list_that_broke_off_is_not_whole() {
        let mut bytes = Vec::new();
        put(&mut bytes, DONE, 0, FAMILY, 5, &Attributes::new());
        for (status, expected) in [(0_i32, Answer::Done), (-12, Answer::Status(12))] {
            bytes[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&status.to_ne_bytes());
            assert_eq!(answers(&bytes, 5).collect::<Vec<_>>(), [expected]);
        }
    }

    #[test]
    fn only_what_answers_the_request_is_an_answer() {
        let mut bytes = Vec::new();
        put(&mut bytes, ERROR, 0, FAMILY, 4, &Attributes::new());
        put(&mut bytes, DONE, 0, FAMILY, 5, &Attributes::new());
        assert_eq!(answers(&bytes, 5).collect::<Vec<_>>(), [Answer::Done]);
        for length in 0..bytes.len() {
            assert!(answers(&bytes[..length], 4).count() <= 1);
        }
    }
}
