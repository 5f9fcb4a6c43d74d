//! A container's output in the CRI log format: `TIME STREAM TAG LINE`, tag `P` for a line without its end, `F` for the end of one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

/// A longer line is split into partial lines, as containerd does.
const MAX_LINE: usize = 16 * 1024;

/// Which of the two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

impl Output {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts a byte stream into log lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Appends to `out` the log lines that `bytes` complete.
    pub(super) fn push(&mut self, bytes: &[u8], output: Output, time: &str, out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = MAX_LINE - self.pending.len();
            let window = &rest[..rest.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                self.pending.extend_from_slice(&window[..end]);
                rest = &rest[end + 1..];
                self.emit(output, time, "F", out);
            } else {
                self.pending.extend_from_slice(window);
                rest = &rest[window.len()..];
                if self.pending.len() >= MAX_LINE {
                    self.emit(output, time, "P", out);
                }
            }
        }
    }

    /// Appends what is left: without a line end, which its readers are not to see either.
    pub(super) fn finish(&mut self, output: Output, time: &str, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.emit(output, time, "P", out);
        }
    }

    fn emit(&mut self, output: Output, time: &str, tag: &str, out: &mut Vec<u8>) {
        for part in [time, " ", output.name(), " ", tag, " "] {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(&self.pending);
        out.push(b'\n');
        self.pending.clear();
    }
}

/// The log file of one container.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    stdout: Lines,
    stderr: Lines,
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

impl Log {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = open(&path)?;
        Ok(Self { path, file, stdout: Lines::default(), stderr: Lines::default() })
    }

    /// Goes on in a new file of the same name, after the old one was moved away.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }

    pub(super) fn write(&mut self, output: Output, bytes: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(bytes.len() + 64);
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string();
        match output {
            Output::Stdout => self.stdout.push(bytes, output, &time, &mut out),
            Output::Stderr => self.stderr.push(bytes, output, &time, &mut out),
        }
        self.file.write_all(&out)
    }

    pub(super) fn finish(&mut self) -> io::Result<()> {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string();
        let mut out = Vec::new();
        self.stdout.finish(Output::Stdout, &time, &mut out);
        self.stderr.finish(Output::Stderr, &time, &mut out);
        self.file.write_all(&out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_when_it_ends_and_the_rest_at_the_close_as_a_part_of_one() {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        lines.push(b"one\ntw", Output::Stdout, "T", &mut out);
        assert_eq!(out, b"T stdout F one\n");
        lines.push(b"o", Output::Stdout, "T", &mut out);
        lines.finish(Output::Stdout, "U", &mut out);
        assert_eq!(out, b"T stdout F one\nU stdout P two\n");
    }

    #[test]
    fn a_line_longer_than_the_limit_is_split_into_partial_lines() {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        let mut long = vec![b'x'; MAX_LINE + 1];
        long.push(b'\n');
        lines.push(&long, Output::Stderr, "T", &mut out);
        let text = String::from_utf8(out).unwrap();
        let tags: Vec<&str> = text.lines().map(|line| &line[..10]).collect();
        assert_eq!(tags, ["T stderr P", "T stderr F"]);
    }
}
