//! Header blocks: one zlib stream per direction over all blocks of a connection, with a dictionary that both know.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

use super::SpdyError;

/// The first part of the dictionary: each word behind its length, four bytes.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host \
    if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// The second part.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
    Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
    charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
/// The dictionary's checksum, by which a stream names it.
const CHECKSUM: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];
/// As far back as a compressed stream refers.
const WINDOW: usize = 32 << 10;
/// A block is no longer.
const MAX_BLOCK: usize = 64 << 10;

fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.split_whitespace() {
        let word = word.replace('_', " ");
        out.extend_from_slice(&u32::try_from(word.len()).unwrap_or_default().to_be_bytes());
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(TEXT.as_bytes());
    out
}

/// Reads the blocks of one connection, in their order.
pub(super) struct HeaderReader {
    inflate: Box<DecompressorOxide>,
    window: Vec<u8>,
    at: usize,
    begun: bool,
}

fn number(bytes: &mut &[u8]) -> Option<usize> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    usize::try_from(u32::from_be_bytes(*number)).ok()
}

fn text(bytes: &mut &[u8]) -> Option<String> {
    let length = number(bytes)?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

fn pairs(mut bytes: &[u8]) -> Option<Vec<(String, String)>> {
    let count = number(&mut bytes)?;
    let pairs = (0..count).map(|_| Some((text(&mut bytes)?.to_lowercase(), text(&mut bytes)?)));
    pairs.collect()
}

impl HeaderReader {
    pub(super) fn new() -> Self {
        let mut window = dictionary();
        let at = window.len();
        window.resize(WINDOW, 0);
        HeaderReader { inflate: Box::default(), window, at, begun: false }
    }

    /// The names, in lower case, and values of a block.
    pub(super) fn read(&mut self, mut block: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        if !self.begun {
            // Deflate, with the dictionary named.
            let (head, rest) = block.split_first_chunk::<6>().ok_or(SpdyError::Headers)?;
            if head[0] & 0x0f != 8 || head[1] & 0x20 == 0 || head[2..] != CHECKSUM {
                return Err(SpdyError::Headers);
            }
            self.begun = true;
            block = rest;
        }
        let mut out = Vec::new();
        loop {
            let flags = inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
            let (status, read, written) =
                decompress(&mut self.inflate, block, &mut self.window, self.at, flags);
            block = &block[read..];
            out.extend_from_slice(&self.window[self.at..self.at + written]);
            self.at = (self.at + written) % WINDOW;
            match status {
                TINFLStatus::HasMoreOutput if out.len() <= MAX_BLOCK => {}
                TINFLStatus::NeedsMoreInput if out.len() <= MAX_BLOCK => break,
                _ => return Err(SpdyError::Headers),
            }
        }
        pairs(&out).ok_or(SpdyError::Headers)
    }
}

/// Writes the blocks of one connection: stored, not compressed, since they are short.
#[derive(Debug, Default)]
pub(super) struct HeaderWriter {
    begun: bool,
}

impl HeaderWriter {
    /// A block without headers, which is all that a reply needs.
    pub(super) fn empty(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.begun {
            // Deflate with a window of 32 KiB, without a dictionary.
            out.extend_from_slice(&[0x78, 0x01]);
            self.begun = true;
        }
        // A stored block of four bytes: no headers.
        out.extend_from_slice(&[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
        // An empty one, at which readers hand out what they have.
        out.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        out
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A block as a client writes it, stored.
    pub(crate) fn block(first: bool, pairs: &[(&str, &str)]) -> Vec<u8> {
        let length = |text: &str| u32::try_from(text.len()).unwrap().to_be_bytes();
        let mut plain = u32::try_from(pairs.len()).unwrap().to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&length(text));
            plain.extend_from_slice(text.as_bytes());
        }
        let size = u16::try_from(plain.len()).unwrap();
        let mut out = if first { vec![0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2] } else { Vec::new() };
        out.push(0);
        out.extend_from_slice(&size.to_le_bytes());
        out.extend_from_slice(&(!size).to_le_bytes());
        out.extend_from_slice(&plain);
        out
    }

    #[test]
    fn the_dictionary_is_the_one_that_streams_name() {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16 | a).to_be_bytes(), CHECKSUM);
    }

    #[test]
    fn blocks_are_read_in_their_order() {
        let mut reader = HeaderReader::new();
        let first = reader.read(&block(true, &[("StreamType", "error"), ("port", "80")])).unwrap();
        assert_eq!(first, [("streamtype".into(), "error".into()), ("port".into(), "80".to_owned())]);
        assert_eq!(reader.read(&block(false, &[("a", "b")])).unwrap(), [("a".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn replies_are_one_stream_in_which_each_is_flushed() {
        let mut writer = HeaderWriter::default();
        let bytes = [writer.empty(), writer.empty()].concat();
        let mut inflate = DecompressorOxide::new();
        let flags = inflate_flags::TINFL_FLAG_HAS_MORE_INPUT | inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER;
        let mut out = vec![1; WINDOW];
        let (status, read, written) = decompress(&mut inflate, &bytes, &mut out, 0, flags);
        assert_eq!((status, read, written), (TINFLStatus::NeedsMoreInput, bytes.len(), 8));
        assert_eq!(out[..8], [0; 8]);
        assert!(bytes.ends_with(&[0, 0, 0xff, 0xff]));
    }

    #[test]
    fn malformed_blocks_are_refused() {
        for bad in [&[][..], &[0x78, 0x9c, 0, 0, 0, 0], &[0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2, 0xff]] {
            assert_eq!(HeaderReader::new().read(bad), Err(SpdyError::Headers));
        }
        let mut short = block(true, &[("a", "b")]);
        short[14] = 9;
        assert_eq!(HeaderReader::new().read(&short), Err(SpdyError::Headers));
    }
}
