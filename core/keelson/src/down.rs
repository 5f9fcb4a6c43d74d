//! `keelson down` and `keelson reset`.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use keelson_cgroup::{Driver, Systemd};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;

use crate::cli::DataDir;
use crate::cluster::{Cluster, Folder, Lock, Notes};
use crate::cni;
use crate::components;
use crate::components::engine::Engine;
use crate::pod_network::NodeNetwork;
use crate::progress::Progress;

/// Containers that have not ended by then are killed.
const GRACE: Duration = Duration::from_secs(10);
/// Then the process is killed: it loses nothing by that.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Stops the cluster and keeps its data.
pub(crate) fn down(options: &DataDir) -> anyhow::Result<()> {
    let progress = Progress::new();
    let folder = Folder::new(&options.data_dir)?;
    let Some(cluster) = folder.read()? else {
        bail!("there is no cluster in {}: choose its folder with --data-dir", folder.path().display());
    };
    let _lock = stop_all(&progress, &folder, &cluster)?;
    let (command, what) = if cluster.agent.is_some() { ("agent", "node") } else { ("up", "cluster") };
    progress.line(format_args!(
        "\nStopped. The data is kept; `keelson {command} --data-dir {}` continues the {what}.",
        folder.path().display()
    ));
    Ok(())
}

/// Removes the cluster.
pub(crate) fn reset(options: &DataDir) -> anyhow::Result<()> {
    let progress = Progress::new();
    let folder = Folder::new(&options.data_dir)?;
    let Some(cluster) = folder.read()? else {
        bail!("there is no cluster in {}: nothing was removed", folder.path().display());
    };
    let lock = stop_all(&progress, &folder, &cluster)?;
    let since = Instant::now();
    unmount_below(folder.path())?;
    Notes::open()?.remove(&cluster.id)?;
    // The record goes last, so that a reset that was interrupted can be repeated.
    let mut entries = folder.entries()?;
    entries.sort_by_key(|path| path.ends_with("cluster.json"));
    for path in entries {
        remove(&path)?;
    }
    drop(lock);
    match fs::remove_dir(folder.path()) {
        Ok(()) => progress.done("Data", format_args!("{} removed", folder.path().display()), since),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            progress.done(
                "Data",
                format_args!("removed; {} holds other files", folder.path().display()),
                since,
            );
        }
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            progress.done(
                "Data",
                format_args!("removed; {} is a mount point", folder.path().display()),
                since,
            );
        }
        Err(error) => return Err(error).with_context(|| format!("remove {}", folder.path().display())),
    }
    if cluster.agent.is_some() {
        progress.line(format_args!(
            "\nNothing of the node is left on this machine. The cluster still has its Node object; delete it with\n  \
             kubectl delete node {}",
            cluster.node_name
        ));
    } else {
        progress.line("\nNothing of the cluster is left.");
    }
    let snapshots = folder.snapshots();
    if fs::read_dir(&snapshots).is_ok_and(|mut entries| entries.next().is_some()) {
        progress.line(format_args!(
            "Its snapshots are kept in {}: `keelson snapshot restore` makes a cluster of one. Remove them if nobody needs them.",
            snapshots.display()
        ));
    }
    Ok(())
}

