//! Debian's containerd and runc in a cluster's namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::kubectl::text;
use crate::{BUSYBOX, Cluster, eventually, image};

/// The image of sandboxes.
const PAUSE: &str = "test.keelson.io/pause:1";

/// A container runtime with folders of its own, whose second handler is called `second`.
pub struct Containerd {
    process: Child,
    /// How programs get into the namespaces.
    prefix: Vec<String>,
    dir: PathBuf,
}

/// `options` are of the first handler.
fn configuration(dir: &Path, data_dir: &Path, options: &str) -> String {
    let (dir, data) = (dir.display(), data_dir.display());
    format!(
        r#"
version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing"]
[grpc]
address = "{dir}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{dir}/certs.d"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{data}/cni/bin"
conf_dir = "{data}/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
{options}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.second]
runtime_type = "io.containerd.runc.v2"
"#
    )
}

impl Containerd {
    /// Starts it where a cluster is to be made, with the images that tests use and control groups by systemd: the machine's, in
    /// whose namespaces it ends. Tells the cluster's kubelet of it beside its other settings.
    pub fn start_with_systemd(cluster: &Cluster, settings: &str) -> anyhow::Result<Self> {
        let settings = format!("{settings}cgroupDriver: systemd\n");
        Self::run(cluster, "SystemdCgroup = true")?.tell(cluster, &settings)
    }

    /// Has a cluster's kubelet run its pods in it.
    fn tell(self, cluster: &Cluster, settings: &str) -> anyhow::Result<Self> {
        cluster.configure(&format!("{}{settings}", self.setting()))?;
        Ok(self)
    }

    /// The line of a `KubeletConfiguration` that leads to it.
    pub fn setting(&self) -> String {
        format!("containerRuntimeEndpoint: unix://{}\n", self.socket().display())
    }

    /// Starts it on a machine, with the images that tests use; `options` are of its handler `runc`.
    pub fn run(cluster: &Cluster, options: &str) -> anyhow::Result<Self> {
        let dir = cluster.folder().join("containerd");
        fs::create_dir_all(&dir)?;
        fs::create_dir_all(cluster.data_dir())?;
        fs::write(dir.join("config.toml"), configuration(&dir, &cluster.data_dir(), options))?;
        let prefix = cluster.client().prefix.clone();
        // Shims put their sockets and names of networks there, wherever the rest is.
        let own =
            "for i in containerd netns; do mkdir -p /run/$i && mount -t tmpfs run /run/$i || exit 1; done";
        let mounted = program(&prefix, "sh").args(["-c", own]).status()?;
        ensure!(mounted.success(), "mount /run/containerd and /run/netns");
        let engine = Containerd { process: spawn(&prefix, &dir)?, prefix, dir };
        engine.wait()?;
        for (name, command) in [(BUSYBOX, "sh"), (PAUSE, "sleep infinity")] {
            let archive = engine.dir.join("image.tar");
            image::busybox_running(&archive, name, &command.split(' ').collect::<Vec<_>>())?;
            engine.ctr(&["images", "import", &archive.to_string_lossy()])?;
        }
        Ok(engine)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// What its own client prints.
    pub fn ctr(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = program(&self.prefix, "ctr")
            .args(["--address", &self.socket().to_string_lossy(), "--namespace", "k8s.io"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "ctr {arguments:?} failed:\n{}", text(&output));
        Ok(text(&output))
    }

    /// Has it trust a registry whose certificate an authority has signed.
    pub fn trust(&self, registry: &str, authority: &Path) -> anyhow::Result<()> {
        let folder = self.dir.join("certs.d").join(registry);
        fs::create_dir_all(&folder)?;
        let text = format!("[host.\"https://{registry}\"]\nca = \"{}\"\n", authority.display());
        Ok(fs::write(folder.join("hosts.toml"), text)?)
    }

    fn wait(&self) -> anyhow::Result<()> {
        eventually("containerd to answer", Duration::from_secs(60), || {
            Ok(self.ctr(&["version"]).is_ok().then_some(()))
        })
    }

    /// Kills it without warning. What it runs is the children of others.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Starts it again.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = spawn(&self.prefix, &self.dir)?;
        self.wait()
    }
}

fn program(prefix: &[String], name: &str) -> Command {
    let mut command = Command::new(&prefix[0]);
    command.args(&prefix[1..]).arg(name);
    command
}

fn spawn(prefix: &[String], dir: &Path) -> anyhow::Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log"))?;
    // nsenter becomes the program.
    program(prefix, "containerd")
        .arg("--config")
        .arg(dir.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("run containerd: install Debian's containerd and runc")
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("level=info")).collect();
            eprintln!("--- containerd's log ---\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        let _ = self.kill();
    }
}
