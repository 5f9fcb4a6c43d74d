//! What a machine must have to run a cluster: looked at first, all faults told at once, before anything is changed.
//!
//! [`Machine::look`] reads (IO), [`faults`] decides (pure).

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ipnet::Ipv4Net;

use crate::progress::Progress;

pub(crate) mod ports;

/// A fault, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What is missing.
    pub(crate) what: String,
    /// What to do.
    pub(crate) remedy: String,
}

impl Fault {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Fault { what: what.into(), remedy: remedy.into() }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.what, self.remedy)
    }
}

/// What the machine is like.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Whether this process may administer it.
    root: bool,
    /// Such as `6.18.0`.
    pub(crate) kernel: String,
    /// File systems that the kernel knows.
    filesystems: BTreeSet<String>,
    /// Kinds of namespaces that the kernel knows.
    namespaces: BTreeSet<String>,
    /// Control group controllers that can be used.
    controllers: BTreeSet<String>,
    /// How control groups are mounted.
    pub(crate) cgroups: &'static str,
    /// What did not work when a network was tried in a namespace of its own.
    network: Result<(), String>,
    /// The type of the file system that the data folder is or will be on.
    data_filesystem: DataFolder,
    /// The node's own ranges of addresses, but for the default route.
    routes: Vec<(Ipv4Net, String)>,
}

/// Where the data folder lies.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DataFolder {
    Usable,
    /// An overlay cannot lie on an overlay.
    Overlay,
    /// Its own fault.
    Refused(String),
}

/// What a cluster wants of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) data_dir: &'a Path,
    /// Ports it must have, with what they are for and the flag that changes them.
    pub(crate) ports: Vec<(SocketAddr, &'static str, &'static str)>,
    /// Ranges it must have for itself.
    pub(crate) ranges: Vec<(Ipv4Net, &'static str)>,
    /// Interfaces that are its own.
    pub(crate) bridge: Option<String>,
}

/// A Unix socket's path has at most this many bytes.
const SOCKET_PATH: usize = 107;
/// What must be able to lie below the data folder.
const LONGEST_SOCKET: &str = "/run/cri.sock";

impl Machine {
    /// Looks at this machine. Nothing of it is changed.
    pub(crate) fn look(data_dir: &Path) -> Self {
        let root = nix::unistd::geteuid().is_root();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let (cgroups, controllers) = cgroups();
        Machine {
            root,
            kernel,
            filesystems: filesystems(),
            namespaces: names_in("/proc/self/ns"),
            controllers,
            cgroups,
            // Without the right to do so it would say nothing about the kernel.
            network: if root { network() } else { Ok(()) },
            data_filesystem: data_folder(data_dir),
            routes: routes(&fs::read_to_string("/proc/net/route").unwrap_or_default()),
        }
    }

    /// The same, but for routes that are the cluster's own.
    pub(crate) fn without(mut self, own: &[keelson_network::NodeRoute]) -> Self {
        self.routes.retain(|(route, _)| !own.iter().any(|own| own.pods == *route));
        self
    }

    /// Whether a range is used by an interface other than `own`.
    pub(crate) fn uses(&self, range: Ipv4Net, own: Option<&str>) -> Option<&(Ipv4Net, String)> {
        self.routes.iter().find(|(route, interface)| {
            Some(interface.as_str()) != own && (route.contains(&range) || range.contains(route))
        })
    }
}

/// What of `wish` the machine cannot give.
pub(crate) fn faults(
    machine: &Machine,
    wish: &Wish<'_>,
    taken: &dyn Fn(SocketAddr) -> Option<String>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !machine.root {
        faults.push(Fault::new("not root", "containers need it; run the command with sudo"));
    }
    if !machine.filesystems.contains("overlay") {
        faults.push(Fault::new(
            "the kernel has no overlayfs",
            "load it (modprobe overlay) or use a kernel with CONFIG_OVERLAY_FS",
        ));
    }
    for (kind, config) in
        [("net", "NET_NS"), ("pid", "PID_NS"), ("mnt", "NAMESPACES"), ("ipc", "IPC_NS"), ("uts", "UTS_NS")]
    {
        if !machine.namespaces.contains(kind) {
            faults.push(Fault::new(
                format!("the kernel has no {kind} namespaces"),
                format!("use a kernel with CONFIG_{config}"),
            ));
        }
    }
    let missing: Vec<&str> =
        ["cpu", "memory", "pids"].into_iter().filter(|it| !machine.controllers.contains(*it)).collect();
    if !missing.is_empty() {
        faults.push(Fault::new(
            format!("no control groups for {}", missing.join(", ")),
            "mount them (cgroup v2 on /sys/fs/cgroup, or v1 below it), and boot without cgroup_disable",
        ));
    }
    if let Err(what) = &machine.network {
        faults.push(Fault::new(
            format!("pods cannot be connected: {what}"),
            "the kernel needs veth, bridge and nf_tables with nat (modprobe veth bridge nf_tables nft_chain_nat)",
        ));
    }
    faults.extend(data_faults(machine, wish.data_dir));
    for (address, what, flag) in &wish.ports {
        if let Some(holder) = taken(*address) {
            let port = address.port();
            faults.push(Fault::new(
                format!("port {port}, for the {what}, is in use{holder}"),
                format!("end what uses it, or choose another with {flag}"),
            ));
        }
    }
    for (range, what) in &wish.ranges {
        if let Some((route, interface)) = machine.uses(*range, wish.bridge.as_deref()) {
            faults.push(Fault::new(
                format!("the addresses {range}, for {what}, are in use: {route} is behind {interface}"),
                "remove that route, or make a new cluster: it chooses addresses that are free",
            ));
        }
    }
    faults
}

