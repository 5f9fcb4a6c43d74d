//! Keys and values as they lie in etcd. Pure.
//!
//! A value is a head and the document without its revision. The head is a mark with the version of this layout, the
//! number of the write, and the place of the revision in the document, all of fixed length. The last state of what was
//! deleted lies under one key for all, with the name of what was deleted before it.

use bytes::{BufMut, Bytes, BytesMut};
use keelson_store::{Entry, Key, Revision, Value};

/// The mark of a value, and of what was deleted.
const VALUE: &[u8; 8] = b"keelson\x01";
const DELETED: &[u8; 8] = b"keelson\x02";
/// No place for the revision.
const NOWHERE: u32 = u32::MAX;
/// Below the prefix, what is not the store's.
const OWN: &str = "/.keelson/";

/// The number of a write, different for all writes of all who share the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WriteId {
    /// Who writes: a random number of each process.
    pub(crate) writer: u64,
    /// Its how manieth write.
    pub(crate) sequence: u64,
}

/// A value as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) id: WriteId,
    pub(crate) value: Value,
}

/// What was deleted last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deleted {
    pub(crate) id: WriteId,
    /// Its key in etcd.
    pub(crate) key: Bytes,
    /// Its last state; `None` if that is what was stored.
    pub(crate) last: Option<Value>,
}

fn put_head(out: &mut BytesMut, mark: &[u8; 8], id: WriteId) {
    out.put_slice(mark);
    out.put_u64(id.writer);
    out.put_u64(id.sequence);
}

fn put_value(out: &mut BytesMut, value: &Value) {
    out.put_u32(value.stamp.unwrap_or(NOWHERE));
    out.put_slice(&value.bytes);
}

/// Takes so many bytes off the front.
fn take(bytes: &mut Bytes, count: usize) -> Option<Bytes> {
    (bytes.len() >= count).then(|| bytes.split_to(count))
}

fn take_u64(bytes: &mut Bytes) -> Option<u64> {
    Some(u64::from_be_bytes(take(bytes, 8)?.as_ref().try_into().ok()?))
}

fn take_u32(bytes: &mut Bytes) -> Option<u32> {
    Some(u32::from_be_bytes(take(bytes, 4)?.as_ref().try_into().ok()?))
}

fn take_head(bytes: &mut Bytes, mark: &[u8; 8]) -> Option<WriteId> {
    if take(bytes, mark.len())? != mark[..] {
        return None;
    }
    Some(WriteId { writer: take_u64(bytes)?, sequence: take_u64(bytes)? })
}

fn take_value(mut bytes: Bytes) -> Option<Value> {
    let stamp = Some(take_u32(&mut bytes)?).filter(|stamp| *stamp != NOWHERE);
    Some(Value { bytes, stamp }).filter(Value::is_well_formed)
}

impl Stored {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(28 + self.value.bytes.len());
        put_head(&mut out, VALUE, self.id);
        put_value(&mut out, &self.value);
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Option<Stored> {
        let id = take_head(&mut bytes, VALUE)?;
        Some(Stored { id, value: take_value(bytes)? })
    }
}

impl Deleted {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_head(&mut out, DELETED, self.id);
        out.put_u32(u32::try_from(self.key.len()).unwrap_or(NOWHERE));
        out.put_slice(&self.key);
        if let Some(last) = &self.last {
            put_value(&mut out, last);
        }
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Option<Deleted> {
        let id = take_head(&mut bytes, DELETED)?;
        let length = take_u32(&mut bytes)?;
        let key = take(&mut bytes, usize::try_from(length).ok()?)?;
        let last = if bytes.is_empty() { None } else { Some(take_value(bytes)?) };
        Some(Deleted { id, key, last })
    }
}

/// A value as it was before it got its revision.
pub(crate) fn unstamped(entry: &Entry, stamp: Option<u32>) -> Value {
    let plain = || Value::plain(entry.value.clone());
    let Some(stamp) = stamp else { return plain() };
    let (at, digits) = (stamp as usize, entry.modified.to_string());
    let Some((head, rest)) = entry.value.split_at_checked(at) else { return plain() };
    match rest.strip_prefix(digits.as_bytes()) {
        Some(tail) => Value::stamped([head, tail].concat(), stamp),
        None => plain(),
    }
}

/// Where keys lie.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
    root: String,
}

impl Keys {
    /// Keys that begin with `root` in the store and with `prefix` in etcd.
    pub(crate) fn new(prefix: &str, root: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Keys { prefix, root: root.trim_end_matches('/').to_owned() }
    }

