//! Names of git's objects.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// Bytes of a name in repositories of the usual kind: SHA-1.
pub(super) const SHA1_BYTES: usize = 20;
/// The same in the others: SHA-256.
pub(super) const SHA256_BYTES: usize = 32;

/// How objects are named in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Naming {
    /// By SHA-1. A server refuses objects that are made to share a name.
    Sha1,
    /// By SHA-256.
    Sha256,
}

impl Naming {
    /// Bytes of a name.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Sha1 => SHA1_BYTES,
            Self::Sha256 => SHA256_BYTES,
        }
    }
}

/// An object's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ObjectName {
    naming: Naming,
    /// The rest is zero where a name is shorter.
    bytes: [u8; SHA256_BYTES],
}

impl ObjectName {
    /// Bytes of a pack.
    pub(super) fn of_bytes(naming: Naming, name: &[u8]) -> Option<Self> {
        let mut bytes = [0; SHA256_BYTES];
        bytes.get_mut(..naming.bytes()).filter(|place| place.len() == name.len())?.copy_from_slice(name);
        Some(Self { naming, bytes })
    }

    /// Hexadecimal digits.
    pub(super) fn of_digits(digits: &[u8]) -> Option<Self> {
        let naming = [Naming::Sha1, Naming::Sha256].into_iter().find(|naming| naming.bytes() * 2 == digits.len())?;
        let value = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = |pair: &[u8]| {
            let mut pair = pair.iter().map(value);
            Some(pair.next()?? << 4 | pair.next()??)
        };
        let name: Vec<u8> = digits.chunks(2).map(byte).collect::<Option<_>>()?;
        Self::of_bytes(naming, &name)
    }

    /// The name of a commit with this content.
    pub(super) fn of_commit(naming: Naming, content: &[u8]) -> Option<Self> {
        let algorithm = match naming {
            Naming::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
            Naming::Sha256 => &SHA256,
        };
        let mut digest = Context::new(algorithm);
        digest.update(format!("commit {}\0", content.len()).as_bytes());
        digest.update(content);
        Self::of_bytes(naming, digest.finish().as_ref())
    }

    /// How its repository names objects.
    pub(super) fn naming(self) -> Naming {
        self.naming
    }

    /// Does it stand for no object?
    pub(super) fn is_none(self) -> bool {
        self.bytes == [0; SHA256_BYTES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_called_as_git_calls_it() {
        let content =
            b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@b> 0 +0000\ncommitter A <a@b> 0 +0000\n\nx\n";
        let check = |naming, digits: &str| {
            assert_eq!(ObjectName::of_commit(naming, content), ObjectName::of_digits(digits.as_bytes()));
        };
        check(Naming::Sha1, "7b8051db3dcc0fcfd006919cfa7376ddbd7bdc1a");
        check(Naming::Sha256, "83a75b15d90a1fd8494d71101a69ae616788774e8cf12a7dd125680c562acb18");
    }

    #[test]
    fn a_name_has_as_many_digits_as_it_must() {
        let check = |digits: &str, expected: Option<(Naming, bool)>| {
            let name = ObjectName::of_digits(digits.as_bytes());
            assert_eq!(name.map(|name| (name.naming(), name.is_none())), expected, "{digits}");
        };
        check(&"0".repeat(40), Some((Naming::Sha1, true)));
        check(&"A".repeat(40), Some((Naming::Sha1, false)));
        check(&"0".repeat(64), Some((Naming::Sha256, true)));
        for bad in ["", "00", &"0".repeat(41), &"g".repeat(40), &"+".repeat(40)] {
            check(bad, None);
        }
    }
}
