//! Consistent views.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use crate::{Entry, Key, Revision};

pub(crate) type Root = OrdMap<Key, Arc<Entry>>;

/// The whole state at one revision, immutable. Taking one costs a pointer; keeping one keeps what has been
/// replaced since in memory.
#[derive(Clone, Debug)]
pub struct Snapshot {
    root: Root,
    revision: Revision,
    /// The bytes of all keys and values, where they have been counted.
    bytes: Option<u64>,
}

impl Snapshot {
    pub(crate) fn new(root: Root, revision: Revision) -> Self {
        Snapshot { root, revision, bytes: None }
    }

    pub(crate) fn counted(root: Root, revision: Revision, bytes: u64) -> Self {
        Snapshot { root, revision, bytes: Some(bytes) }
    }

    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    pub(crate) fn into_root(self) -> Root {
        self.root
    }

    /// The revision that it shows.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many keys it holds.
    pub fn len(&self) -> usize {
        self.root.len()
    }

    /// The bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        let count = || self.range("/", None).map(|(key, entry)| entry.counts(key)).sum();
        self.bytes.unwrap_or_else(count)
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// What is under `key`.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.root.get(key).map(Arc::as_ref)
    }

    /// The entries whose key starts with `prefix` and comes after `after`, in the order of keys.
    pub fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Entry)> + 'a {
        let start = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            Some(_) | None => Bound::Included(prefix),
        };
        self.root
            .range::<_, str>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, entry)| (key, entry.as_ref()))
    }
}
