//! Sets, maps and verdict maps, and what is in them.

use std::time::Duration;

use crate::attribute::{Writer, padded};
use crate::expression::Verdict;

/// The type of a field of a key, or of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// 4 bytes.
    Ipv4Address,
    /// 16 bytes.
    Ipv6Address,
    /// A transport protocol's number, 1 byte.
    Protocol,
    /// A port, 2 bytes.
    Port,
    /// A number in the machine's order, 4 bytes.
    Mark,
    /// An interface's name, 16 bytes.
    InterfaceName,
}

impl DataType {
    /// Bytes without padding.
    pub const fn length(self) -> usize {
        match self {
            Self::Ipv4Address | Self::Mark => 4,
            Self::Ipv6Address | Self::InterfaceName => 16,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }

    /// Only `nft list` cares.
    const fn number(self) -> u32 {
        match self {
            Self::Ipv4Address => 7,
            Self::Ipv6Address => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::InterfaceName => 41,
        }
    }
}

/// A key or value of several fields is laid out with each field padded to four bytes.
fn layout(fields: &[DataType]) -> (u32, u32) {
    let number = fields.iter().fold(0, |number, field| number << 6 | field.number());
    let length = match fields {
        [one] => one.length(),
        several => several.iter().map(|field| padded(field.length())).sum(),
    };
    (number, u32::try_from(length).unwrap_or(u32::MAX))
}

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetKind {
    /// Nothing: it is in the set or not.
    Set,
    /// A value of these fields.
    Map(Vec<DataType>),
    /// A verdict.
    VerdictMap,
}

/// A set, map or verdict map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Unique in the table; at most 127 bytes.
    pub name: String,
    /// The fields of a key.
    pub key: Vec<DataType>,
    /// What it leads to.
    pub kind: SetKind,
    /// Whether elements are ranges ([`Element::key_end`]).
    pub intervals: bool,
    /// How many elements rules may add to it, each for some time; `None` when rules add none.
    pub dynamic: Option<u32>,
}

impl Set {
    /// A set or map whose elements are single keys that only transactions change.
    pub fn new(name: impl Into<String>, key: &[DataType], kind: SetKind) -> Self {
        Self { name: name.into(), key: key.to_vec(), kind, intervals: false, dynamic: None }
    }

    /// Its elements are ranges.
    #[must_use]
    pub fn with_intervals(mut self) -> Self {
        self.intervals = true;
        self
    }

    /// Rules add up to `size` elements to it.
    #[must_use]
    pub fn with_dynamic(mut self, size: u32) -> Self {
        self.dynamic = Some(size);
        self
    }

    pub(crate) fn encode(&self, out: &mut Writer, id: u32) {
        const INTERVAL: u32 = 0x4;
        const MAP: u32 = 0x8;
        const TIMEOUT: u32 = 0x10;
        const EVAL: u32 = 0x20;
        const CONCAT: u32 = 0x80;
        let ranges_of_several = self.intervals && self.key.len() > 1;
        let mut flags = 0;
        for (on, flag) in [
            (self.intervals, INTERVAL),
            (self.kind != SetKind::Set, MAP),
            (self.dynamic.is_some(), TIMEOUT | EVAL),
            (ranges_of_several, CONCAT),
        ] {
            if on {
                flags |= flag;
            }
        }
        let (key_type, key_length) = layout(&self.key);
        out.put_text(2, &self.name);
        out.put_u32(3, flags);
        out.put_u32(4, key_type);
        out.put_u32(5, key_length);
        match &self.kind {
            SetKind::Set => {}
            SetKind::Map(fields) => {
                let (kind, length) = layout(fields);
                out.put_u32(6, kind);
                out.put_u32(7, length);
            }
            SetKind::VerdictMap => {
                out.put_u32(6, 0xffff_ff00);
                // The kernel knows how long a verdict is.
                out.put_u32(7, 0);
            }
        }
        if ranges_of_several || self.dynamic.is_some() {
            out.nest(9, |description| {
                if let Some(size) = self.dynamic {
                    description.put_u32(1, size);
                }
                if ranges_of_several {
                    description.nest(2, |concat| {
                        for field in &self.key {
                            let length = u32::try_from(field.length()).unwrap_or(u32::MAX);
                            concat.nest(1, |one| one.put_u32(1, length));
                        }
                    });
                }
            });
        }
        out.put_u32(10, id);
    }
}

