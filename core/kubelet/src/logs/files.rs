//! The files of one log, and where its last lines begin.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::line::Line;
use super::{LogError, io_error};

const BLOCK: u64 = 64 << 10;
/// A log that is rotated as often as this while it is opened is not to be read.
const TRIES: u32 = 5;

/// The log's files, the oldest first: `N.log.TIME` were rotated away from `N.log`. Compressed ones are left out.
fn all(path: &Path) -> Result<Vec<PathBuf>, LogError> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("list", folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", folder))?.file_name();
        let suffix = entry.to_str().and_then(|entry| entry.strip_prefix(name)?.strip_prefix('.'));
        if suffix
            .is_some_and(|suffix| suffix.starts_with(|c: char| c.is_ascii_digit()) && !suffix.contains('.'))
        {
            found.push(folder.join(entry));
        }
    }
    found.sort();
    if path.exists() {
        found.push(path.to_owned());
    }
    Ok(found)
}

/// Where the file's last `wanted` lines begin, and how many it has of them. Parts of a line are one line; the last line of the
/// `newest` file is one although it has no end.
fn tail(file: &File, wanted: u64, newest: bool) -> io::Result<(u64, u64)> {
    let length = file.metadata()?.len();
    if wanted == 0 {
        return Ok((length, 0));
    }
    let mut seen = 0;
    let mut is_last = newest;
    // From here to the file's end everything has been counted.
    let mut counted = length;
    let mut start = length;
    let mut bytes: Vec<u8> = Vec::new();
    while start > 0 {
        let size = start.min(BLOCK);
        start -= size;
        let mut block = vec![0; usize::try_from(size).unwrap_or_default()];
        file.read_exact_at(&mut block, start)?;
        block.extend_from_slice(&bytes);
        bytes = block;
        // Whole lines only: the first one may begin before the block.
        loop {
            let end = bytes.len() - usize::from(bytes.last() == Some(&b'\n'));
            let begin = bytes[..end].iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
            let begin = match begin {
                Some(begin) => begin,
                None if start == 0 => 0,
                None => break,
            };
            let complete = end < bytes.len();
            let is_end = is_last || Line::parse(&bytes[begin..end]).is_none_or(|line| !line.partial);
            is_last &= !complete;
            if complete && is_end {
                if seen == wanted {
                    return Ok((counted, seen));
                }
                seen += 1;
            }
            bytes.truncate(begin);
            counted = start + begin as u64;
            if begin == 0 {
                break;
            }
        }
    }
    Ok((0, seen))
}

/// A file of the log, from an offset on.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) offset: u64,
}

/// The files that are there, opened. Rotating gives them other names: what is open stays what it is.
fn opened(path: &Path) -> Result<Vec<(PathBuf, File)>, LogError> {
    let mut tries = 1;
    loop {
        let open = |path: PathBuf| match File::open(&path) {
            Ok(file) => Ok((path, file)),
            Err(source) => Err((path, source)),
        };
        match all(path)?.into_iter().map(open).collect() {
            Ok(files) => return Ok(files),
            // Rotated between the two: it is there under another name.
            Err((_, error)) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
            Err((path, error)) => return Err(io_error("open", &path)(error)),
        }
    }
}

fn last(path: &Path, lines: Option<u64>) -> Result<Vec<Part>, LogError> {
    let files = opened(path)?;
    let Some(mut wanted) = lines else {
        return Ok(files.into_iter().map(|(path, file)| Part { path, file, offset: 0 }).collect());
    };
    let mut found = Vec::new();
    for (path, file) in files.into_iter().rev() {
        let (offset, seen) = tail(&file, wanted, found.is_empty()).map_err(io_error("read", &path))?;
        wanted -= seen;
        found.push(Part { path, file, offset });
        if wanted == 0 {
            break;
        }
    }
    found.reverse();
    Ok(found)
}

/// The files to be read, each from its offset on: all of the log, or its last lines.
pub(super) async fn from(path: &Path, lines: Option<u64>) -> Result<Vec<Part>, LogError> {
    let owned = path.to_owned();
    let found = tokio::task::spawn_blocking(move || last(&owned, lines)).await;
    found.map_err(|error| io_error("read", path)(io::Error::other(error)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("keelson-log-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("0.log"), text).unwrap();
        folder.join("0.log")
    }

    #[test]
    fn the_last_lines_are_found_however_long_they_are() {
        let long = "x".repeat(100_000);
        let lines =
            ["T stdout F a\n".to_owned(), format!("T stdout F {long}\n"), "T stdout F c\n".to_owned()];
        let path = file("tail", &lines.concat());
        let opened = File::open(&path).unwrap();
        let total = lines.concat().len() as u64;
        let (first, second) = (lines[0].len() as u64, lines[1].len() as u64);
        for (wanted, expected) in
            [(0, (total, 0)), (1, (first + second, 1)), (2, (first, 2)), (3, (0, 3)), (9, (0, 3))]
        {
            assert_eq!(tail(&opened, wanted, true).unwrap(), expected, "{wanted}");
        }
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn parts_of_a_line_are_one_line() {
        let text = "T stdout F a\nT stdout P b\nT stdout P b\nT stdout F b\nT stdout P incompl";
        let path = file("parts", text);
        let opened = File::open(&path).unwrap();
        assert_eq!(tail(&opened, 1, true).unwrap(), (13, 1));
        // One without an end is a line where nothing follows it.
        fs::write(&path, "T stdout F a\nT stdout F b\nT stdout P c\nT stdout P c\n").unwrap();
        let opened = File::open(&path).unwrap();
        assert_eq!(tail(&opened, 1, true).unwrap(), (26, 1));
        assert_eq!(tail(&opened, 2, true).unwrap(), (13, 2));
        assert_eq!(tail(&opened, 1, false).unwrap(), (13, 1));
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn rotated_files_belong_to_the_log() {
        let path = file("rotated", "T stdout F c\n");
        let other = |suffix: &str| path.with_file_name(format!("0.log.{suffix}"));
        fs::write(other("20260101-000000"), "T stdout F a\nT stdout F b\n").unwrap();
        fs::write(other("20250101-000000.gz"), "").unwrap();
        fs::write(path.with_file_name("1.log"), "T stdout F z\n").unwrap();
        let expected = vec![(other("20260101-000000"), 13), (path.clone(), 0)];
        let places = |lines| {
            let parts = last(&path, lines).unwrap().into_iter();
            parts.map(|part| (part.path, part.offset)).collect::<Vec<_>>()
        };
        assert_eq!(places(Some(2)), expected);
        assert_eq!(places(Some(1)), [(path.clone(), 0)]);
        assert_eq!(last(&path, None).unwrap().len(), 2);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert!(last(&path, Some(1)).unwrap().is_empty());
    }

    #[test]
    fn what_was_found_is_read_though_it_is_rotated_meanwhile() {
        use std::io::Read as _;

        let path = file("meanwhile", "T stdout F a\n");
        let mut parts = last(&path, Some(1)).unwrap();
        fs::rename(&path, path.with_file_name("0.log.20260101-000000")).unwrap();
        fs::write(&path, "T stdout F b\n").unwrap();
        let mut text = String::new();
        parts[0].file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "T stdout F a\n");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