    /// A key in etcd; `None` where the store has it outside of its root.
    pub(crate) fn to_etcd(&self, key: &Key) -> Option<Bytes> {
        let rest = key.as_str().strip_prefix(&self.root).filter(|rest| rest.starts_with('/'))?;
        (!rest.starts_with(OWN)).then(|| format!("{}{rest}", self.prefix).into())
    }

    /// A key of etcd in the store.
    pub(crate) fn of_etcd(&self, key: &[u8]) -> Option<Key> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        rest.starts_with('/').then(|| Key::new(format!("{}{rest}", self.root)).ok()).flatten()
    }

    /// Everything: the first key and the first that does not belong to it.
    pub(crate) fn range(&self) -> (Bytes, Bytes) {
        (format!("{}/", self.prefix).into(), format!("{}0", self.prefix).into())
    }

    /// Whether a key is not the store's, but of those that it keeps for itself.
    pub(crate) fn is_own(&self, key: &[u8]) -> bool {
        key.strip_prefix(self.prefix.as_bytes()).is_some_and(|rest| rest.starts_with(OWN.as_bytes()))
    }

    /// Where the last state of what was deleted last lies.
    pub(crate) fn deleted(&self) -> Bytes {
        format!("{}{OWN}deleted", self.prefix).into()
    }

    /// What is written to see that a watch has come so far.
    pub(crate) fn progress(&self) -> Bytes {
        format!("{}{OWN}progress", self.prefix).into()
    }
}

/// A revision from etcd's number.
pub(crate) fn revision(number: i64) -> Revision {
    Revision::new(u64::try_from(number).unwrap_or_default())
}

/// A revision as etcd's number.
pub(crate) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.get()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: WriteId = WriteId { writer: 7, sequence: u64::MAX };

    #[test]
    fn a_value_comes_back_with_its_number_and_the_place_of_its_revision() {
        for value in
            [Value::plain("abc"), Value::stamped("abc", 0), Value::stamped("abc", 3), Value::plain("")]
        {
            let stored = Stored { id: ID, value };
            assert_eq!(Stored::decode(stored.encode()), Some(stored));
        }
    }

    #[test]
    fn what_was_deleted_comes_back_with_its_key_and_last_state() {
        for last in [None, Some(Value::plain("")), Some(Value::stamped("abc", 1))] {
            let deleted = Deleted { id: ID, key: "/registry/a".into(), last };
            assert_eq!(Deleted::decode(deleted.encode()), Some(deleted));
        }
    }

    #[test]
    fn other_values_are_not_understood() {
        let stored = Stored { id: ID, value: Value::stamped("abc", 3) }.encode();
        let deleted = Deleted { id: ID, key: "/a".into(), last: None }.encode();
        for other in [Bytes::new(), "k8s\0".into(), "keelson\x09".into(), stored.slice(..27), deleted] {
            assert_eq!(Stored::decode(other), None);
        }
        // The revision's place is beyond the document's end.
        assert_eq!(Stored::decode(stored.slice(..stored.len() - 1)), None);
    }

    #[test]
    fn the_revision_is_taken_out_of_a_value_where_it_was_put_in() {
        let value = Value::stamped("<7>", 1);
        let modified = Revision::new(70);
        let entry = Entry { value: value.finish(modified), created: modified, modified };
        assert_eq!(unstamped(&entry, Some(1)), value);
        assert_eq!(unstamped(&entry, None), Value::plain("<707>"));
    }

    #[test]
    fn the_prefix_stands_for_the_root() {
        let keys = Keys::new("registry/", "/registry");
        let key = Key::new("/registry/core/pods/a").unwrap();
        assert_eq!(keys.to_etcd(&key).unwrap(), "/registry/core/pods/a");
        let keys = Keys::new("/one/two", "/registry");
        assert_eq!(keys.to_etcd(&key).unwrap(), "/one/two/core/pods/a");
        assert_eq!(keys.of_etcd(b"/one/two/core/pods/a"), Some(key));
        assert_eq!(keys.range(), ("/one/two/".into(), "/one/two0".into()));
        assert_eq!(keys.to_etcd(&Key::new("/registryx/a").unwrap()), None);
        assert_eq!(keys.to_etcd(&Key::new("/registry/.keelson/deleted").unwrap()), None);
        assert!(keys.is_own(&keys.deleted()) && keys.is_own(&keys.progress()));
        assert!(!keys.is_own(b"/one/two/core/pods/a"));
    }
}
