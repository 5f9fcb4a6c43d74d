//! The last words of containers: a file that they wrote, or the end of their log.

use std::io::SeekFrom;
use std::path::Path;

use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::pod::Member;
use crate::runtime_view::Instance;

/// As much of the file is taken.
const MAX_FILE: u64 = 4096;
/// As much of the log is taken.
const MAX_LOG: usize = 2048;
const MAX_LINES: usize = 80;
/// Lines of the log have a head of time and stream.
const LOG_WINDOW: u64 = 16 << 10;

async fn tail(path: &Path, limit: u64) -> std::io::Result<String> {
    let mut file = File::open(path).await?;
    let length = file.metadata().await?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit))).await?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a log, without their heads `TIME STREAM F|P `.
fn last_lines(text: &str) -> String {
    let mut out = String::new();
    let lines: Vec<&str> = text.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(MAX_LINES)) {
        let mut parts = line.splitn(4, ' ');
        // The first line may have lost its beginning.
        if let (Some(_), Some("stdout" | "stderr"), Some(tag), Some(text)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        {
            out.push_str(text);
            if tag.starts_with('F') {
                out.push('\n');
            }
        }
    }
    let mut start = out.len().saturating_sub(MAX_LOG);
    while !out.is_char_boundary(start) {
        start += 1;
    }
    out.split_off(start)
}

/// What an instance that has ended left to say; empty when it said nothing.
pub(crate) async fn read(instance: &Instance, member: Option<&Member>) -> String {
    let words = match &instance.termination_log {
        Some(path) => match tail(Path::new(path), MAX_FILE).await {
            Ok(words) => words,
            // Of a pod whose folder is gone already.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => format!("Error on reading termination log {path}: {error}"),
        },
        None => String::new(),
    };
    let policy = member.and_then(|member| member.container.termination_message_policy.as_deref());
    let from_log = policy == Some("FallbackToLogsOnError") && instance.exit_code() != Some(0);
    if !words.is_empty() || !from_log || instance.log_path.is_empty() {
        return words;
    }
    match tail(Path::new(&instance.log_path), LOG_WINDOW).await {
        Ok(text) => last_lines(&text),
        Err(error) => format!("Error reading termination message from logs: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_what_was_said_without_heads() {
        let log = "cut off\n2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr P tw\n2026-01-01T00:00:00Z stderr F o\n";
        assert_eq!(last_lines(log), "one\ntwo\n");
        let long: String = (0..500).map(|_| "t stdout F 0123456789\n").collect();
        assert_eq!(last_lines(&long).lines().count(), MAX_LINES);
    }
}