fn data_faults(machine: &Machine, data_dir: &Path) -> Vec<Fault> {
    let mut faults = Vec::new();
    let shown = data_dir.display();
    match &machine.data_filesystem {
        DataFolder::Usable => {}
        DataFolder::Overlay => faults.push(Fault::new(
            format!("{shown} is on an overlay file system, on which containers cannot lie"),
            "choose a folder on a disk with --data-dir",
        )),
        DataFolder::Refused(why) => {
            faults.push(Fault::new(
                format!("{shown} cannot be used: {why}"),
                "choose another folder with --data-dir",
            ));
        }
    }
    if data_dir.as_os_str().len() + LONGEST_SOCKET.len() > SOCKET_PATH {
        faults.push(Fault::new(
            format!("the path {shown} is too long for the sockets below it"),
            format!("choose one of at most {} bytes with --data-dir", SOCKET_PATH - LONGEST_SOCKET.len()),
        ));
    }
    faults
}

fn network() -> Result<(), String> {
    keelson_network::probe().map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

fn filesystems() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
}

fn names_in(folder: &str) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Which controllers are mounted, in either version.
fn cgroups() -> (&'static str, BTreeSet<String>) {
    let mut controllers = BTreeSet::new();
    let (mut one, mut two) = (false, false);
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut after = after.split(' ');
        let (kind, options) = (after.next().unwrap_or_default(), after.nth(1).unwrap_or_default());
        match kind {
            "cgroup" => {
                one = true;
                controllers.extend(options.split(',').map(str::to_owned));
            }
            "cgroup2" => {
                let at = before.split(' ').nth(4).unwrap_or("/sys/fs/cgroup");
                let file = PathBuf::from(at).join("cgroup.controllers");
                let found = fs::read_to_string(file).unwrap_or_default();
                two = true;
                controllers.extend(found.split_whitespace().map(str::to_owned));
            }
            // Every other file system.
            _ => {}
        }
    }
    let version = match (one, two) {
        (true, true) => "cgroup v1 (hybrid)",
        (true, false) => "cgroup v1",
        (false, true) => "cgroup v2",
        (false, false) => "no cgroups",
    };
    (version, controllers)
}

fn data_folder(data_dir: &Path) -> DataFolder {
    let Some(existing) = data_dir.ancestors().find(|path| path.exists()) else {
        return DataFolder::Refused("it has no parent folder".to_owned());
    };
    if !existing.is_dir() {
        return DataFolder::Refused(format!("{} is not a folder", existing.display()));
    }
    if existing == data_dir && !data_dir.join("cluster.json").exists() {
        // What a start that was interrupted leaves, and what its owner may put there before the first one.
        let own =
            ["lock", "store", "pki", "log", "kubeconfig", "runtime", "run", "servers", "registries.yaml"];
        // `cni` is made by a container runtime that looks for its network there.
        let made = ["kubelet", "logs", "network", "kubelet.yaml", "engine.json", "cni", "certs.d"];
        let stranger = names_in(&data_dir.to_string_lossy())
            .into_iter()
            .find(|it| !own.contains(&it.as_str()) && !made.contains(&it.as_str()));
        if let Some(name) = stranger {
            return DataFolder::Refused(format!("it holds something else ({name})"));
        }
    }
    if nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK).is_err() {
        return DataFolder::Refused(format!("{} is not writable", existing.display()));
    }
    match nix::sys::statfs::statfs(existing) {
        Ok(found) if found.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC => {
            DataFolder::Overlay
        }
        Ok(_) => DataFolder::Usable,
        Err(error) => DataFolder::Refused(error.to_string()),
    }
}

/// From `/proc/net/route`; a default route uses no address.
fn routes(text: &str) -> Vec<(Ipv4Net, String)> {
    let number = |text: Option<&str>| u32::from_str_radix(text?, 16).ok().map(u32::from_be);
    let mut found = Vec::new();
    for line in text.lines().skip(1) {
        let mut fields = line.split_whitespace();
        let Some(interface) = fields.next() else { continue };
        let (Some(to), Some(mask)) = (number(fields.next()), number(fields.nth(5))) else { continue };
        if let Ok(net) = Ipv4Net::with_netmask(Ipv4Addr::from(to), Ipv4Addr::from(mask))
            && mask != 0
        {
            found.push((net, interface.to_owned()));
        }
    }
    found
}

