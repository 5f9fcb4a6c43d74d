//! Changes all files of a volume at once.
//!
//! ```text
//! VOLUME/NAME     -> ..data/NAME       what containers open
//! VOLUME/..data   -> ..2026_01_02_...  exchanged by one rename
//! VOLUME/..2026_01_02_.../NAME         the files
//! ```
//!
//! Guarantee: whoever resolves `..data` once sees the files of one payload only, also after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::error::{SetUpError, io_error};
use super::ownership::{self, Access, FsGroup};
use super::payload::Payload;

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// All files below a folder with their contents, by relative path.
fn contents(folder: &Path, prefix: &str, into: &mut BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if entry.file_type()?.is_dir() {
            contents(&entry.path(), &path, into)?;
        } else {
            into.insert(path, fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// Whether the folder holds exactly the payload's files.
fn holds(folder: &Path, payload: &Payload) -> bool {
    let mut found = BTreeMap::new();
    // What cannot be read is made anew.
    contents(folder, "", &mut found).is_ok()
        && found.len() == payload.files.len()
        && payload.files.iter().all(|(path, file)| found.get(path) == Some(&file.content))
}

fn write_files(folder: &Path, payload: &Payload) -> Result<(), SetUpError> {
    DirBuilder::new().mode(0o755).create(folder).map_err(io_error("create", folder))?;
    let open = Permissions::from_mode(0o755);
    fs::set_permissions(folder, open).map_err(io_error("set the mode of", folder))?;
    for (name, wanted) in &payload.files {
        let path = folder.join(name);
        if let Some(parent) = path.parent().filter(|parent| *parent != folder) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(io_error("create", parent))?;
        }
        let mut file = File::create_new(&path).map_err(io_error("create", &path))?;
        file.write_all(&wanted.content).map_err(io_error("write", &path))?;
        // Not subject to the process' mask.
        let mode = Permissions::from_mode(wanted.mode);
        file.set_permissions(mode).map_err(io_error("set the mode of", &path))?;
        if let Some(user) = wanted.user {
            ownership::give(&path, user)?;
        }
    }
    Ok(())
}

/// A name that no earlier folder has, which tells when it was made.
fn fresh(folder: &Path) -> PathBuf {
    let now = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let mut number: u32 = rand::random();
    loop {
        let path = folder.join(format!("{now}.{number:010}"));
        if !path.exists() {
            return path;
        }
        number = number.wrapping_add(1);
    }
}

/// The names that containers open, as links through `..data`; others go away, and so do leftovers.
fn links(folder: &Path, payload: &Payload, current: &Path) -> Result<(), SetUpError> {
    let wanted: BTreeSet<&str> =
        payload.files.keys().map(|path| path.split('/').next().unwrap_or_default()).collect();
    for name in &wanted {
        let (path, target) = (folder.join(name), Path::new(DATA).join(name));
        let found = absent_is_none(fs::read_link(&path)).map_err(io_error("look at", &path))?;
        if found.as_deref() != Some(&target) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path)(error));
                }
                Ok(()) | Err(_) => {}
            }
            symlink(&target, &path).map_err(io_error("create", &path))?;
        }
    }
    for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
        let entry = entry.map_err(io_error("list", folder))?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let is_folder = entry.file_type().map_err(io_error("look at", &path))?.is_dir();
        let removed = if name == DATA || wanted.contains(name.as_ref()) || path == current {
            Ok(())
        } else if is_folder {
            // Only folders of earlier payloads are ours.
            if name.starts_with("..") { fs::remove_dir_all(&path) } else { Ok(()) }
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(io_error("remove", &path))?;
    }
    Ok(())
}

/// Makes the folder hold exactly the payload. Says whether something changed.
pub(super) fn write(folder: &Path, payload: &Payload, group: Option<FsGroup>) -> Result<bool, SetUpError> {
    let data = folder.join(DATA);
    let before = absent_is_none(fs::read_link(&data)).map_err(io_error("look at", &data))?;
    let before = before.map(|target| folder.join(target)).filter(|path| path.parent() == Some(folder));
    if let Some(before) = before.filter(|before| holds(before, payload)) {
        links(folder, payload, &before)?;
        return Ok(false);
    }
    let current = fresh(folder);
    write_files(&current, payload)?;
    if let Some(group) = group {
        group.give(folder, Access::Read)?;
        group.apply(&current, Access::Read)?;
    }
    let next = folder.join(NEXT);
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove", &next)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let name = current.file_name().unwrap_or_default();
    symlink(name, &next).map_err(io_error("create", &next))?;
    fs::rename(&next, &data).map_err(io_error("exchange", &data))?;
    links(folder, payload, &current)?;
    Ok(true)
}

#[cfg(test)]
mod tests;
