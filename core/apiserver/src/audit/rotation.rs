//! A file that grows by whole lines and is put aside when it is large.
//!
//! Guarantees: a start goes on where the last one ended, however that was; a write that fails leaves no part of a line.
//! Assumption: nobody else writes the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use super::options::Rotation;

mod plan;

use plan::{Name, Plan};

/// The file.
pub(super) struct RotatingFile {
    path: PathBuf,
    rotation: Rotation,
    /// None after a failure: it is opened again for the next write.
    file: Option<File>,
    size: u64,
    /// Wakes what looks after the files that were put aside.
    tidy: SyncSender<()>,
}

impl RotatingFile {
    /// Opens the file, and the folders above it. What was put aside before is looked after.
    pub(super) fn open(path: PathBuf, rotation: Rotation) -> io::Result<Self> {
        let (tidy, woken) = sync_channel(1);
        let mut opened = RotatingFile { path, rotation, file: None, size: 0, tidy };
        opened.reopen()?;
        let (path, rotation) = (opened.path.clone(), opened.rotation.clone());
        std::thread::Builder::new()
            .name("audit-log-tidy".to_owned())
            .spawn(move || look_after(&path, &rotation, &woken))?;
        opened.wake();
        Ok(opened)
    }

    /// Appends whole lines.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let length = lines.len() as u64;
        if length > self.rotation.max_bytes {
            let text = format!("{length} bytes exceed the largest file of {} bytes", self.rotation.max_bytes);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        if self.size > 0 && self.size + length > self.rotation.max_bytes {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        if let Err(error) = file.write_all(lines) {
            // What was written of it is taken back; where that fails, the next write begins by mending it.
            if file.set_len(self.size).is_err() {
                self.file = None;
            }
            return Err(error);
        }
        self.size += length;
        Ok(())
    }

    /// Opens the file at its end, and ends a line there that was cut off.
    fn reopen(&mut self) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
        let mut size = file.metadata()?.len();
        if size > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                size += 1;
            }
        }
        (self.file, self.size) = (Some(file), size);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let name = Name::of(&self.path);
        let mut at = Timestamp::now();
        let mut aside = self.path.with_file_name(name.aside(at));
        while aside.exists() || self.path.with_file_name(format!("{}.gz", name.aside(at))).exists() {
            at += std::time::Duration::from_millis(1);
            aside = self.path.with_file_name(name.aside(at));
        }
        self.file = None;
        match fs::rename(&self.path, &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.reopen()?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // When it is awake already, it looks again.
        let _ = self.tidy.try_send(());
    }
}

/// Looks after the files that were put aside, until the log is closed.
fn look_after(path: &Path, rotation: &Rotation, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        if let Err(error) = tidy(path, rotation, Timestamp::now()) {
            tracing::warn!(%error, log = %path.display(), "old audit logs could not be looked after");
        }
    }
}

fn tidy(path: &Path, rotation: &Rotation, now: Timestamp) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string().ok());
    }
    let Plan { remove, compress } = Name::of(path).plan(&names, rotation, now);
    for name in remove {
        fs::remove_file(folder.join(name))?;
    }
    for name in compress {
        compress_file(folder, &name)?;
    }
    Ok(())
}

/// Compresses a file beside itself; it goes when that is done.
fn compress_file(folder: &Path, name: &str) -> io::Result<()> {
    let (plain, done) = (folder.join(name), folder.join(format!("{name}.gz")));
    let unfinished = folder.join(format!("{name}.gz.tmp"));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    io::copy(&mut File::open(&plain)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(unfinished, done)?;
    fs::remove_file(plain)
}

#[cfg(test)]
mod tests;
