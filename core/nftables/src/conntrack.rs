//! Tracked connections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::attribute::{Reader, Writer};
use crate::chain::Family;
use crate::connection::{Connection, DumpError};
use crate::message::{self, Head};

/// The number of UDP.
pub const UDP: u8 = 17;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// From.
    pub source: IpAddr,
    /// To.
    pub destination: IpAddr,
    /// The transport protocol's number.
    pub protocol: u8,
    /// From; 0 for a protocol without ports.
    pub source_port: u16,
    /// To; 0 for a protocol without ports.
    pub destination_port: u16,
}

/// A tracked connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As its first packet was sent.
    pub original: Tuple,
    /// As answers come; its source is who really answers.
    pub reply: Tuple,
    /// The first direction as the kernel wrote it, and its id: the name under which it is deleted.
    key: (Vec<u8>, Vec<u8>, Option<Vec<u8>>),
}

impl Connection {
    /// The tracked connections of one transport protocol.
    pub fn connections(&mut self, family: Family, protocol: u8) -> Result<Vec<Entry>, DumpError> {
        let head = Head::new(message::GET_CONNECTION, message::FLAG_DUMP, family);
        let mut found = Vec::new();
        // The kernel's table is not read as of one moment anyway.
        self.exchange("connections", head, &[], |one| {
            let entry = entry(one.attributes());
            found.extend(entry.filter(|entry| entry.original.protocol == protocol));
        })?;
        Ok(found)
    }

    /// Forgets a connection; it is no error when that happened already.
    pub fn forget(&mut self, family: Family, entry: &Entry) -> Result<(), DumpError> {
        let head = Head::new(message::DELETE_CONNECTION, message::FLAG_ACK, family);
        let mut out = Writer::default();
        message::write(&mut out, head, |out| {
            let (tuple, id, zone) = &entry.key;
            out.put(1 | 0x8000, tuple);
            out.put(12, id);
            if let Some(zone) = zone {
                out.put(18, zone);
            }
        });
        match self.exchange_bytes("a connection", head, &mut out.bytes, |_| {}) {
            Ok(_) => Ok(()),
            Err(error) if error.is_missing() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn entry(reader: Reader<'_>) -> Option<Entry> {
    let key = (reader.find(1)?.to_vec(), reader.find(12)?.to_vec(), reader.find(18).map(<[u8]>::to_vec));
    Some(Entry { original: tuple(reader.nested(1))?, reply: tuple(reader.nested(2))?, key })
}

fn tuple(reader: Reader<'_>) -> Option<Tuple> {
    let ip = reader.nested(1);
    let protocol = reader.nested(2);
    let v4 = |kind| Some(IpAddr::V4(Ipv4Addr::from(ip.u32(kind)?)));
    let v6 = |kind| Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip.find(kind)?).ok()?)));
    Some(Tuple {
        source: v4(1).or_else(|| v6(3))?,
        destination: v4(2).or_else(|| v6(4))?,
        protocol: protocol.u8(1)?,
        source_port: protocol.u16(2).unwrap_or_default(),
        destination_port: protocol.u16(3).unwrap_or_default(),
    })
}
