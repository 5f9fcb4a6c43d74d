//! Frames: eight bytes of head, then what the type asks for.

use bytes::{Buf as _, Bytes, BytesMut};

use super::SpdyError;
use super::headers::{HeaderReader, HeaderWriter};

/// Status of a reset: the stream is not taken.
pub(crate) const REFUSED_STREAM: u32 = 3;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const FIN: u8 = 1;
const HEAD: usize = 8;
/// Clients write pieces of 32 KiB.
const MAX_FRAME: usize = 1 << 20;

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A new stream, with its headers in lower case.
    Open { stream: u32, headers: Vec<(String, String)> },
    /// Bytes of a stream; `last` if it sends no more.
    Data { stream: u32, bytes: Bytes, last: bool },
    /// A stream is given up.
    Reset { stream: u32 },
    /// To be answered by the same.
    Ping { id: u32 },
    /// The client opens no more streams.
    GoAway,
    /// What changes nothing here: settings and windows.
    Other,
}

/// Takes frames out of bytes.
pub(crate) struct Decoder {
    buffer: BytesMut,
    headers: HeaderReader,
}

fn number(bytes: &[u8], at: usize, of: u16) -> Result<u32, SpdyError> {
    let number = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    number.map(|number| u32::from_be_bytes(*number)).ok_or(SpdyError::Short(of))
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Decoder { buffer: BytesMut::new(), headers: HeaderReader::new() }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        let Some(head) = self.buffer.first_chunk::<HEAD>() else { return Ok(None) };
        let [first, second, third, fourth, flags, high, middle, low] = *head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(SpdyError::Length(length));
        }
        if self.buffer.len() < HEAD + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        let payload = self.buffer.split_to(length).freeze();
        if first & 0x80 == 0 {
            let stream = u32::from_be_bytes([first, second, third, fourth]);
            return Ok(Some(Frame::Data { stream, bytes: payload, last: flags & FIN != 0 }));
        }
        let version = u16::from_be_bytes([first & 0x7f, second]);
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        let kind = u16::from_be_bytes([third, fourth]);
        let stream = |at| number(&payload, at, kind).map(|id| id & 0x7fff_ffff);
        let frame = match kind {
            SYN_STREAM => {
                let block = payload.get(10..).ok_or(SpdyError::Short(kind))?;
                Frame::Open { stream: stream(0)?, headers: self.headers.read(block)? }
            }
            RST_STREAM => Frame::Reset { stream: stream(0)? },
            PING => Frame::Ping { id: number(&payload, 0, kind)? },
            GO_AWAY => Frame::GoAway,
            _ => Frame::Other,
        };
        Ok(Some(frame))
    }
}

/// Makes frames.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    headers: HeaderWriter,
}

fn control(kind: u16, payload: &[&[u8]]) -> Bytes {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    let mut out = BytesMut::with_capacity(HEAD + length);
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u32::try_from(length).unwrap_or_default().to_be_bytes());
    payload.iter().for_each(|part| out.extend_from_slice(part));
    out.freeze()
}

impl Encoder {
    /// Takes a stream. Replies must be sent in the order in which they were made.
    pub(crate) fn reply(&mut self, stream: u32) -> Bytes {
        control(SYN_REPLY, &[&stream.to_be_bytes(), &self.headers.empty()])
    }

    /// Bytes of a stream, at most 16 MiB.
    pub(crate) fn data(stream: u32, bytes: &[u8], last: bool) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD + bytes.len());
        out.extend_from_slice(&stream.to_be_bytes());
        let length = u32::try_from(bytes.len()).unwrap_or_default();
        let flags = u32::from(if last { FIN } else { 0 }) << 24;
        out.extend_from_slice(&(flags | length).to_be_bytes());
        out.extend_from_slice(bytes);
        out.freeze()
    }

    /// Gives a stream up.
    pub(crate) fn reset(stream: u32, status: u32) -> Bytes {
        control(RST_STREAM, &[&stream.to_be_bytes(), &status.to_be_bytes()])
    }

    /// Answers a ping.
    pub(crate) fn ping(id: u32) -> Bytes {
        control(PING, &[&id.to_be_bytes()])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::headers::tests::block;
    use super::*;

    /// A client's new stream.
    pub(crate) fn open_stream(first: bool, stream: u32, kind: &str) -> Bytes {
        open_with(first, stream, &[("streamType", kind)])
    }

    /// The same, with further headers.
    pub(crate) fn open_with(first: bool, stream: u32, headers: &[(&str, &str)]) -> Bytes {
        control(SYN_STREAM, &[&stream.to_be_bytes(), &[0; 6], &block(first, headers)])
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<Frame>, SpdyError> {
        let mut decoder = Decoder::new();
        let mut found = Vec::new();
        // However the bytes are cut.
        for byte in bytes {
            decoder.push(&[*byte]);
            while let Some(frame) = decoder.next()? {
                found.push(frame);
            }
        }
        Ok(found)
    }

    #[test]
    fn frames_come_out_of_bytes_as_they_went_in() {
        let open = control(SYN_STREAM, &[&7_u32.to_be_bytes(), &[0; 6], &block(true, &[("port", "80")])]);
        let data = Encoder::data(7, b"abc", true);
        let bytes = [open, data, Encoder::reset(7, REFUSED_STREAM), Encoder::ping(9)].concat();
        let expected = [
            Frame::Open { stream: 7, headers: vec![("port".into(), "80".into())] },
            Frame::Data { stream: 7, bytes: Bytes::from_static(b"abc"), last: true },
            Frame::Reset { stream: 7 },
            Frame::Ping { id: 9 },
        ];
        assert_eq!(decoded(&bytes).unwrap(), expected);
    }

    #[test]
    fn what_is_not_spdy_is_refused() {
        assert_eq!(decoded(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(SpdyError::Version(2)));
        assert_eq!(decoded(&[0x80, 3, 0, 1, 0, 0, 0, 1, 0]), Err(SpdyError::Short(SYN_STREAM)));
        assert_eq!(decoded(b"GET / HTTP/1.1\r\n"), Err(SpdyError::Length(0x20_4854)));
    }
}
