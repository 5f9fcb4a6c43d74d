//! What is decided once when a cluster is made, and where its things lie.
//!
//! The record is `cluster.json` in the data folder. So that several clusters can stand on one machine, each also leaves a
//! note in `/run/keelson` about what it uses there; the note goes with `keelson reset` or with the machine's restart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::facts::Facts;

/// Where clusters of this machine leave their notes.
const NOTES: &str = "/run/keelson";
/// Folders of a cluster that are for root alone.
const PRIVATE: [&str; 8] = ["kubelet", "log", "logs", "network", "pki", "run", "runtime", "store"];
/// A process that was killed has let go of its files by then.
const DYING: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// SIGKILL in a set of signals.
const KILLED: u64 = 1 << (nix::libc::SIGKILL - 1);

/// Which operators a cluster begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    /// The core alone.
    Minimal,
    /// What a user of Kubernetes expects.
    Default,
}

impl Profile {
    /// Its name, as people type it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Profile::Minimal => "minimal",
            Profile::Default => "default",
        }
    }
}

/// What stays the same as long as the cluster exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cluster {
    /// Eight lower-case hexadecimal digits: part of every name in the kernel.
    pub(crate) id: String,
    /// The name of this machine's Node.
    pub(crate) node_name: String,
    /// Where others reach this machine, if its owner has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node_ip: Option<IpAddr>,
    /// Where the API server listens.
    pub(crate) api_port: u16,
    /// Where the kubelet listens.
    pub(crate) kubelet_port: u16,
    /// The addresses of Services.
    pub(crate) service_cidr: Ipv4Net,
    /// The addresses of all pods.
    pub(crate) cluster_cidr: Ipv4Net,
    /// The addresses of this node's pods; an agent has none until the cluster has given it some.
    #[serde(default)]
    pub(crate) pod_cidr: Option<Ipv4Net>,
    /// Which operators it began with; absent until they were installed.
    pub(crate) profile: Option<Profile>,
    /// What an agent remembers; absent where the control plane is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<Agent>,
}

/// What an agent remembers of the cluster that it has joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Agent {
    /// The address that it joined by.
    pub(crate) server: String,
    /// What the cluster said when it last answered.
    pub(crate) facts: Facts,
}

impl Cluster {
    /// What machines that join are told.
    pub(crate) fn facts(&self) -> Facts {
        match &self.agent {
            Some(agent) => agent.facts.clone(),
            None => Facts::new(&self.id, self.cluster_cidr, self.service_cidr),
        }
    }

    /// The address of the bridge that the pods hang on.
    pub(crate) fn gateway(&self) -> Option<IpAddr> {
        let range = self.pod_cidr?;
        Some(IpAddr::V4(Ipv4Addr::from(u32::from(range.network()) + 1)))
    }

    /// The control group above all its pods.
    pub(crate) fn cgroup(&self) -> String {
        format!("/keelson-{}", self.id)
    }
}

