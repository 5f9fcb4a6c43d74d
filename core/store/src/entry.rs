//! Values, before and after they are written.

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{Key, Revision};

/// A value to write. Its revision is not known before it is applied, so the value may leave a place for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The document.
    pub bytes: Bytes,
    /// Where in `bytes` the decimal revision is inserted when the value is applied; `None` inserts nothing.
    pub stamp: Option<u32>,
}

impl Value {
    /// A value that does not carry its revision.
    pub fn plain(bytes: impl Into<Bytes>) -> Self {
        Value { bytes: bytes.into(), stamp: None }
    }

    /// A value into which the revision is inserted at byte `offset`.
    pub fn stamped(bytes: impl Into<Bytes>, offset: u32) -> Self {
        Value { bytes: bytes.into(), stamp: Some(offset) }
    }

    /// Whether the stamp lies within the value.
    pub fn is_well_formed(&self) -> bool {
        self.stamp.is_none_or(|at| at as usize <= self.bytes.len())
    }

    /// The final bytes at `revision`. A stamp beyond the end is taken as the end; writes with one are refused.
    pub fn finish(&self, revision: Revision) -> Bytes {
        let Some(at) = self.stamp else { return self.bytes.clone() };
        let number = revision.to_string();
        let (head, tail) = self.bytes.split_at((at as usize).min(self.bytes.len()));
        let mut whole = BytesMut::with_capacity(self.bytes.len() + number.len());
        whole.extend_from_slice(head);
        whole.extend_from_slice(number.as_bytes());
        whole.extend_from_slice(tail);
        whole.freeze()
    }
}

/// What the store holds under a key. The bytes are final and shared by all who read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The document, with its revision in place.
    pub value: Bytes,
    /// The revision at which the key came into being.
    pub created: Revision,
    /// The revision of its last change.
    pub modified: Revision,
}

impl Entry {
    /// What it counts, under its key, in the size of a state: the bytes of both.
    pub(crate) fn counts(&self, key: &Key) -> u64 {
        (key.as_str().len() + self.value.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_is_inserted_at_the_stamp() {
        let value = Value::stamped(&br#"{"v":""}"#[..], 6);
        assert_eq!(&value.finish(Revision::new(42))[..], br#"{"v":"42"}"#);
    }

    #[test]
    fn a_plain_value_is_shared_and_not_copied() {
        let value = Value::plain("abc");
        assert_eq!(value.finish(Revision::new(1)).as_ptr(), value.bytes.as_ptr());
    }
}
