//! What an operator looks at that watches over several kinds.

use std::fmt;

use crate::object_key::ObjectKey;

/// An object of one of an operator's kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject<K> {
    /// Of which kind.
    pub kind: K,
    /// Which.
    pub key: ObjectKey,
}

impl<K> Subject<K> {
    /// An object of a kind.
    pub fn new(kind: K, key: ObjectKey) -> Self {
        Subject { kind, key }
    }
}

impl<K: fmt::Debug> fmt::Display for Subject<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.key)
    }
}
