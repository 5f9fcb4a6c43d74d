//! A whole cluster in namespaces of its own.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kubectl::{Kubectl, text};
use crate::machine::Machine;
use crate::namespaces::Namespaces;
use crate::pod::Pod;
use crate::resolver::Resolver;
use crate::{binary, eventually, image, manifests};

/// The image that the tests' pods run, with busybox and its programs.
pub const BUSYBOX: &str = "test.keelson.io/busybox:1";
/// Settings of a kubelet whose machine may have little room left on its disk, which is no matter for tests.
pub const ROOM: &str = "evictionHard: {memory.available: 100Mi}\nimageGCHighThresholdPercent: 100\n";
/// How long kubectl waits for what takes a moment. It only ends tests that fail.
pub const PATIENCE: &str = "--timeout=120s";
/// How long [`eventually`] looks for what takes a moment. It only ends tests that fail.
pub const LONG: Duration = Duration::from_secs(120);

/// A cluster that `keelson up -d` made. It is reset, and its namespaces go, with its value.
pub struct Cluster {
    /// Before the namespaces that it is in.
    machine: Option<Machine>,
    namespaces: Namespaces,
    dir: tempfile::TempDir,
    kubectl: Kubectl,
}

impl Cluster {
    /// A cluster with the default profile, and the image [`BUSYBOX`].
    pub fn up() -> anyhow::Result<Self> {
        Self::up_with(&[])
    }

    /// A cluster, with further arguments to `keelson up`.
    pub fn up_with(arguments: &[&str]) -> anyhow::Result<Self> {
        let cluster = Self::namespaces()?;
        cluster.continue_with(arguments)?;
        Ok(cluster)
    }

