//! Several machines on one network: namespaces with a leg each on a bridge.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};

use crate::cluster::Cluster;
use crate::kubectl::text;

/// A network that machines are on. It goes with its value.
pub struct Switch {
    /// A process that does nothing but hold the namespace.
    holder: Child,
}

impl Switch {
    /// One without machines.
    pub fn new() -> anyhow::Result<Self> {
        let script =
            "ip link add switch type bridge && ip link set switch up && echo ready && exec sleep infinity";
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("run unshare")?;
        let mut output = holder.stdout.take().context("the holder has no output")?;
        let mut ready = [0; 6];
        std::io::Read::read_exact(&mut output, &mut ready).context("make the network")?;
        Ok(Switch { holder })
    }

    /// A machine at [`Switch::address`]; nothing runs on it yet.
    pub fn machine(&self, number: u8) -> anyhow::Result<Cluster> {
        let machine = Cluster::namespaces()?;
        let (port, inside) = (format!("port{number}"), machine.holder().to_string());
        let run = |holder: u32, arguments: &[&str]| -> anyhow::Result<()> {
            let mut command = Command::new("nsenter");
            command.args(["--net", "--target", &holder.to_string(), "ip"]).args(arguments);
            let output = command.output().context("run ip")?;
            ensure!(output.status.success(), "ip {arguments:?} failed: {}", text(&output));
            Ok(())
        };
        let switch = self.holder.id();
        run(switch, &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &inside])?;
        run(switch, &["link", "set", &port, "master", "switch", "up"])?;
        let address = format!("{}/24", Self::address(number));
        run(machine.holder(), &["address", "add", &address, "dev", "eth0"])?;
        run(machine.holder(), &["link", "set", "eth0", "up"])?;
        run(machine.holder(), &["route", "add", "default", "dev", "eth0"])?;
        Ok(machine)
    }

    /// The address of a machine.
    pub fn address(number: u8) -> String {
        format!("172.30.0.{number}")
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // It holds nothing but a namespace.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
