//! Objects that a pack holds as changes of others.

/// Length of a copy that says none, in bytes.
const COPY_BYTES: usize = 0x10000;

/// How long the object is that a change says it makes.
pub(super) fn length(change: &[u8]) -> Option<usize> {
    size(change).and_then(|(_, rest)| size(rest)).map(|(bytes, _)| bytes)
}

/// The object that a change makes of `base`, if it is no longer than `bytes_max`. No more is written than [`length`] says.
pub(super) fn apply(base: &[u8], change: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let (base_bytes, rest) = size(change)?;
    let (bytes, mut rest) = size(rest)?;
    if base_bytes != base.len() || bytes > bytes_max {
        return None;
    }
    let mut object = Vec::with_capacity(bytes);
    while let Some((operation, after)) = rest.split_first() {
        let (piece, after) = if operation & 0x80 != 0 {
            let (offset, after) = number(after, *operation, 4)?;
            let (length, after) = number(after, operation >> 4, 3)?;
            let length = if length == 0 { COPY_BYTES } else { length };
            (base.get(offset..offset.checked_add(length)?)?, after)
        } else {
            after.split_at_checked(usize::from(*operation)).filter(|_| *operation > 0)?
        };
        if piece.len() > bytes - object.len() {
            return None;
        }
        object.extend_from_slice(piece);
        rest = after;
    }
    (object.len() == bytes).then_some(object)
}

/// Seven bits a byte, the lowest first.
fn size(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (mut size, mut rest) = (0, bytes);
    for shift in (0..32).step_by(7) {
        let (byte, after) = rest.split_first()?;
        (size, rest) = (size | usize::from(byte & 0x7f) << shift, after);
        if byte & 0x80 == 0 {
            return Some((size, rest));
        }
    }
    None
}

/// A number of which only those bytes are there that `present` has a bit for.
fn number(bytes: &[u8], present: u8, bytes_max: u8) -> Option<(usize, &[u8])> {
    let (mut number, mut rest) = (0, bytes);
    for place in (0..bytes_max).filter(|place| present & (1 << place) != 0) {
        let (byte, after) = rest.split_first()?;
        (number, rest) = (number | usize::from(*byte) << (8 * place), after);
    }
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: &[u8], expected: Option<&str>) {
        let object = apply(b"hello world", change, 16);
        assert_eq!(object.as_deref(), expected.map(str::as_bytes), "{change:x?}");
        assert!(object.is_none_or(|object| length(change) == Some(object.len())), "{change:x?}");
    }

    #[test]
    fn pieces_are_copied_and_inserted() {
        check(&[11, 5, 0x90, 5], Some("hello"));
        check(&[11, 7, 0x91, 6, 5, 2, b'!', b'!'], Some("world!!"));
        check(&[11, 0], Some(""));
    }

    #[test]
    fn what_does_not_fit_makes_no_object() {
        check(&[10, 5, 0x90, 5], None);
        check(&[11, 6, 0x90, 5], None);
        check(&[11, 4, 0x90, 5], None);
        check(&[11, 5, 0x91, 7, 5], None);
        check(&[11, 5, 0], None);
        check(&[11, 5, 5, b'x'], None);
        check(&[11, 17, 17], None);
        check(&[0x8b, 0x80, 0x80, 0x80, 0x80, 0x80], None);
        check(&[], None);
    }
}