/// A cluster's folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// By its path, which need not exist.
    pub(crate) fn new(path: &Path) -> anyhow::Result<Self> {
        Ok(Folder(std::path::absolute(path).with_context(|| format!("find {}", path.display()))?))
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Something in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Everything that Keelson may have put into it.
    pub(crate) fn entries(&self) -> anyhow::Result<Vec<PathBuf>> {
        let known = [
            "store",
            "pki",
            "runtime",
            "network",
            "kubelet",
            "logs",
            "log",
            "run",
            "cni",
            "engine.json",
            "engine.json.new",
            "servers",
            "kubeconfig",
            "cluster.json",
            "cluster.json.new",
            "lock",
        ]
        .map(|name| self.0.join(name));
        let mut entries = Vec::from(known);
        let failed = || format!("list {}", self.0.display());
        for entry in fs::read_dir(&self.0).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            // Stores that were set aside when their members were made again.
            if entry.file_name().to_string_lossy().starts_with("store.damaged-") {
                entries.push(entry.path());
            }
        }
        Ok(entries)
    }

    /// Where snapshots are saved if nobody says otherwise. They outlive the cluster, for that is what they are for.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.0.join("snapshots")
    }

    /// Makes it, with what is in it for root alone: secrets, tokens and what pods write are nobody else's. What pods see of
    /// it is mounted.
    pub(crate) fn make(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("create {}", self.0.display()))?;
        let protect = |path: &Path, mode: u32| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
                .with_context(|| format!("protect {}", path.display()))
        };
        protect(&self.0, 0o711)?;
        for name in PRIVATE {
            let path = self.join(name);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
            protect(&path, 0o700)?;
        }
        Ok(())
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.join("kubeconfig")
    }

    /// How registries are reached: written by the folder's owner, and kept when the cluster is removed.
    pub(crate) fn registries(&self) -> PathBuf {
        self.join("registries.yaml")
    }

    /// The kubelet's settings: as above.
    pub(crate) fn kubelet_settings(&self) -> PathBuf {
        self.join("kubelet.yaml")
    }

    /// Which container runtime runs the pods, if it is not ours.
    pub(crate) fn engine(&self) -> PathBuf {
        self.join("engine.json")
    }

    /// What the process writes when it runs in the background.
    pub(crate) fn log(&self) -> PathBuf {
        self.join("log/keelson.log")
    }

    /// The cluster that lies in it, if any.
    pub(crate) fn read(&self) -> anyhow::Result<Option<Cluster>> {
        let path = self.join("cluster.json");
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{} is damaged: restore it from a copy", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Keeps the record; either the old or the new one is there at any time.
    pub(crate) fn write(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let (path, new) = (self.join("cluster.json"), self.join("cluster.json.new"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            serde_json::to_writer_pretty(&mut file, cluster)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.0)?.sync_all()
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    /// Makes sure that nobody else works in the folder, until the lock is dropped. A holder that has been killed and has not
    /// quite gone is waited for.
    pub(crate) fn lock(&self) -> anyhow::Result<Result<Lock, Holder>> {
        let until = Instant::now() + DYING;
        loop {
            match self.try_lock()? {
                Err(holder) if holder.is_ending() && Instant::now() < until => sleep(LOOK_AGAIN),
                outcome => return Ok(outcome),
            }
        }
    }

    fn try_lock(&self) -> anyhow::Result<Result<Lock, Holder>> {
        let path = self.join("lock");
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o644).open(&path);
        let mut file = file.with_context(|| format!("open {}", path.display()))?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(|| format!("read {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0)?;
                file.rewind()?;
                write!(*file, "{}", std::process::id())?;
                Ok(Ok(Lock { _file: file }))
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(Err(Holder(text.trim().parse().ok()))),
            Err((_, error)) => bail!("lock {}: {error}", path.display()),
        }
    }
}

/// Nobody else works in the folder while this lives.
pub(crate) struct Lock {
    _file: Flock<File>,
}

/// Who works in the folder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder(pub(crate) Option<i32>);

impl Holder {
    /// Whether its process has been killed or has ended already, and only its threads' last steps keep its files open.
    fn is_ending(self) -> bool {
        self.0.is_some_and(|pid| match fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(status) => {
                let field =
                    |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let state = field("State:").unwrap_or_default();
                let pending = field("SigPnd:").and_then(|it| u64::from_str_radix(it, 16).ok()).unwrap_or(0);
                state.starts_with(['Z', 'X']) || pending & KILLED != 0
            }
            Err(_) => true,
        })
    }
}

/// What another cluster uses on this machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Note {
    pub(crate) data_dir: PathBuf,
    /// Which network namespace it is in.
    network: u64,
    pub(crate) cluster: Cluster,
}

/// The network namespace that this process is in.
fn network_namespace() -> u64 {
    fs::metadata("/proc/self/ns/net").map_or(0, |metadata| metadata.ino())
}

/// Taken while a cluster looks for what is free and writes its note.
pub(crate) struct Notes {
    _lock: Flock<File>,
}

