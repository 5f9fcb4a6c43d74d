//! JSON written in the binary encoding. What a document does not say is not written: readers take its absence for the
//! zero that Go would write.
//!
//! A document is read once, from its bytes, and written as it is read; the length of a message is put before it when
//! its end is known.

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::table::Table;
use super::{MAGIC, ProtobufError};

mod writer;

/// The message of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message(usize);

impl Message {
    /// That of a kind or of its list, such as `PodList`; `None` for one that has none.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        Table::get().find(api_version, kind).map(Message)
    }

    /// A JSON document of this kind as a message, without its envelope.
    pub fn encode(self, json: &[u8]) -> Result<Vec<u8>, ProtobufError> {
        let mut out = Vec::with_capacity(json.len());
        writer::write(self.0, json, &mut out)?;
        Ok(out)
    }
}

fn field(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    head(tag, bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn head(tag: u32, length: usize, out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

/// A message in its envelope, which names its kind. The parts together are the message.
pub fn envelope(api_version: &str, kind: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut names = Vec::with_capacity(api_version.len() + kind.len() + 8);
    field(1, api_version.as_bytes(), &mut names);
    field(2, kind.as_bytes(), &mut names);
    let length = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(MAGIC.len() + names.len() + length + 24);
    out.extend_from_slice(MAGIC);
    field(1, &names, &mut out);
    head(2, length, &mut out);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// Adds a message to those of a list.
pub fn item(message: &[u8], list: &mut Vec<u8>) {
    list.reserve(message.len() + encoded_len_varint(message.len() as u64) + 1);
    field(2, message, list);
}

/// A JSON document of any kind that has a message, in its envelope.
pub fn document(json: &[u8]) -> Result<Vec<u8>, ProtobufError> {
    #[derive(serde::Deserialize)]
    struct Kind {
        #[serde(default, rename = "apiVersion")]
        api_version: String,
        #[serde(default)]
        kind: String,
    }
    let Kind { api_version, kind } =
        serde_json::from_slice(json).map_err(|error| ProtobufError::Unencodable(error.to_string()))?;
    // Of discovery's documents one has no version.
    let api_version = if api_version.is_empty() { "v1".to_owned() } else { api_version };
    let Some(message) = Message::of(&api_version, &kind) else {
        return Err(ProtobufError::UnknownKind { api_version, kind });
    };
    Ok(envelope(&api_version, &kind, &[&message.encode(json)?]))
}

/// An event of a watch: its length in four bytes, and a `WatchEvent` around a document in its envelope.
pub fn watch_frame(word: &str, document: &[u8]) -> Vec<u8> {
    let raw = 1 + encoded_len_varint(document.len() as u64) + document.len();
    let event = 2 + word.len() + 1 + encoded_len_varint(raw as u64) + raw;
    let mut out = Vec::with_capacity(4 + event);
    out.extend_from_slice(&u32::try_from(event).unwrap_or(u32::MAX).to_be_bytes());
    field(1, word.as_bytes(), &mut out);
    head(2, raw, &mut out);
    field(1, document, &mut out);
    out
}