/// Who listens on a port, if somebody does: ` by NAME (process ID)`, or nothing where it cannot be told.
pub(crate) fn taken(address: SocketAddr) -> Option<String> {
    match TcpListener::bind(address) {
        Ok(_) => None,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Some(ports::holder(address.port()).map(|it| format!(" by {it}")).unwrap_or_default())
        }
        // A low port without the right to use it, or an address that is not the machine's.
        Err(error) => Some(format!(" or not usable ({error})")),
    }
}

/// What a refusal says that comes first of all.
pub(crate) const UNCHANGED: &str = "nothing was changed";

/// Refuses a machine that has faults, and tells them all.
pub(crate) fn must_give(
    progress: &Progress,
    machine: &Machine,
    wish: &Wish<'_>,
    purpose: &str,
    so_far: &str,
) -> anyhow::Result<()> {
    let faults = faults(machine, wish, &taken);
    if faults.is_empty() {
        return Ok(());
    }
    // Where the one in the foreground shows them.
    progress.line(format_args!("This machine cannot {purpose} yet:"));
    for fault in &faults {
        progress.line(format_args!("  - {fault}"));
    }
    bail!("{so_far}")
}

/// The host's name as the name of a Node: lower case, and nothing but letters, digits, `-` and `.`.
pub(crate) fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("read the host name")?;
    let name = name.to_string_lossy().to_lowercase();
    let fit: String =
        name.chars().map(|it| if it.is_ascii_alphanumeric() || it == '.' { it } else { '-' }).collect();
    let fit = fit.trim_matches(|it: char| !it.is_ascii_alphanumeric());
    if fit.is_empty() {
        bail!("the host name {name:?} cannot name a Node: choose one with --node-name");
    }
    Ok(fit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> Machine {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Machine {
            root: true,
            kernel: "6.18.0".to_owned(),
            filesystems: own(&["overlay", "ext4"]),
            namespaces: own(&["net", "pid", "mnt", "ipc", "uts"]),
            controllers: own(&["cpu", "memory", "pids"]),
            cgroups: "cgroup v2",
            network: Ok(()),
            data_filesystem: DataFolder::Usable,
            routes: vec![("10.0.0.0/24".parse().unwrap(), "eth0".to_owned())],
        }
    }

    fn wish(data_dir: &Path) -> Wish<'_> {
        Wish {
            data_dir,
            ports: vec![(SocketAddr::from(([0, 0, 0, 0], 6443)), "API server", "--api-port")],
            ranges: vec![("10.42.0.0/16".parse().unwrap(), "pods")],
            bridge: Some("keel0badcafe".to_owned()),
        }
    }

    #[test]
    fn a_fit_machine_has_no_faults() {
        assert_eq!(faults(&fit(), &wish(Path::new("/var/lib/keelson")), &|_| None), []);
    }

    #[test]
    fn all_faults_are_told_at_once_and_each_says_what_to_do() {
        let machine = Machine {
            root: false,
            filesystems: BTreeSet::new(),
            controllers: ["cpu".to_owned()].into(),
            network: Err("no veth".to_owned()),
            data_filesystem: DataFolder::Overlay,
            routes: vec![("10.42.7.0/24".parse().unwrap(), "eth1".to_owned())],
            ..fit()
        };
        let long = PathBuf::from(format!("/{}", "x".repeat(120)));
        let found = faults(&machine, &wish(&long), &|_| Some(" by nginx (process 7)".to_owned()));
        let texts: Vec<_> = found.iter().map(|fault| fault.what.as_str()).collect();
        assert_eq!(texts.len(), 8, "{texts:#?}");
        assert!(texts.contains(&"no control groups for memory, pids"));
        assert!(texts.contains(&"port 6443, for the API server, is in use by nginx (process 7)"));
        assert!(
            texts.contains(&"the addresses 10.42.0.0/16, for pods, are in use: 10.42.7.0/24 is behind eth1")
        );
        assert!(found.iter().all(|fault| !fault.remedy.is_empty()));
    }

    #[test]
    fn the_clusters_own_bridge_does_not_stand_in_its_way() {
        let machine =
            Machine { routes: vec![("10.42.0.0/24".parse().unwrap(), "keel0badcafe".to_owned())], ..fit() };
        assert_eq!(faults(&machine, &wish(Path::new("/x")), &|_| None), []);
    }

    #[test]
    fn routes_are_read_without_the_default_one() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                    eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(routes(text), [("192.168.0.0/24".parse().unwrap(), "eth0".to_owned())]);
    }
}
