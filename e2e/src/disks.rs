//! Disks whose power can be cut.

use std::path::{Path, PathBuf};

use crate::namespaces::Namespaces;
use crate::servers::run;

/// Images of disks, one for each machine. They lie on a file system of their own in memory: while that is frozen, no image
/// changes, however much is being written, and what the kernel has not brought to an image by then is not there.
pub(crate) struct Disks {
    namespaces: Namespaces,
    dir: PathBuf,
}

/// A moment at which no image changes. It ends with the value.
pub(crate) struct Moment<'a>(&'a Disks);

const MAKE: &str = r#"
mount -t tmpfs -o size=6g disks "$0"
truncate -s 3g "$0/all"
mkfs.ext4 -q -F -O ^has_journal "$0/all"
mkdir "$0/images" "$0/copies"
mount -o loop "$0/all" "$0/images""#;

impl Disks {
    /// None, in an empty folder.
    pub(crate) fn new(dir: &Path) -> anyhow::Result<Self> {
        Ok(Disks { namespaces: Namespaces::new(MAKE, dir)?, dir: dir.to_owned() })
    }

    fn inside(&self, folder: &str, number: usize) -> PathBuf {
        self.dir.join(folder).join(format!("{number}"))
    }

    /// The image of a machine's disk, as any machine may mount it.
    pub(crate) fn image(&self, number: usize) -> PathBuf {
        self.namespaces.path(&self.inside("images", number))
    }

    /// A disk of 512 MiB with an empty file system.
    pub(crate) fn make(&self, number: usize) -> anyhow::Result<()> {
        let image = self.inside("images", number);
        run(self.namespaces.program("truncate").args(["-s", "512m"]).arg(&image))?;
        // All is made at once, so that the kernel has nothing of its own to write later.
        let now = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        run(self.namespaces.program("mkfs.ext4").args(now).arg(&image)).map(drop)
    }

    /// From now on no image changes.
    pub(crate) fn freeze(&self) -> anyhow::Result<Moment<'_>> {
        run(self.namespaces.program("fsfreeze").arg("--freeze").arg(self.dir.join("images")))?;
        Ok(Moment(self))
    }

    /// Puts the disk as it was at a moment in the place of a machine's.
    pub(crate) fn go_back(&self, number: usize) -> anyhow::Result<()> {
        let (copy, image) = (self.inside("copies", number), self.inside("images", number));
        // Whoever has the old one mounted still sees the old one.
        run(self.namespaces.program("rm").arg(&image))?;
        run(self.namespaces.program("mv").arg(copy).arg(image)).map(drop)
    }
}

impl Moment<'_> {
    /// Remembers a machine's disk as it is now.
    pub(crate) fn remember(&self, number: usize) -> anyhow::Result<()> {
        let (image, copy) = (self.0.inside("images", number), self.0.inside("copies", number));
        run(self.0.namespaces.program("cp").arg("--sparse=always").arg(image).arg(copy)).map(drop)
    }
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        if let Err(error) =
            run(self.0.namespaces.program("fsfreeze").arg("--unfreeze").arg(self.0.dir.join("images")))
        {
            eprintln!("the disks stay frozen: {error:#}");
        }
    }
}