/// Bytes of a key or a value: fields one after the other, each padded to four bytes if there are several.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Data(pub Vec<u8>);

impl Data {
    /// Of several fields, each in the order its [`DataType`] says.
    pub fn of(fields: &[&[u8]]) -> Self {
        let mut bytes = Vec::with_capacity(fields.iter().map(|field| padded(field.len())).sum());
        for field in fields {
            bytes.extend_from_slice(field);
            if fields.len() > 1 {
                bytes.resize(padded(bytes.len()), 0);
            }
        }
        Self(bytes)
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// The key, or the first of the range.
    pub key: Data,
    /// The last of the range, of a set with intervals.
    pub key_end: Option<Data>,
    /// Of a map.
    pub value: Option<Data>,
    /// Of a verdict map.
    pub verdict: Option<Verdict>,
    /// For how long it stays, in a dynamic set.
    pub timeout: Option<Duration>,
    /// What is left of that, when it was there before.
    pub expires: Option<Duration>,
}

impl Element {
    /// Of a set; also names an element of a map that is to be deleted.
    pub fn key(key: Data) -> Self {
        Self { key, ..Self::default() }
    }

    /// Of a map.
    pub fn value(key: Data, value: Data) -> Self {
        Self { key, value: Some(value), ..Self::default() }
    }

    /// Of a verdict map.
    pub fn verdict(key: Data, verdict: Verdict) -> Self {
        Self { key, verdict: Some(verdict), ..Self::default() }
    }

    /// Of a set with intervals; both ends belong to it.
    pub fn range(first: Data, last: Data) -> Self {
        Self { key: first, key_end: Some(last), ..Self::default() }
    }

    /// `several`: whether the key has several fields, whose ranges are written otherwise than those of one.
    pub(crate) fn encode(&self, out: &mut Writer, several: bool) {
        out.nest(1, |one| {
            one.nest(1, |key| key.put(1, &self.key.0));
            if several && let Some(end) = &self.key_end {
                one.nest(10, |key| key.put(1, &end.0));
            }
            if let Some(value) = &self.value {
                one.nest(2, |data| data.put(1, &value.0));
            }
            if let Some(verdict) = &self.verdict {
                one.nest(2, |data| verdict.encode(data));
            }
            for (kind, time) in [(4, self.timeout), (5, self.expires)] {
                if let Some(time) = time {
                    one.put_u64(kind, u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
                }
            }
        });
        if several {
            return;
        }
        // The range of a single field ends with an element of its own: the first key behind it, if there is one.
        if let Some(after) = self.key_end.as_ref().and_then(|end| successor(&end.0)) {
            out.nest(1, |one| {
                one.nest(1, |key| key.put(1, &after));
                one.put_u32(3, 1);
            });
        }
    }
}

/// The next larger value of the same length.
fn successor(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut next = bytes.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, carry) = byte.overflowing_add(1);
        *byte = sum;
        if !carry {
            return Some(next);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_several_are_padded_and_a_single_one_is_not() {
        assert_eq!(Data::of(&[&[10, 0, 0, 1], &[6], &[0, 80]]).0, [10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(Data::of(&[&[0, 80]]).0, [0, 80]);
        assert_eq!(layout(&[DataType::Ipv4Address, DataType::Protocol, DataType::Port]).1, 12);
        assert_eq!(layout(&[DataType::Port]), (13, 2));
    }

    #[test]
    fn the_last_address_has_no_successor() {
        assert_eq!(successor(&[10, 0, 0, 255]), Some(vec![10, 0, 1, 0]));
        assert_eq!(successor(&[255; 4]), None);
    }
}
