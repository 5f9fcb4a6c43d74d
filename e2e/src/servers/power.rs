//! Loss of power.

use std::fs;

use anyhow::Context;
use nix::sys::signal::Signal;

use super::{Disk, Servers, run};
use crate::disks::Disks;

impl Servers {
    /// A network with room for servers whose power can be cut: their disks are ext4 file systems in images.
    pub fn network_with_power() -> anyhow::Result<Self> {
        let mut servers = Self::network()?;
        let dir = servers.dir.path().join("disks");
        fs::create_dir(&dir)?;
        servers.disk = Disk::Images(Disks::new(&dir)?);
        Ok(servers)
    }

    /// So many servers that are one cluster, each a voter, whose power can be cut.
    pub fn start_with_power(count: usize, flags: &[&str]) -> anyhow::Result<Self> {
        Self::network_with_power()?.with_servers(count, flags)
    }

    fn images(&self) -> anyhow::Result<&Disks> {
        match &self.disk {
            Disk::Images(disks) => Ok(disks),
            Disk::Memory | Disk::Shared => anyhow::bail!("the disks of these machines are no images"),
        }
    }

    /// Cuts the power of some machines at one and the same moment, whatever they are doing. Their disks are left with what
    /// the kernel had brought there by then. They are not started again.
    pub fn cut_power(&mut self, numbers: &[usize]) -> anyhow::Result<()> {
        let disks = self.images()?;
        // Nobody hears of their end.
        for number in numbers {
            self.connect(*number, false)?;
        }
        let moment = disks.freeze()?;
        for number in numbers {
            self.signal(*number, Signal::SIGKILL)?;
        }
        for number in numbers {
            moment.remember(*number)?;
        }
        drop(moment);
        for number in numbers {
            let folder = self.folder(*number);
            let mut server = self.members[*number].server.take().context("the server does not run")?;
            server.wait()?;
            run(self.on(*number, "umount").arg(&folder))?;
            let disks = self.images()?;
            disks.go_back(*number)?;
            run(self.on(*number, "mount").args(["-o", "loop"]).arg(disks.image(*number)).arg(&folder))?;
            self.connect(*number, true)?;
        }
        Ok(())
    }
}
