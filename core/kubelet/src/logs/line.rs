//! One line of a log file in the CRI format: `TIME STREAM TAGS CONTENT` (pure).

/// Which output of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// A line, without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// RFC 3339.
    pub(super) time: &'a str,
    pub(super) stream: Stream,
    /// Whether the next line of the same stream continues it.
    pub(super) partial: bool,
    pub(super) content: &'a [u8],
}

impl<'a> Line<'a> {
    /// `None` for what is no log line.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut parts = bytes.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let stream = match parts.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let partial = match parts.next()?.split(|byte| *byte == b':').next()? {
            b"P" => true,
            b"F" => false,
            _ => return None,
        };
        Some(Line { time, stream, partial, content: parts.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_time_a_stream_a_tag_and_content_with_spaces() {
        let line = Line::parse(b"2026-01-02T03:04:05.000000006Z stderr P a  b ").unwrap();
        let time = "2026-01-02T03:04:05.000000006Z";
        assert_eq!(line, Line { time, stream: Stream::Stderr, partial: true, content: b"a  b " });
        assert_eq!(Line::parse(b"T stdout F:x ").unwrap().content, b"");
        for bad in ["", "T stdout", "T other F x", "T stdout Q x", "T stdout F"] {
            assert_eq!(Line::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
