//! Loop devices: files as block devices.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;

use crate::kubectl::text;

/// A file that is a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopDevice(PathBuf);

fn losetup(arguments: &[&str], file: &Path) -> anyhow::Result<String> {
    let output = Command::new("losetup").args(arguments).arg(file).output()?;
    ensure!(output.status.success(), "losetup {arguments:?} {}: {}", file.display(), text(&output));
    Ok(String::from_utf8(output.stdout)?)
}

impl LoopDevice {
    /// All devices that the file is.
    pub fn all(file: &Path) -> anyhow::Result<Vec<Self>> {
        let found = losetup(&["--noheadings", "--output", "NAME", "--list", "--associated"], file)?;
        Ok(found.split_whitespace().map(|path| LoopDevice(path.into())).collect())
    }

    /// The device that the file is; it becomes one where it is none.
    pub fn of(file: &Path) -> anyhow::Result<Self> {
        match Self::all(file)?.into_iter().next() {
            Some(known) => Ok(known),
            None => Ok(LoopDevice(losetup(&["--find", "--show"], file)?.trim().into())),
        }
    }

    /// Takes all devices away that the file is; those that are open go when they are closed.
    pub fn detach_all(file: &Path) -> anyhow::Result<()> {
        Self::all(file)?.iter().try_for_each(|device| losetup(&["--detach"], &device.0).map(drop))
    }

    /// Makes the device another file, unless it is one.
    pub fn attach(&self, file: &Path) -> anyhow::Result<bool> {
        let output = Command::new("losetup").arg(&self.0).arg(file).output()?;
        Ok(output.status.success())
    }

    /// It is as large as the file has become.
    pub fn grow(&self) -> anyhow::Result<()> {
        losetup(&["--set-capacity"], &self.0).map(drop)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Files in a folder that may be block devices: with the value they are none any more.
pub struct LoopDevices(PathBuf);

impl LoopDevices {
    /// Those of the files that are or will be in a folder.
    pub fn below(folder: PathBuf) -> Self {
        LoopDevices(folder)
    }
}

impl Drop for LoopDevices {
    fn drop(&mut self) {
        for file in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if let Err(error) = LoopDevice::detach_all(&file.path()) {
                eprintln!("{error:#}");
            }
        }
    }
}
