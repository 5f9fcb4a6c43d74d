//! Netlink attributes: a length, a kind and a payload, padded to four bytes, nested at will.

const HEADER: usize = 4;
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

pub(crate) const fn padded(length: usize) -> usize {
    (length + 3) & !3
}

/// Appends attributes to a message.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn put(&mut self, kind: u16, payload: &[u8]) {
        self.head(kind, payload.len());
        self.bytes.extend_from_slice(payload);
        self.bytes.resize(padded(self.bytes.len()), 0);
    }

    /// Numbers of nftables and conntrack are big-endian.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    pub(crate) fn put_u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    pub(crate) fn put_text(&mut self, kind: u16, text: &str) {
        self.head(kind, text.len() + 1);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.bytes.resize(padded(self.bytes.len()), 0);
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.head(kind | NESTED, 0);
        fill(self);
        self.close(start);
    }

    /// Opens a nest that [`Writer::close`] ends; answers its position.
    pub(crate) fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.head(kind | NESTED, 0);
        start
    }

    pub(crate) fn close(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn head(&mut self, kind: u16, payload: usize) {
        let length = u16::try_from(HEADER + payload).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
    }
}

/// Walks over attributes; ends at the first that does not fit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn find(self, kind: u16) -> Option<&'a [u8]> {
        let mut rest = self;
        Iterator::find(&mut rest, |(one, _)| *one == kind).map(|(_, payload)| payload)
    }

    pub(crate) fn nested(self, kind: u16) -> Reader<'a> {
        Reader::new(self.find(kind).unwrap_or_default())
    }

    pub(crate) fn text(self, kind: u16) -> Option<String> {
        let payload = self.find(kind)?;
        let end = payload.iter().position(|byte| *byte == 0).unwrap_or(payload.len());
        Some(String::from_utf8_lossy(&payload[..end]).into_owned())
    }

    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.find(kind)?.try_into().ok()?))
    }

    pub(crate) fn u64(self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.find(kind)?.try_into().ok()?))
    }

    pub(crate) fn u16(self, kind: u16) -> Option<u16> {
        Some(u16::from_be_bytes(self.find(kind)?.try_into().ok()?))
    }

    pub(crate) fn u8(self, kind: u16) -> Option<u8> {
        self.find(kind)?.first().copied()
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, _) = self.bytes.split_at_checked(HEADER)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & KIND;
        let payload = self.bytes.get(HEADER..length)?;
        self.bytes = self.bytes.get(padded(length)..).unwrap_or_default();
        Some((kind, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::default();
        writer.put_text(1, "name");
        writer.nest(2, |nest| {
            nest.put_u32(1, 7);
            nest.put(9, &[1, 2, 3]);
        });
        writer.put_u64(3, 1 << 40);
        assert_eq!(writer.bytes.len() % 4, 0);

        let reader = Reader::new(&writer.bytes);
        assert_eq!(reader.text(1).as_deref(), Some("name"));
        assert_eq!(reader.nested(2).u32(1), Some(7));
        assert_eq!(reader.nested(2).find(9), Some(&[1, 2, 3][..]));
        assert_eq!(reader.u64(3), Some(1 << 40));
        assert_eq!(reader.find(4), None);
    }

    #[test]
    fn a_length_beyond_the_buffer_ends_the_walk() {
        assert_eq!(Reader::new(&[200, 0, 1, 0, 5, 5]).count(), 0);
        assert_eq!(Reader::new(&[2, 0, 1, 0]).count(), 0);
        assert_eq!(Reader::new(&[1]).count(), 0);
    }
}
