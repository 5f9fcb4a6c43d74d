//! SPDY/3.1, as far as port forwarding needs it, as the server (pure): bytes in, frames out, and back.
//!
//! - `headers`: compressed header blocks; `frame`: the frames
//!
//! Flow control is left out: the clients of this protocol, all of one library, do not have it either.

mod frame;
mod headers;

pub(super) use frame::{Decoder, Encoder, Frame, REFUSED_STREAM};

/// What a client sent is not SPDY/3.1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SpdyError {
    /// The version of a frame.
    #[error("SPDY version {0} is not supported")]
    Version(u16),
    /// A frame is longer than any client sends.
    #[error("a SPDY frame of {0} bytes is too long")]
    Length(usize),
    /// A frame is too short for its type.
    #[error("a SPDY frame of type {0} is too short")]
    Short(u16),
    /// A header block cannot be decompressed, or its lengths contradict each other.
    #[error("a SPDY header block is malformed")]
    Headers,
}
