//! What people see while a cluster starts or stops: one line per step, with the time it took.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A line for people from a process that goes on. Whoever reads may have gone, and a disk may be full: that is no reason to
/// stop, as it would be with `println!`.
pub(crate) fn say(text: impl Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// The same on the standard error.
pub(crate) fn complain(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints steps.
pub(crate) struct Progress {
    began: Instant,
    colour: bool,
}

impl Progress {
    /// Begins now.
    pub(crate) fn new() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Progress { began: Instant::now(), colour }
    }

    /// Since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// A line of its own.
    pub(crate) fn line(&self, text: impl Display) {
        say(text);
    }

    /// A step that is done, which began at `since`.
    pub(crate) fn done(&self, what: &str, detail: impl Display, since: Instant) {
        let mark = if self.colour { "\u{1b}[32m✓\u{1b}[0m" } else { "✓" };
        let took = since.elapsed().as_millis();
        let detail = detail.to_string();
        self.line(format_args!("  {mark} {what:<18} {detail:<58} {took:>5} ms"));
    }
}