impl Notes {
    /// Waits until no other cluster is choosing.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let path = Path::new(NOTES).join("lock");
        loop {
            fs::create_dir_all(NOTES).with_context(|| format!("create {NOTES}"))?;
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = file.with_context(|| format!("open {}", path.display()))?;
            let lock = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, error)| anyhow::anyhow!("lock {}: {error}", path.display()))?;
            // The last cluster to go takes the file with it.
            let ours = lock.metadata().with_context(|| format!("look at {}", path.display()))?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
                return Ok(Notes { _lock: lock });
            }
        }
    }

    /// Removes the note of a cluster that is no more, and the folder with the last one.
    pub(crate) fn remove(self, id: &str) -> anyhow::Result<()> {
        let path = note_of(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
        let entries = fs::read_dir(NOTES).with_context(|| format!("read {NOTES}"))?;
        if !entries.flatten().any(|entry| entry.path().extension().is_some_and(|it| it == "json")) {
            let removed = fs::remove_file(Path::new(NOTES).join("lock")).and_then(|()| fs::remove_dir(NOTES));
            removed.with_context(|| format!("remove {NOTES}"))?;
        }
        Ok(())
    }

    /// The notes of other clusters whose network is the same as ours.
    pub(crate) fn others(&self, folder: &Folder) -> anyhow::Result<Vec<Note>> {
        let here = network_namespace();
        let mut notes = Vec::new();
        for entry in fs::read_dir(NOTES).with_context(|| format!("read {NOTES}"))? {
            let path = entry?.path();
            if path.extension().is_none_or(|it| it != "json") {
                continue;
            }
            let Ok(note) = serde_json::from_slice::<Note>(&fs::read(&path)?) else {
                tracing::warn!(path = %path.display(), "a note of another cluster is not readable");
                continue;
            };
            let there = note.data_dir.join("cluster.json").exists();
            if !there && note.network == here {
                // Somebody removed the folder by hand.
                let _ = fs::remove_file(&path);
            } else if note.network == here && note.data_dir != folder.path() {
                notes.push(note);
            }
        }
        Ok(notes)
    }

    /// Tells other clusters what this one uses.
    pub(crate) fn leave(&self, folder: &Folder, cluster: &Cluster) -> anyhow::Result<()> {
        let note = Note {
            data_dir: folder.path().to_owned(),
            network: network_namespace(),
            cluster: cluster.clone(),
        };
        let path = note_of(&cluster.id);
        fs::write(&path, serde_json::to_vec(&note)?).with_context(|| format!("write {}", path.display()))
    }
}

fn note_of(id: &str) -> PathBuf {
    Path::new(NOTES).join(format!("{id}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        Cluster {
            id: "0badcafe".to_owned(),
            node_name: "one".to_owned(),
            node_ip: None,
            api_port: 6443,
            kubelet_port: 10250,
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            pod_cidr: Some("10.42.0.0/24".parse().unwrap()),
            profile: None,
            agent: None,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path()).unwrap();
        assert_eq!(folder.read().unwrap(), None);
        folder.write(&cluster()).unwrap();
        assert_eq!(folder.read().unwrap(), Some(cluster()));
        fs::write(folder.join("cluster.json"), "{").unwrap();
        assert!(format!("{:#}", folder.read().unwrap_err()).contains("is damaged"));
    }

    #[test]
    fn a_folder_is_held_by_one_process_and_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path()).unwrap();
        let held = folder.lock().unwrap().unwrap_or_else(|_| panic!("held"));
        let holder = folder.lock().unwrap().err().expect("free");
        assert_eq!(holder.0, i32::try_from(std::process::id()).ok());
        drop(held);
        assert!(folder.lock().unwrap().is_ok());
    }

    #[test]
    fn the_gateway_has_the_first_address() {
        assert_eq!(cluster().gateway(), "10.42.0.1".parse().ok());
        assert_eq!(Cluster { pod_cidr: None, ..cluster() }.gateway(), None);
    }
}
