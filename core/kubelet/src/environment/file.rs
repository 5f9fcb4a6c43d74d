//! Values from files that containers of the pod wrote into its volumes: lines `NAME='value'`, a subset of what shells read.

use std::io::{self, Read as _};
use std::path::Path;

use crate::beneath;

/// A larger file is none of variables.
const LONGEST: u64 = 1 << 20;

/// Why a file has no value for a variable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It is not there, or cannot be read.
    #[error("couldn't open env file {path:?}: {source}")]
    Open {
        /// Below the volume.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("couldn't parse env file {path:?}: {reason}")]
    Content {
        /// Below the volume.
        path: String,
        /// What is wrong; never its content, which may be secret.
        reason: String,
    },
}

/// A line that is no assignment.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    line: usize,
    reason: &'static str,
}

/// (pure) The value that a name has at the file's end.
fn value(text: &str, name: &str) -> Result<Option<String>, Fault> {
    let mut found = None;
    let mut rest = text;
    let line_of = |rest: &str| text[..text.len() - rest.len()].matches('\n').count() + 1;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(found);
        }
        if rest.starts_with('#') {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
            continue;
        }
        let fault = |reason| Fault { line: line_of(rest), reason };
        let line = rest.split('\n').next().unwrap_or_default();
        let (key, _) = line.split_once('=').ok_or(fault("it is no assignment"))?;
        let after = rest[key.len() + 1..].trim_start_matches([' ', '\t']);
        let quoted = after.strip_prefix('\'').ok_or(fault("the value is not in single quotes"))?;
        let (content, after) = quoted.split_once('\'').ok_or(fault("the quote does not end"))?;
        let (tail, next) = after.split_once('\n').unwrap_or((after, ""));
        if !tail.trim().is_empty() {
            return Err(fault("something follows the value"));
        }
        if key.trim() == name {
            found = Some(content.to_owned());
        }
        rest = next;
    }
}

/// The value of a name in a file of a volume; `None` when the file or the name is not there. Blocks.
pub(crate) fn read(volume: &Path, path: &str, name: &str) -> Result<Option<String>, FileError> {
    let open = |source| FileError::Open { path: path.to_owned(), source };
    let content = |reason: String| FileError::Content { path: path.to_owned(), reason };
    let file = match beneath::open(volume, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(open)?,
    };
    if !file.metadata().map_err(open)?.is_file() {
        return Err(content("it is no file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(open)?;
    if bytes.len() as u64 > LONGEST {
        return Err(content(format!("it is larger than {LONGEST} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| content("it is no text".to_owned()))?;
    value(&text, name).map_err(|fault| content(format!("line {}: {}", fault.line, fault.reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_single_quotes_as_they_are() {
        let text = "# comment\n\n  A = 'a#b $C' \nMULTI='one\ntwo'\nA='last'";
        assert_eq!(value(text, "A"), Ok(Some("last".to_owned())));
        assert_eq!(value(text, "MULTI"), Ok(Some("one\ntwo".to_owned())));
        assert_eq!(value(text, "B"), Ok(None));
        assert_eq!(value("A=''", "A"), Ok(Some(String::new())));
    }

    #[test]
    fn what_a_shell_would_read_otherwise_is_refused_with_its_line() {
        let fault = |text: &str| value(text, "A").unwrap_err();
        assert_eq!(
            fault("B='x\ny'\nA=plain"),
            Fault { line: 3, reason: "the value is not in single quotes" }
        );
        assert_eq!(fault("A=\"x\"").reason, "the value is not in single quotes");
        assert_eq!(fault("A='x''y'").reason, "something follows the value");
        assert_eq!(fault("A='x'$B").reason, "something follows the value");
        assert_eq!(fault("A='x").reason, "the quote does not end");
        assert_eq!(fault("export").reason, "it is no assignment");
    }

    #[test]
    fn no_link_leads_out_of_the_volume() {
        let folder = std::env::temp_dir().join(format!("keelson-env-file-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(folder.join("v")).unwrap();
        std::fs::write(folder.join("secret"), "A='x'").unwrap();
        std::fs::write(folder.join("v/own"), "A='y'").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("v/out")).unwrap();
        std::os::unix::fs::symlink("own", folder.join("v/in")).unwrap();
        let volume = folder.join("v");
        assert_eq!(read(&volume, "in", "A").unwrap().as_deref(), Some("y"));
        assert!(matches!(read(&volume, "out", "A"), Err(FileError::Open { .. })));
        assert!(matches!(read(&volume, "none", "A"), Ok(None)));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
