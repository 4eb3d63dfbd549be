//! Netlink attributes: type, length and value, padded to four bytes, nested at will.
//!
//! Pure. Whatever the kernel sends is read without a panic: what is cut short ends the list.

/// Bytes of an attribute's length and type.
const HEADER_BYTES: usize = 4;
/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// Flags that share the field with the type.
const FLAGS: u16 = 0xc000;

/// A list of attributes that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// With a value of plain bytes.
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(HEADER_BYTES + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// With a number in the order of the network, as all numbers of nftables are.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn long(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// With a text that ends with a zero byte.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let value: Vec<u8> = value.bytes().chain([0]).collect();
        self.bytes(kind, &value)
    }

    pub(super) fn nested(self, kind: u16, value: &Self) -> Self {
        self.bytes(kind | NESTED, &value.0)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The attributes of a list, with their types.
pub(super) fn read(mut list: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, rest) = list.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = list.get(HEADER_BYTES..length)?;
        list = list.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes(*kind) & !FLAGS, value))
    })
}

/// The first attribute of this type.
pub(super) fn find(list: &[u8], kind: u16) -> Option<&[u8]> {
    read(list).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

pub(super) fn find_number(list: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(*find(list, kind)?.first_chunk()?))
}

pub(super) fn find_long(list: &[u8], kind: u16) -> Option<u64> {
    Some(u64::from_be_bytes(*find(list, kind)?.first_chunk()?))
}

pub(super) fn find_text(list: &[u8], kind: u16) -> Option<&str> {
    std::str::from_utf8(find(list, kind)?).ok().map(|text| text.trim_end_matches('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Attributes::new().number(1, 7).long(2, u64::MAX);
        let list = Attributes::new().text(3, "cut").nested(4, &inner).bytes(5, &[9; 5]);
        let bytes = list.as_bytes();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(find_text(bytes, 3), Some("cut"));
        let nested = find(bytes, 4).unwrap();
        assert_eq!((find_number(nested, 1), find_long(nested, 2)), (Some(7), Some(u64::MAX)));
        assert_eq!(find(bytes, 5), Some(&[9; 5][..]));
        assert_eq!(find(bytes, 6), None);
    }

    #[test]
    fn what_is_cut_short_ends_the_list() {
        let list = Attributes::new().number(1, 7).number(2, 8);
        for length in 0..list.as_bytes().len() {
            let found = read(list.as_bytes().get(..length).unwrap()).count();
            assert_eq!(found, usize::from(length >= 8), "{length}");
        }
        assert_eq!(read(&[0; 64]).count(), 0, "a length that is none");
        assert_eq!(find_number(Attributes::new().bytes(1, &[1]).as_bytes(), 1), None);
    }
}
