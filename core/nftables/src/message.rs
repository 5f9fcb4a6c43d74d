//! Netlink messages of the netfilter family: header, family header, attributes.

use crate::attribute::{Reader, Writer, padded};
use crate::chain::Family;

pub(crate) const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

pub(crate) const FLAG_REQUEST: u16 = 0x1;
pub(crate) const FLAG_ACK: u16 = 0x4;
pub(crate) const FLAG_DUMP: u16 = 0x300;
pub(crate) const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
pub(crate) const FLAG_CREATE: u16 = 0x400;
pub(crate) const FLAG_APPEND: u16 = 0x800;

const FLAG_CAPPED: u16 = 0x100;
const FLAG_EXTENDED: u16 = 0x200;

pub(crate) const ERROR: u16 = 2;
pub(crate) const DONE: u16 = 3;
pub(crate) const BATCH_BEGIN: u16 = 16;
pub(crate) const BATCH_END: u16 = 17;

const NFTABLES: u16 = 10 << 8;
const CONNTRACK: u16 = 1 << 8;

macro_rules! kinds {
    ($($name:ident = $subsystem:ident + $number:literal;)*) => {
        $(pub(crate) const $name: u16 = $subsystem | $number;)*
    };
}

kinds! {
    NEW_TABLE = NFTABLES + 0;
    DELETE_TABLE = NFTABLES + 2;
    GET_TABLE = NFTABLES + 1;
    NEW_CHAIN = NFTABLES + 3;
    GET_CHAIN = NFTABLES + 4;
    DELETE_CHAIN = NFTABLES + 5;
    NEW_RULE = NFTABLES + 6;
    GET_RULE = NFTABLES + 7;
    DELETE_RULE = NFTABLES + 8;
    NEW_SET = NFTABLES + 9;
    DELETE_SET = NFTABLES + 11;
    NEW_ELEMENT = NFTABLES + 12;
    GET_ELEMENT = NFTABLES + 13;
    DELETE_ELEMENT = NFTABLES + 14;
    GET_GENERATION = NFTABLES + 16;
    GET_CONNECTION = CONNTRACK + 1;
    DELETE_CONNECTION = CONNTRACK + 2;
}

/// Which message, to whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) family: u8,
    /// The subsystem, for the begin and end of a batch.
    pub(crate) resource: u16,
}

impl Head {
    pub(crate) fn new(kind: u16, flags: u16, family: Family) -> Self {
        Self { kind, flags: flags | FLAG_REQUEST, sequence: 0, family: family.number(), resource: 0 }
    }

    /// The begin or end of an nftables batch.
    pub(crate) fn batch(kind: u16) -> Self {
        Self { kind, flags: FLAG_REQUEST, sequence: 0, family: 0, resource: NFTABLES >> 8 }
    }
}

/// Appends a message whose attributes `fill` writes.
pub(crate) fn write(out: &mut Writer, head: Head, fill: impl FnOnce(&mut Writer)) {
    let start = out.bytes.len();
    out.bytes.extend_from_slice(&0_u32.to_ne_bytes());
    out.bytes.extend_from_slice(&head.kind.to_ne_bytes());
    out.bytes.extend_from_slice(&head.flags.to_ne_bytes());
    out.bytes.extend_from_slice(&head.sequence.to_ne_bytes());
    out.bytes.extend_from_slice(&0_u32.to_ne_bytes());
    out.bytes.extend_from_slice(&[head.family, 0]);
    out.bytes.extend_from_slice(&head.resource.to_be_bytes());
    fill(out);
    let length = u32::try_from(out.bytes.len() - start).unwrap_or(u32::MAX);
    out.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// A message from the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// What follows the family header.
    pub(crate) fn attributes(&self) -> Reader<'a> {
        Reader::new(self.payload.get(FAMILY_HEADER..).unwrap_or_default())
    }

    /// For [`ERROR`]: the error's number, 0 for an acknowledgement, and the kernel's words for it if it gave any.
    pub(crate) fn error(&self) -> Option<(i32, Option<String>)> {
        let number = -i32::from_ne_bytes(self.payload.get(..4)?.try_into().ok()?);
        if self.flags & FLAG_EXTENDED == 0 {
            return Some((number, None));
        }
        // The request's header follows, and the rest of it unless that was cut off.
        let request = self.payload.get(4..4 + HEADER)?;
        let whole = u32::from_ne_bytes(request[..4].try_into().ok()?) as usize;
        let skip = if self.flags & FLAG_CAPPED == 0 { padded(whole) } else { HEADER };
        let text = self.payload.get(4 + skip..).and_then(|rest| Reader::new(rest).text(1));
        Some((number, text))
    }
}

/// Walks over the messages of one datagram.
pub(crate) fn read(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let head = bytes.get(..HEADER)?;
        let length = u32::from_ne_bytes(head[..4].try_into().ok()?) as usize;
        let one = Received {
            kind: u16::from_ne_bytes(head[4..6].try_into().ok()?),
            flags: u16::from_ne_bytes(head[6..8].try_into().ok()?),
            sequence: u32::from_ne_bytes(head[8..12].try_into().ok()?),
            payload: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(padded(length)..).unwrap_or_default();
        Some(one)
    })
}

/// The sequence number's place in a message.
pub(crate) const SEQUENCE: std::ops::Range<usize> = 8..12;
/// The flags' place in a message.
pub(crate) const FLAGS: std::ops::Range<usize> = 6..8;
