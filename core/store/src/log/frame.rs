//! One group of records as bytes: `length u32 | checksum u32 | sequence u64 | payload`, padded to eight bytes.
//!
//! The checksum covers length, sequence and payload and starts from the segment's random salt, so that neither
//! an older file's bytes nor a value that imitates a frame passes for one.

use crc32fast::Hasher;

/// Length, checksum and sequence.
const HEAD: usize = 16;

/// The most that a frame adds to its payload.
pub(super) const OVERHEAD: u64 = (HEAD + 8) as u64;

/// A frame that was read back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Where it starts in its file.
    pub(super) offset: u64,
    pub(super) sequence: u64,
    pub(super) payload: Vec<u8>,
}

/// What is found at a place in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A frame, and how many bytes it takes.
    Frame { sequence: u64, payload: std::ops::Range<usize>, size: usize },
    /// Nothing has been written here.
    Nothing,
    /// Something that is not a whole frame.
    Broken,
}

fn padded(size: usize) -> usize {
    size.div_ceil(8) * 8
}

fn checksum(salt: u32, length: u32, sequence: u64, payload: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(salt);
    hasher.update(&length.to_le_bytes());
    hasher.update(&sequence.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// The bytes of a frame; `None` where the payload is longer than a frame can say.
pub(super) fn encode(salt: u32, sequence: u64, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok().filter(|length| *length > 0)?;
    let size = padded(HEAD + payload.len());
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(salt, length, sequence, payload).to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(size, 0);
    Some(bytes)
}

/// What stands at the start of `bytes`.
pub(super) fn read(salt: u32, bytes: &[u8]) -> Found {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
        return if bytes.iter().all(|byte| *byte == 0) { Found::Nothing } else { Found::Broken };
    };
    if head.iter().all(|byte| *byte == 0) {
        return Found::Nothing;
    }
    let [l0, l1, l2, l3, c0, c1, c2, c3, sequence @ ..] = *head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let sequence = u64::from_le_bytes(sequence);
    let Some(payload) = rest.get(..length as usize).filter(|payload| !payload.is_empty()) else {
        return Found::Broken;
    };
    if checksum(salt, length, sequence, payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Found::Broken;
    }
    let end = HEAD + length as usize;
    Found::Frame { sequence, payload: HEAD..end, size: padded(end).min(bytes.len()) }
}
