//! Several machines on one network: namespaces with a leg each on a bridge.

use std::path::Path;

use anyhow::{Context, ensure};

use crate::cluster::Cluster;
use crate::kubectl::text;
use crate::namespaces::Namespaces;

/// A network that machines are on. It goes with its value.
pub struct Switch(Namespaces);

impl Switch {
    /// One without machines.
    pub fn new() -> anyhow::Result<Self> {
        let script = "ip link add switch type bridge; ip link set switch up";
        Namespaces::new(script, Path::new("/")).map(Switch)
    }

    /// A machine at [`Switch::address`]; nothing runs on it yet.
    pub fn machine(&self, number: u8) -> anyhow::Result<Cluster> {
        let machine = Cluster::namespaces()?;
        let (port, inside) = (format!("port{number}"), machine.holder().to_string());
        let run = |namespaces: &Namespaces, arguments: &[&str]| -> anyhow::Result<()> {
            let output = namespaces.program("ip").args(arguments).output().context("run ip")?;
            ensure!(output.status.success(), "ip {arguments:?} failed: {}", text(&output));
            Ok(())
        };
        run(&self.0, &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &inside])?;
        run(&self.0, &["link", "set", &port, "master", "switch", "up"])?;
        let address = format!("{}/24", Self::address(number));
        run(machine.own_namespaces(), &["address", "add", &address, "dev", "eth0"])?;
        run(machine.own_namespaces(), &["link", "set", "eth0", "up"])?;
        run(machine.own_namespaces(), &["route", "add", "default", "dev", "eth0"])?;
        Ok(machine)
    }

    /// The address of a machine.
    pub fn address(number: u8) -> String {
        format!("172.30.0.{number}")
    }
}
