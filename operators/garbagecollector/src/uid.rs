//! UIDs in little room (pure).

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The UID of an object: sixteen bytes, of which a cluster with many objects keeps many.
///
/// What users write into owner references need not be a UUID. Such a text gets a number that no UUID has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(u128);

/// The place of a UUID's version; the value 15 is never given.
const NO_VERSION: u128 = 0xf << 76;

impl Uid {
    /// Reads a UID.
    pub fn new(text: &str) -> Self {
        match uuid(text) {
            Some(number) => Uid(number),
            None => {
                let hash = |seed: u8| {
                    let mut hasher = DefaultHasher::new();
                    (seed, text).hash(&mut hasher);
                    u128::from(hasher.finish())
                };
                Uid((hash(0) << 64 | hash(1)) | NO_VERSION)
            }
        }
    }
}

/// The number of a UUID in its usual form, lower case.
fn uuid(text: &str) -> Option<u128> {
    if text.len() != 36 {
        return None;
    }
    let mut number = 0;
    for (place, byte) in text.bytes().enumerate() {
        let digit = match (place, byte) {
            (8 | 13 | 18 | 23, b'-') => continue,
            (8 | 13 | 18 | 23, _) => return None,
            (_, b'0'..=b'9') => byte - b'0',
            (_, b'a'..=b'f') => byte - b'a' + 10,
            (_, _) => return None,
        };
        number = number << 4 | u128::from(digit);
    }
    (number & NO_VERSION != NO_VERSION).then_some(number)
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            number >> 96,
            number >> 80 & 0xffff,
            number >> 64 & 0xffff,
            number >> 48 & 0xffff,
            number & 0xffff_ffff_ffff
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_shown_as_it_was_read() {
        let text = "0189f7ea-cc24-4d6f-9b1c-00a1b2c3d4e5";
        assert_eq!(Uid::new(text).to_string(), text);
    }

    #[test]
    fn what_is_no_uuid_is_told_apart_from_all_others() {
        let uuid = Uid::new("0189f7ea-cc24-4d6f-9b1c-00a1b2c3d4e5");
        let others =
            ["", "1", "2", "0189F7EA-cc24-4d6f-9b1c-00a1b2c3d4e5", "0189f7ea-cc24-fd6f-9b1c-00a1b2c3d4e5"];
        for (place, text) in others.iter().enumerate() {
            assert_ne!(Uid::new(text), uuid);
            assert!(others[..place].iter().all(|other| Uid::new(other) != Uid::new(text)));
        }
    }
}