/// Ends the process and the pods, and takes the cluster's things out of the kernel.
fn stop_all(progress: &Progress, folder: &Folder, cluster: &Cluster) -> anyhow::Result<Lock> {
    if !nix::unistd::geteuid().is_root() {
        bail!("not root: run the command with sudo");
    }
    let since = Instant::now();
    let lock = end_process(folder)?;
    let what = if cluster.agent.is_some() { "Agent" } else { "Control plane" };
    progress.done(what, "stopped", since);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let since = Instant::now();
        let config = components::network_config(folder, cluster);
        let kept = Box::new(|_| anyhow::Ok(()));
        let network = NodeNetwork::given(config.clone(), cluster.pod_cidr, kept).await;
        let network = network.context("open the pod network")?;
        let elsewhere = end_elsewhere(folder, cluster, &network).await?;
        // Pods keep to the driver that they were made with.
        let config_of_pods = components::runtime_config(folder, cluster, network, Driver::default())?;
        let pods = keelson_runtime::remove_all(config_of_pods, GRACE).await.context("stop the pods")?;
        let slices = Systemd::default().remove_slices(&cluster.cgroup()).await;
        slices.context("remove the control groups that systemd has made")?;
        let group = cluster.cgroup();
        let tracking =
            tokio::task::spawn_blocking(move || keelson_runtime::remove_tracking_groups(&group)).await?;
        tracking.context("remove the control groups that another container runtime has made")?;
        let pods = pods + elsewhere;
        progress.done("Pods", format_args!("{pods} stopped"), since);
        let since = Instant::now();
        let id = cluster.id.clone();
        let removed = tokio::task::spawn_blocking(move || keelson_proxy::remove_all(&id)).await?;
        removed.context("remove the rules of Services")?;
        keelson_network::remove_all(&config).await.context("remove the pod network")?;
        progress.done("Network", "interfaces and rules removed", since);
        anyhow::Ok(lock)
    })
}

/// Stops the pods in a container runtime that is not ours; answers how many there were. The runtime calls our plugin, which
/// is answered meanwhile.
async fn end_elsewhere(
    folder: &Folder,
    cluster: &Cluster,
    network: &Arc<NodeNetwork>,
) -> anyhow::Result<usize> {
    let Some(engine) = Engine::with_pods(folder)? else { return Ok(0) };
    let stop = CancellationToken::new();
    let places = Arc::new(cni::Places::new(folder));
    let plugin = cni::serve(places, Arc::clone(network), stop.clone());
    let ended = async {
        let ended = keelson_kubelet::remove_pods(&engine.socket, &cluster.cgroup(), GRACE).await;
        stop.cancel();
        ended.with_context(|| {
            format!(
                "stop the pods in the container runtime at {0}: start it again; or, if it is gone for good with all its \
                 containers, remove {1}",
                engine.socket.display(),
                folder.engine().display()
            )
        })
    };
    let (plugin, ended) = tokio::join!(plugin, ended);
    plugin.context("serve the CNI plugin")?;
    let ended = ended?;
    engine.ended(folder)?;
    Ok(ended)
}

/// Asks the process of the cluster to end, and waits until it has.
fn end_process(folder: &Folder) -> anyhow::Result<Lock> {
    let began = Instant::now();
    let mut asked = false;
    loop {
        let holder = match folder.lock()? {
            Ok(lock) => return Ok(lock),
            Err(holder) => holder,
        };
        let Some(pid) = holder.0.map(Pid::from_raw) else {
            // It holds the lock and has not written its number yet.
            sleep(LOOK_AGAIN);
            continue;
        };
        let signal = if began.elapsed() > PATIENCE { Signal::SIGKILL } else { Signal::SIGTERM };
        if !asked || signal == Signal::SIGKILL {
            asked = true;
            match kill(pid, signal) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => bail!("end process {pid}: {error}"),
            }
        }
        sleep(LOOK_AGAIN);
    }
}

/// Unmounts what lies below a folder, the deepest first.
fn unmount_below(folder: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let mut points = mounts_below(&text, folder);
    points.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for point in points {
        match umount2(point.as_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => bail!("unmount {point}: {error}"),
        }
    }
    Ok(())
}

fn mounts_below(mountinfo: &str, folder: &Path) -> Vec<String> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    // The kernel writes blanks in paths as octal numbers.
    let plain = points.map(|it| it.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"));
    plain.filter(|it| Path::new(it).starts_with(folder) && Path::new(it) != folder).collect()
}

fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_the_folder_are_taken() {
        let text = "1 2 0:1 / / rw - ext4 /dev/vda rw\n\
                    3 1 0:2 / /data rw - ext4 /dev/vdb rw\n\
                    4 3 0:3 / /data/a\\040b/shm rw - tmpfs shm rw\n\
                    5 3 0:4 / /database rw - tmpfs x rw\n";
        assert_eq!(mounts_below(text, Path::new("/data")), ["/data/a b/shm"]);
    }
}