    /// Namespaces in which no cluster is yet: an own loopback interface is all the network there is, and the node's
    /// resolver is at 127.0.0.53.
    pub fn namespaces() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("keelson-e2e-").tempdir()?;
        let resolver = dir.path().join("resolv.conf");
        fs::write(&resolver, "nameserver 127.0.0.53\n")?;
        let namespaces = Namespaces::new("mount --bind \"$0\" /etc/resolv.conf", &resolver)?;
        let kubectl = Kubectl {
            prefix: namespaces.prefix(),
            program: "kubectl".to_owned(),
            kubeconfig: dir.path().join("data/kubeconfig"),
            home: dir.path().to_owned(),
        };
        Ok(Cluster { machine: None, namespaces, dir, kubectl })
    }

    /// The same on a machine that systemd is the init of: all commands run in scopes of its.
    pub fn namespaces_with_systemd() -> anyhow::Result<Self> {
        let mut cluster = Self::namespaces()?;
        cluster.machine = Some(Machine::start(&mut cluster.kubectl)?);
        Ok(cluster)
    }

    /// The name, right below the root of every hierarchy, of the control groups of a machine with its own init.
    pub fn groups(&self) -> &str {
        self.machine.as_ref().map_or("", Machine::name)
    }

    /// The folder of its data.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// The process that holds the namespaces.
    pub fn holder(&self) -> u32 {
        self.namespaces.id()
    }

    pub(crate) fn own_namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// `keelson COMMAND --data-dir ..` in the namespaces.
    pub fn keelson(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let program = binary()?.to_string_lossy().into_owned();
        let mut command = self.kubectl.program(&program);
        command.args(arguments).env("KEELSON_DATA_DIR", self.data_dir());
        command.stdin(Stdio::null()).output().with_context(|| format!("run keelson {arguments:?}"))
    }

    /// What a keelson command prints; an error if it fails.
    pub fn keelson_prints(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.keelson(arguments)?;
        ensure!(output.status.success(), "keelson {arguments:?} failed:\n{}", text(&output));
        Ok(text(&output))
    }

    /// Writes what its kubelet is told when it starts the next time: lines of a `KubeletConfiguration`.
    pub fn configure(&self, settings: &str) -> anyhow::Result<()> {
        fs::create_dir_all(self.data_dir())?;
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        Ok(fs::write(self.data_dir().join("kubelet.yaml"), format!("{head}{settings}"))?)
    }

    /// `keelson up -d`, for the first time or again; imports [`BUSYBOX`]. Answers what it printed.
    pub fn continue_with(&self, arguments: &[&str]) -> anyhow::Result<String> {
        if !self.data_dir().join("kubelet.yaml").exists() {
            self.configure(ROOM)?;
        }
        let printed = self.keelson_prints(&[&["up", "-d"], arguments].concat())?;
        self.import_busybox()?;
        Ok(printed)
    }

    /// Imports [`BUSYBOX`].
    pub fn import_busybox(&self) -> anyhow::Result<()> {
        let archive = self.dir.path().join("busybox.tar");
        if !archive.exists() {
            image::busybox(&archive, BUSYBOX)?;
        }
        self.keelson_prints(&["image", "import", &archive.to_string_lossy()]).map(drop)
    }

    /// The process of the cluster.
    pub fn process(&self) -> anyhow::Result<Pid> {
        let text = fs::read_to_string(self.data_dir().join("lock"))?;
        Ok(Pid::from_raw(text.trim().parse()?))
    }

    /// Kills the process of the cluster without warning, and waits until it is gone.
    pub fn kill(&self) -> anyhow::Result<()> {
        let process = self.process()?;
        kill(process, Signal::SIGKILL)?;
        eventually("the killed process to be gone", Duration::from_secs(30), || {
            let stat = fs::read_to_string(format!("/proc/{process}/stat"));
            // One that nobody has waited for yet does nothing any more.
            Ok(stat.map_or(Some(()), |it| it.contains(") Z ").then_some(())))
        })
    }

    /// The same where processes have other numbers than outside.
    pub fn kill_inside(&self) -> anyhow::Result<()> {
        let process = self.process()?.to_string();
        self.on_the_host("kill", &["-9", &process])?;
        eventually("the killed process to be gone", Duration::from_secs(30), || {
            Ok(self.on_the_host("kill", &["-0", &process]).is_err().then_some(()))
        })
    }

    /// How kubectl is run.
    pub fn client(&self) -> &Kubectl {
        &self.kubectl
    }

    /// What a kubectl command prints; an error if it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.kubectl.run(arguments)
    }

    /// What a kubectl command that must fail prints.
    pub fn kubectl_fails(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.kubectl.fails(arguments)
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        self.kubectl.with(&["apply", "-f", "-"], manifest)
    }

    /// Applies the manifest of a pod, and waits until it is ready.
    pub fn start(&self, pod: &Pod) -> anyhow::Result<()> {
        self.apply(&pod.to_string())?;
        self.wait(pod.name(), "condition=Ready")
    }

    /// What a program prints that runs in the cluster's namespaces, on the host's file system.
    pub fn on_the_host(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.kubectl.program(program).args(arguments).stdin(Stdio::null()).output()?;
        ensure!(
            output.status.success(),
            "{program} {arguments:?} failed ({}):\n{}",
            output.status,
            text(&output)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What a command prints in a pod.
    pub fn exec(&self, pod: &str, command: &[&str]) -> anyhow::Result<String> {
        self.kubectl(&[&["exec", pod, "--"], command].concat())
    }

    /// A field of an object, by JSONPath without its braces.
    pub fn field(&self, object: &[&str], path: &str) -> anyhow::Result<String> {
        let path = format!("jsonpath={{{path}}}");
        self.kubectl(&[&["get"], object, &["-o", &path]].concat())
    }

    /// Applies the quickstart and waits until it has rolled out.
    pub fn quickstart(&self) -> anyhow::Result<()> {
        let folder = manifests()?.join("quickstart");
        self.kubectl(&["apply", "-k", &folder.to_string_lossy()])?;
        self.kubectl(&["rollout", "status", "deploy/demo-web", PATIENCE])?;
        Ok(())
    }

    /// Names of the pods in the default namespace that a selector selects and that are not being deleted.
    pub fn pods(&self, selector: &str) -> anyhow::Result<Vec<String>> {
        let each = "go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}}{{\"\\n\"}}{{end}}{{end}}";
        Ok(self.kubectl(&["get", "pods", "-l", selector, "-o", each])?.lines().map(str::to_owned).collect())
    }

    /// A field of a pod in the default namespace.
    pub fn pod(&self, name: &str, path: &str) -> anyhow::Result<String> {
        self.field(&["pod", name], path)
    }

    /// Waits until a pod in the default namespace has a condition, e.g. `condition=Ready`.
    pub fn wait(&self, pod: &str, what: &str) -> anyhow::Result<()> {
        self.kubectl(&["wait", "pod", pod, &format!("--for={what}"), PATIENCE]).map(drop)
    }

    /// What a pod printed that has ended as it should.
    pub fn printed(&self, pod: &str) -> anyhow::Result<String> {
        let ended = self.wait(pod, "jsonpath={.status.containerStatuses[0].state.terminated}");
        let logs = self.kubectl(&["logs", pod]).unwrap_or_default();
        ended.with_context(|| format!("pod {pod} does not end; it printed:\n{logs}"))?;
        let code = self.pod(pod, ".status.containerStatuses[0].state.terminated.exitCode")?;
        ensure!(code == "0", "pod {pod} ended with {code}; it printed:\n{logs}");
        Ok(logs)
    }

    /// What a pod says whose first container waits for a reason.
    pub fn waits(&self, pod: &str, reason: &str) -> anyhow::Result<String> {
        let waiting = ".status.containerStatuses[0].state.waiting";
        self.wait(pod, &format!("jsonpath={{{waiting}.reason}}={reason}"))?;
        self.pod(pod, &format!("{waiting}.message"))
    }

    /// Waits until an event of a reason is told of a pod whose message has a text.
    pub fn told(&self, pod: &str, reason: &str, text: &str) -> anyhow::Result<()> {
        let about = format!("involvedObject.name={pod},reason={reason}");
        let mut seen = String::new();
        let told = eventually(&format!("{reason} {text:?} of pod {pod}"), LONG, || {
            seen = self.field(&["events", "--field-selector", &about], ".items[*].message")?;
            Ok(seen.contains(text).then_some(()))
        });
        told.with_context(|| format!("events of reason {reason} are: {seen}"))
    }

    /// The body of an HTTP response, asked for in the cluster's network namespace on a connection of its own.
    pub fn http(&self, method: &str, url: &str) -> anyhow::Result<String> {
        self.on_the_host(
            "curl",
            &["--silent", "--show-error", "--fail", "--max-time", "10", "-X", method, url],
        )
    }

    /// The main process of a pod's container, as the machine sees it.
    pub fn main_process(&self, pod: &str) -> anyhow::Result<Pid> {
        let id = self.pod(pod, ".status.containerStatuses[0].containerID")?;
        let id = id.rsplit('/').next().unwrap_or_default();
        ensure!(!id.is_empty(), "pod {pod} has no container yet");
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let group = fs::read_to_string(path.join("cgroup")).unwrap_or_default();
            let pid = path.file_name().and_then(|it| it.to_str()).and_then(|it| it.parse().ok());
            // The first process of its own PID namespace.
            let first = || {
                let status = fs::read_to_string(path.join("status")).unwrap_or_default();
                let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).map(str::to_owned);
                ids.is_some_and(|ids| ids.split_whitespace().last() == Some("1"))
            };
            if let Some(pid) = pid
                && group.contains(id)
                && first()
            {
                return Ok(Pid::from_raw(pid));
            }
        }
        anyhow::bail!("no process in a control group of container {id}")
    }

    /// A name server at the address that the node's resolver configuration names.
    pub fn resolver(&self, answer: Ipv4Addr) -> anyhow::Result<Resolver> {
        Resolver::start(self.holder(), answer)
    }

    /// Everything of use when a test fails.
    fn dump(&self) {
        let print = |title: &str, text: &str| {
            // In one piece, so that tests that fail together stay apart.
            let _ = writeln!(std::io::stderr().lock(), "--- {title} ---\n{text}");
        };
        for arguments in [
            ["get", "pods,svc,endpointslices,operators,nodes,deploy,rs", "-A", "-o", "wide"].as_slice(),
            &["get", "events", "-A", "--sort-by=.metadata.creationTimestamp"],
        ] {
            match self.kubectl.command(arguments).output() {
                Ok(output) => print(&format!("kubectl {arguments:?}"), &text(&output)),
                Err(error) => print("kubectl", &error.to_string()),
            }
        }
        let log = fs::read_to_string(self.data_dir().join("log/keelson.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        print("the cluster's log", &lines[lines.len().saturating_sub(200)..].join("\n"));
    }

    /// `keelson reset`, and nothing may be left of the cluster.
    pub fn reset(&self) -> anyhow::Result<String> {
        // It is the owner's, and would stay.
        let _ = fs::remove_file(self.data_dir().join("kubelet.yaml"));
        let id: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(self.data_dir().join("cluster.json"))?)?;
        let group = format!("keelson-{}", id["id"].as_str().context("the cluster has no id")?);
        let printed = self.keelson_prints(&["reset"])?;
        for hierarchy in fs::read_dir("/sys/fs/cgroup")? {
            let group = hierarchy?.path().join(&group);
            ensure!(!group.exists(), "{} is left", group.display());
        }
        Ok(printed)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dump();
        }
        if self.data_dir().join("cluster.json").exists()
            && let Err(error) = self.reset()
        {
            eprintln!("the cluster was not removed: {error:#}");
        }
    }
}
