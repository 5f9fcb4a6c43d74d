//! What of a log's lines is sent (pure).

use jiff::Timestamp;

use super::line::{Line, Stream};
use super::options::Options;

/// Turns lines of a log file into output.
#[derive(Debug)]
pub(super) struct Printer {
    timestamps: bool,
    since: Option<Timestamp>,
    stream: Option<Stream>,
    left: Option<u64>,
    /// Whether the output is in the middle of a line.
    inside: bool,
}

impl Printer {
    pub(super) fn new(options: &Options, now: Timestamp) -> Self {
        Printer {
            timestamps: options.timestamps,
            since: options.since(now),
            stream: options.stream,
            left: options.limit_bytes,
            inside: false,
        }
    }

    fn is_wanted(&self, line: &Line<'_>) -> bool {
        // A line whose time cannot be read is not old.
        let is_old = |since: Timestamp| line.time.parse().is_ok_and(|time: Timestamp| time < since);
        self.stream.is_none_or(|stream| stream == line.stream) && !self.since.is_some_and(is_old)
    }

    /// Appends what the line gives. Says whether more can come.
    pub(super) fn print(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(line) = Line::parse(line) else { return self.left != Some(0) };
        if !self.is_wanted(&line) {
            return self.left != Some(0);
        }
        let start = out.len();
        if self.timestamps && !self.inside {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.content);
        if !line.partial {
            out.push(b'\n');
        }
        self.inside = line.partial;
        if let Some(left) = &mut self.left {
            let added = out.len() - start;
            let kept = added.min(usize::try_from(*left).unwrap_or(usize::MAX));
            out.truncate(start + kept);
            *left -= kept as u64;
        }
        self.left != Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(parameters: &[(&str, &str)], lines: &[&str]) -> String {
        let options = Options::parse(parameters.iter().copied()).unwrap();
        let mut printer = Printer::new(&options, Timestamp::from_second(100).unwrap());
        let mut out = Vec::new();
        for line in lines {
            if !printer.print(line.as_bytes(), &mut out) {
                break;
            }
        }
        String::from_utf8(out).unwrap()
    }

    const LINES: [&str; 4] = [
        "1970-01-01T00:00:10Z stdout F one",
        "1970-01-01T00:00:50Z stdout P tw",
        "1970-01-01T00:00:51Z stdout F o",
        "1970-01-01T00:00:95Z stderr F three",
    ];

    #[test]
    fn partial_lines_are_joined() {
        assert_eq!(printed(&[], &LINES), "one\ntwo\nthree\n");
        let expected = "1970-01-01T00:00:10Z one\n1970-01-01T00:00:50Z two\n1970-01-01T00:00:95Z three\n";
        assert_eq!(printed(&[("timestamps", "true")], &LINES), expected);
    }

    #[test]
    fn lines_are_chosen_by_time_and_stream_and_cut_at_the_limit() {
        assert_eq!(printed(&[("sinceSeconds", "60")], &LINES), "two\nthree\n");
        assert_eq!(printed(&[("stream", "Stderr")], &LINES), "three\n");
        assert_eq!(printed(&[("limitBytes", "6")], &LINES), "one\ntw");
        assert_eq!(printed(&[("limitBytes", "4")], &LINES), "one\n");
    }

    #[test]
    fn what_is_no_line_is_left_out() {
        assert_eq!(printed(&[], &["rubbish", LINES[0]]), "one\n");
    }
}
