//! The steps a rule of nftables is made of: as values, as the kernel's attributes, and as text.
//!
//! Pure. Reading what the kernel has gives equal values for equal rules, however the kernel orders its attributes, so that
//! what is wanted and what is held can be compared.

use std::fmt::{self, Display, Formatter};

use super::wire::{Attributes, find, find_long, find_number, find_text, read};

/// One step. Registers are numbered as the kernel reports them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// Bytes of the packet to a register; a packet without them does not match.
    Payload { base: Base, offset: u32, length: u32, register: u32 },
    /// What the kernel knows of the packet, to a register.
    Meta { key: MetaKey, register: u32 },
    /// Goes on if register and value compare so, byte by byte.
    Compare { register: u32, operation: Comparison, value: Vec<u8> },
    /// Keeps the bits of the mask.
    Mask { register: u32, mask: Vec<u8> },
    /// Brings a number of four bytes to the order of the network.
    ToNetworkOrder { register: u32 },
    /// Goes on if the set has an element that begins in this register.
    Lookup { set: String, register: u32 },
    /// Goes on at most so often a second.
    Limit { per_second: u64, burst: u32 },
    /// Counts the packet.
    Count { counter: String },
    /// Answers with a TCP reset and drops.
    RejectWithReset,
    /// What becomes of the packet.
    Verdict(Verdict),
    /// None of ours.
    Other(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetaKey {
    Length = 0,
    Input = 4,
    Output = 5,
    Protocol = 16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal = 0,
    NotEqual = 1,
    Less = 2,
    AtMost = 3,
    AtLeast = 5,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    GoTo(String),
}

const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// `NFT_GOTO`, which is -4.
const GO_TO: u32 = u32::MAX - 3;
/// The register of verdicts.
const VERDICT_REGISTER: u32 = 0;
/// `NFT_BYTEORDER_HTON`
const TO_NETWORK_ORDER: u32 = 1;
const NUMBER_BYTES: u32 = 4;
/// `NFT_OBJECT_COUNTER`
const COUNTER: u32 = 1;
/// `NFT_REJECT_TCP_RST`
const TCP_RESET: u32 = 1;
const SECOND: u64 = 1;
const PACKETS: u32 = 0;

/// The kernel's numbers of attributes, as in `linux/netfilter/nf_tables.h`.
mod kind {
    pub(super) const NAME: u16 = 1;
    pub(super) const DATA: u16 = 2;
    pub(super) const VALUE: u16 = 1;
    pub(super) const VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const VERDICT_CHAIN: u16 = 2;
}

impl Expression {
    /// Name and data, as an element of a rule's list.
    pub(super) fn encode(&self) -> Attributes {
        let (name, data) = match self {
            Self::Payload { base, offset, length, register } => {
                let base = *base as u32;
                (
                    "payload",
                    Attributes::new().number(1, *register).number(2, base).number(3, *offset).number(4, *length),
                )
            }
            Self::Meta { key, register } => ("meta", Attributes::new().number(1, *register).number(2, *key as u32)),
            Self::Compare { register, operation, value } => {
                let start = Attributes::new().number(1, *register).number(2, *operation as u32);
                ("cmp", start.nested(3, &plain(value)))
            }
            Self::Mask { register, mask } => ("bitwise", encode_mask(*register, mask)),
            Self::ToNetworkOrder { register } => {
                let ends = Attributes::new().number(1, *register).number(2, *register);
                ("byteorder", ends.number(3, TO_NETWORK_ORDER).number(4, NUMBER_BYTES).number(5, NUMBER_BYTES))
            }
            Self::Lookup { set, register } => ("lookup", Attributes::new().text(1, set).number(2, *register)),
            Self::Limit { per_second, burst } => {
                let rate = Attributes::new().long(1, *per_second).long(2, SECOND);
                ("limit", rate.number(3, *burst).number(4, PACKETS).number(5, 0))
            }
            Self::Count { counter } => ("objref", Attributes::new().number(1, COUNTER).text(2, counter)),
            Self::RejectWithReset => ("reject", Attributes::new().number(1, TCP_RESET)),
            Self::Verdict(verdict) => ("immediate", verdict.encode()),
            Self::Other(name) => (name.as_str(), Attributes::new()),
        };
        Attributes::new().text(kind::NAME, name).nested(kind::DATA, &data)
    }

    /// What the kernel says of a step; whatever it is, it is something.
    pub(super) fn decode(element: &[u8]) -> Self {
        let name = find_text(element, kind::NAME).unwrap_or_default();
        let data = find(element, kind::DATA).unwrap_or_default();
        Self::decode_known(name, data).unwrap_or_else(|| Self::Other(name.to_owned()))
    }

    fn decode_known(name: &str, data: &[u8]) -> Option<Self> {
        let number = |kind| find_number(data, kind);
        Some(match name {
            "payload" => Self::Payload {
                register: number(1)?,
                base: Base::decode(number(2)?)?,
                offset: number(3)?,
                length: number(4)?,
            },
            "meta" => Self::Meta { register: number(1)?, key: MetaKey::decode(number(2)?)? },
            "cmp" => Self::Compare {
                register: number(1)?,
                operation: Comparison::decode(number(2)?)?,
                value: find(find(data, 3)?, kind::VALUE)?.to_vec(),
            },
            "bitwise" => decode_mask(data)?,
            "byteorder" => {
                let same = number(1)? == number(2)?;
                let whole = number(3)? == TO_NETWORK_ORDER && number(4)? == NUMBER_BYTES && number(5)? == NUMBER_BYTES;
                (same && whole).then_some(Self::ToNetworkOrder { register: number(1)? })?
            }
            // A lookup with flags asks for the contrary.
            "lookup" => {
                let plain = number(5).unwrap_or(0) == 0 && number(3).is_none();
                plain.then_some(Self::Lookup { set: find_text(data, 1)?.to_owned(), register: number(2)? })?
            }
            "limit" => {
                let usual = find_long(data, 2)? == SECOND && number(4)? == PACKETS && number(5).unwrap_or(0) == 0;
                usual.then_some(Self::Limit { per_second: find_long(data, 1)?, burst: number(3)? })?
            }
            "objref" if number(1)? == COUNTER => Self::Count { counter: find_text(data, 2)?.to_owned() },
            "reject" if number(1)? == TCP_RESET => Self::RejectWithReset,
            "immediate" => Self::Verdict(Verdict::decode(data)?),
            _ => return None,
        })
    }
}

/// The steps of a rule.
pub(super) fn decode_all(list: &[u8]) -> Vec<Expression> {
    read(list).map(|(_, element)| Expression::decode(element)).collect()
}

/// As an element of a rule's or a set's list.
pub(super) fn plain(value: &[u8]) -> Attributes {
    Attributes::new().bytes(kind::VALUE, value)
}

/// The value of [`plain`].
pub(super) fn plain_value(list: &[u8]) -> Option<&[u8]> {
    find(list, kind::VALUE)
}

fn encode_mask(register: u32, mask: &[u8]) -> Attributes {
    let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    let ends = Attributes::new().number(1, register).number(2, register).number(3, length);
    ends.nested(4, &plain(mask)).nested(5, &plain(&vec![0; mask.len()]))
}

fn decode_mask(data: &[u8]) -> Option<Expression> {
    let register = find_number(data, 1)?;
    let mask = plain_value(find(data, 4)?)?.to_vec();
    let unchanged = plain_value(find(data, 5)?)?.iter().all(|byte| *byte == 0);
    let same = find_number(data, 2)? == register && find_number(data, 6).unwrap_or(0) == 0;
    (unchanged && same).then_some(Expression::Mask { register, mask })
}

impl Base {
    fn decode(number: u32) -> Option<Self> {
        [Self::Link, Self::Network, Self::Transport].into_iter().find(|base| *base as u32 == number)
    }
}

impl MetaKey {
    fn decode(number: u32) -> Option<Self> {
        [Self::Length, Self::Input, Self::Output, Self::Protocol].into_iter().find(|key| *key as u32 == number)
    }
}

impl Comparison {
    fn decode(number: u32) -> Option<Self> {
        const ALL: [Comparison; 5] =
            [Comparison::Equal, Comparison::NotEqual, Comparison::Less, Comparison::AtMost, Comparison::AtLeast];
        ALL.into_iter().find(|comparison| *comparison as u32 == number)
    }
}

impl Verdict {
    fn encode(&self) -> Attributes {
        let verdict = match self {
            Self::Drop => Attributes::new().number(kind::VERDICT_CODE, DROP),
            Self::Accept => Attributes::new().number(kind::VERDICT_CODE, ACCEPT),
            Self::GoTo(chain) => Attributes::new().number(kind::VERDICT_CODE, GO_TO).text(kind::VERDICT_CHAIN, chain),
        };
        let data = Attributes::new().nested(kind::VERDICT, &verdict);
        Attributes::new().number(1, VERDICT_REGISTER).nested(2, &data)
    }

    fn decode(data: &[u8]) -> Option<Self> {
        let verdict = find(find(data, 2)?, kind::VERDICT)?;
        match find_number(verdict, kind::VERDICT_CODE)? {
            DROP => Some(Self::Drop),
            ACCEPT => Some(Self::Accept),
            GO_TO => Some(Self::GoTo(find_text(verdict, kind::VERDICT_CHAIN)?.to_owned())),
            _ => None,
        }
    }
}

impl Display for Expression {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload { base, offset, length, register } => {
                let base = format!("{base:?}").to_lowercase();
                write!(out, "[{register}] = {base} header +{offset} {length} bytes")
            }
            Self::Meta { key, register } => write!(out, "[{register}] = {}", format!("{key:?}").to_lowercase()),
            Self::Compare { register, operation, value } => {
                let operation = match operation {
                    Comparison::Equal => "==",
                    Comparison::NotEqual => "!=",
                    Comparison::Less => "<",
                    Comparison::AtMost => "<=",
                    Comparison::AtLeast => ">=",
                };
                write!(out, "[{register}] {operation} {}", hexadecimal(value))
            }
            Self::Mask { register, mask } => write!(out, "[{register}] &= {}", hexadecimal(mask)),
            Self::ToNetworkOrder { register } => write!(out, "[{register}] to network order"),
            Self::Lookup { set, register } => write!(out, "[{register}] in {set}"),
            Self::Limit { per_second, burst } => write!(out, "at most {per_second} a second, burst {burst}"),
            Self::Count { counter } => write!(out, "count {counter}"),
            Self::RejectWithReset => write!(out, "reject with tcp reset"),
            Self::Verdict(Verdict::Accept) => write!(out, "accept"),
            Self::Verdict(Verdict::Drop) => write!(out, "drop"),
            Self::Verdict(Verdict::GoTo(chain)) => write!(out, "goto {chain}"),
            Self::Other(name) => write!(out, "{name}?"),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expression: &Expression, text: &str) {
        assert_eq!(Expression::decode(expression.encode().as_bytes()), *expression);
        assert_eq!(expression.to_string(), text);
    }

    #[test]
    fn what_is_written_is_read() {
        let set = "cut".to_owned();
        check(
            &Expression::Payload { base: Base::Network, offset: 12, length: 4, register: 1 },
            "[1] = network header +12 4 bytes",
        );
        check(&Expression::Meta { key: MetaKey::Output, register: 1 }, "[1] = output");
        check(&Expression::Compare { register: 1, operation: Comparison::AtLeast, value: vec![0, 28] }, "[1] >= 001c");
        check(&Expression::Mask { register: 9, mask: vec![0xf0] }, "[9] &= f0");
        check(&Expression::ToNetworkOrder { register: 1 }, "[1] to network order");
        check(&Expression::Lookup { set, register: 1 }, "[1] in cut");
        check(&Expression::Limit { per_second: 64, burst: 64 }, "at most 64 a second, burst 64");
        check(&Expression::Count { counter: "from-7-cut".to_owned() }, "count from-7-cut");
        check(&Expression::RejectWithReset, "reject with tcp reset");
        check(&Expression::Verdict(Verdict::Accept), "accept");
        check(&Expression::Verdict(Verdict::Drop), "drop");
        check(&Expression::Verdict(Verdict::GoTo("told".to_owned())), "goto told");
    }

    #[test]
    fn what_is_not_ours_is_none_of_ours() {
        let strange = |name, data: &Attributes| {
            let element = Attributes::new().text(kind::NAME, name).nested(kind::DATA, data);
            assert_eq!(Expression::decode(element.as_bytes()), Expression::Other(name.to_owned()));
        };
        strange("masq", &Attributes::new());
        strange("cmp", &Attributes::new());
        strange("lookup", &Attributes::new().text(1, "cut").number(2, 1).number(5, 1));
        strange("objref", &Attributes::new().number(1, 2).text(2, "quota"));
        strange("reject", &Attributes::new().number(1, 0));
        strange("bitwise", &encode_mask(1, &[1]).number(6, 1));
        assert_eq!(Expression::decode(&[]), Expression::Other(String::new()));
    }
}
