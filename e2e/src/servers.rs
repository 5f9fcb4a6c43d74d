//! Several servers that are one cluster, each in network and mount namespaces of its own, on one bridge.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::disks::Disks;
use crate::kubectl::{Kubectl, text};
use crate::namespaces::Namespaces;
use crate::{LONG, binary, eventually};

mod power;

/// Servers, their network and their folders. All of it goes with the value.
pub struct Servers {
    members: Vec<Member>,
    /// That of the bridge, where the tests' clients are too.
    network: Namespaces,
    disk: Disk,
    dir: tempfile::TempDir,
}

/// What machines keep their files on.
enum Disk {
    /// Each on a disk of its own, which is in memory and holds 256 MiB.
    Memory,
    /// Each on an image of a disk, whose power can be cut.
    Images(Disks),
    /// All on the disk that the folder of the servers is on.
    Shared,
}

/// A machine of its own, as far as its network and its disk go.
struct Member {
    namespaces: Namespaces,
    server: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            // What has ended by itself needs no signal.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// What a program prints; an error if it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed:\n{}", text(&output));
    Ok(String::from_utf8(output.stdout)?)
}

impl Servers {
    /// A network with room for servers, of which none runs yet.
    pub fn network() -> anyhow::Result<Self> {
        Self::network_on(Disk::Memory, &std::env::temp_dir())
    }

    /// The same; all servers keep their state on the disk of a folder.
    pub fn network_in(folder: &Path) -> anyhow::Result<Self> {
        Self::network_on(Disk::Shared, folder)
    }

    fn network_on(disk: Disk, folder: &Path) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("keelson-e2e-").tempdir_in(folder)?;
        let bridge = "ip link add br0 type bridge; ip addr add 10.77.0.254/24 dev br0; ip link set br0 up";
        let network = Namespaces::new(bridge, dir.path())?;
        Ok(Servers { members: Vec::new(), network, disk, dir })
    }

    /// So many servers that are one cluster, each a voter.
    pub fn start(count: usize) -> anyhow::Result<Self> {
        Self::start_with(count, &[])
    }

    /// The same, all with further flags.
    pub fn start_with(count: usize, flags: &[&str]) -> anyhow::Result<Self> {
        Self::network()?.with_servers(count, flags)
    }

    /// Lets servers join the first, all with the same flags.
    fn with_servers(mut self, count: usize, flags: &[&str]) -> anyhow::Result<Self> {
        self.add_machine()?;
        self.run(0, flags)?;
        for _ in 1..count {
            self.join_with(flags)?;
        }
        Ok(self)
    }

    /// One more machine, and its number. If nothing else was said, its disk is in memory and holds 256 MiB.
    pub fn add_machine(&mut self) -> anyhow::Result<usize> {
        let number = self.members.len();
        let folder = self.folder(number);
        fs::create_dir_all(&folder)?;
        let mount = match &self.disk {
            Disk::Memory => "mount -t tmpfs -o size=256m server \"$0\"".to_owned(),
            Disk::Images(disks) => {
                disks.make(number)?;
                format!("mount -o loop {} \"$0\"", disks.image(number).display())
            }
            Disk::Shared => String::new(),
        };
        let namespaces = Namespaces::new(&mount, &folder)?;
        let (cable, target) = (format!("server{number}"), namespaces.id().to_string());
        let peer = ["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &target];
        run(self.on_the_network("ip").args(peer))?;
        run(self.on_the_network("ip").args(["link", "set", &cable, "master", "br0", "up"]))?;
        self.members.push(Member { namespaces, server: None });
        let address = format!("{}/24", self.address(number));
        run(self.on(number, "ip").args(["addr", "add", &address, "dev", "eth0"]))?;
        run(self.on(number, "ip").args(["link", "set", "eth0", "up"]))?;
        Ok(number)
    }

    /// One more server, which joins the first that runs, and its number.
    pub fn join(&mut self) -> anyhow::Result<usize> {
        self.join_with(&[])
    }

    fn join_with(&mut self, flags: &[&str]) -> anyhow::Result<usize> {
        let first = self.running().first().copied().context("no server runs that could be joined")?;
        let token = self.keelson(first, &["token", "create", "--quiet", "--role", "server"])?;
        let number = self.add_machine()?;
        let url = self.url(first);
        self.run(number, &[&["--server", &url, "--token", token.trim()], flags].concat())?;
        let voter = (Self::name(number), "voter".to_owned());
        eventually("the server to vote", LONG, || Ok(self.roles(first)?.contains(&voter).then_some(())))?;
        Ok(number)
    }

    /// Runs the server of a machine until it is ready.
    pub fn run(&mut self, number: usize, flags: &[&str]) -> anyhow::Result<()> {
        self.run_all(&[number], flags)
    }

    /// Runs the servers of several machines, which may need each other, until all are ready.
    pub fn run_all(&mut self, numbers: &[usize], flags: &[&str]) -> anyhow::Result<()> {
        let mut outputs = Vec::new();
        for number in numbers {
            let mut child = self.spawn(*number, flags)?;
            outputs.push(child.stdout.take().context("the server has no output")?);
            self.members[*number].server = Some(child);
        }
        for (number, output) in numbers.iter().zip(outputs) {
            let mut lines = BufReader::new(output).lines();
            loop {
                let Some(line) = lines.next() else {
                    let server = self.members[*number].server.take();
                    let status = server.context("the server does not run")?.wait()?;
                    bail!("server {number} ended with {status} before it was ready:\n{}", self.log(*number)?);
                };
                if line?.starts_with("API server ready at ") {
                    break;
                }
            }
            // The pipe is read to its end, so that the server never waits for it.
            std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        }
        Ok(())
    }

    /// What a server says that is not to start.
    pub fn refused(&mut self, number: usize, flags: &[&str]) -> anyhow::Result<String> {
        let status = self.spawn(number, flags)?.wait()?;
        ensure!(!status.success(), "server {number} ended well");
        self.log(number)
    }

    fn spawn(&self, number: usize, flags: &[&str]) -> anyhow::Result<Child> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file(number))?;
        let program = binary()?.to_string_lossy().into_owned();
        let bind = format!("{}:6443", self.address(number));
        let mut command = self.on(number, &program);
        command.args(["server", "--bind", &bind, "--data-dir"]).arg(self.folder(number)).args(flags);
        if !flags.contains(&"--name") {
            command.args(["--name", &Self::name(number)]);
        }
        if !flags.contains(&"--server") && !self.folder_in(number).join("server.json").exists() {
            command.args(["--profile", "minimal"]);
        }
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?)
    }

    /// The name of a server among the members.
    pub fn name(number: usize) -> String {
        format!("server-{number}")
    }

    /// Where a server is.
    pub fn address(&self, number: usize) -> String {
        format!("10.77.0.{}", number + 1)
    }

    /// Its API's address.
    pub fn url(&self, number: usize) -> String {
        format!("https://{}:6443", self.address(number))
    }

    /// Those whose process runs.
    pub fn running(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|number| self.members[*number].server.is_some()).collect()
    }

    /// The folder of its data, as its machine sees it.
    pub fn folder(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("server-{number}"))
    }

    /// The folder of its data, as it is reached from outside of its namespaces.
    pub fn folder_in(&self, number: usize) -> PathBuf {
        self.members[number].namespaces.path(&self.folder(number))
    }

    fn log_file(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("server-{number}.log"))
    }

    /// What a server has logged.
    pub fn log(&self, number: usize) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.log_file(number))?)
    }

    /// A program on a machine.
    pub fn on(&self, number: usize, program: &str) -> Command {
        self.members[number].namespaces.program(program)
    }

    /// A program on the network between the machines.
    pub fn on_the_network(&self, program: &str) -> Command {
        self.network.program(program)
    }

    /// The namespace of the network between the machines.
    pub fn network_namespace(&self) -> PathBuf {
        self.network.network()
    }

    /// What a keelson command prints that is told by a server's kubeconfig where the cluster is.
    pub fn keelson(&self, number: usize, arguments: &[&str]) -> anyhow::Result<String> {
        run(&mut self.keelson_command(number, arguments)?)
    }

    /// What a keelson command that must fail prints.
    pub fn keelson_fails(&self, number: usize, arguments: &[&str]) -> anyhow::Result<String> {
        let output: Output = self.keelson_command(number, arguments)?.stdin(Stdio::null()).output()?;
        ensure!(!output.status.success(), "keelson {arguments:?} did not fail:\n{}", text(&output));
        Ok(text(&output))
    }

    fn keelson_command(&self, number: usize, arguments: &[&str]) -> anyhow::Result<Command> {
        let program = binary()?.to_string_lossy().into_owned();
        let mut command = self.on_the_network(&program);
        command.args(arguments).env("KUBECONFIG", self.kubeconfig(number));
        Ok(command)
    }

    /// The administrator's kubeconfig that a server has written.
    pub fn kubeconfig(&self, number: usize) -> PathBuf {
        self.folder_in(number).join("kubeconfig")
    }

    /// How kubectl is run against a server.
    pub fn client(&self, number: usize) -> Kubectl {
        Kubectl {
            prefix: self.network.prefix(),
            program: "kubectl".to_owned(),
            kubeconfig: self.kubeconfig(number),
            home: self.dir.path().to_owned(),
        }
    }

    /// The process of a server that runs.
    pub fn process(&self, number: usize) -> anyhow::Result<Pid> {
        let server = self.members[number].server.as_ref().context("the server does not run")?;
        // nsenter has become the server.
        Ok(Pid::from_raw(i32::try_from(server.id())?))
    }

    fn signal(&self, number: usize, signal: Signal) -> anyhow::Result<()> {
        kill(self.process(number)?, signal).context("signal the server")
    }

    /// Kills a server without warning.
    pub fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        self.signal(number, Signal::SIGKILL)?;
        let mut server = self.members[number].server.take().context("the server does not run")?;
        server.wait()?;
        Ok(())
    }

    /// Waits until a server has ended by itself because it could not go on; what it has logged.
    pub fn ended(&mut self, number: usize) -> anyhow::Result<String> {
        let mut server = self.members[number].server.take().context("the server does not run")?;
        let status = server.wait()?;
        ensure!(!status.success(), "server {number} ended well");
        self.log(number)
    }

    /// Asks a server to end, and waits until it has.
    pub fn stop(&mut self, number: usize) -> anyhow::Result<()> {
        self.signal(number, Signal::SIGTERM)?;
        let mut server = self.members[number].server.take().context("the server does not run")?;
        let status = server.wait()?;
        ensure!(status.success(), "server {number} ended with {status}:\n{}", self.log(number)?);
        Ok(())
    }

    /// Halts a server in the middle of what it does.
    pub fn suspend(&self, number: usize) -> anyhow::Result<()> {
        self.signal(number, Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn resume(&self, number: usize) -> anyhow::Result<()> {
        self.signal(number, Signal::SIGCONT)
    }

    /// Pulls a machine's cable, or plugs it in.
    pub fn connect(&self, number: usize, connected: bool) -> anyhow::Result<()> {
        let state = if connected { "up" } else { "down" };
        run(self.on_the_network("ip").args(["link", "set", &format!("server{number}"), state])).map(drop)
    }

    /// Fills a machine's disk to the last byte.
    pub fn fill_disk(&self, number: usize) -> anyhow::Result<()> {
        ensure!(!matches!(self.disk, Disk::Shared), "the machines' disk is that of others too");
        let file = self.folder(number).join("filler");
        // It ends with an error when nothing is left.
        let output = self.on(number, "dd").args(["if=/dev/zero", "bs=64k"]).arg(of(&file)).output()?;
        ensure!(!output.status.success(), "the disk of server {number} is not full:\n{}", text(&output));
        Ok(())
    }

    /// Makes room on it again.
    pub fn free_disk(&self, number: usize) -> anyhow::Result<()> {
        fs::remove_file(self.folder_in(number).join("filler")).context("free the disk")
    }

    /// The number of the server that leads, as one of them says.
    pub fn leader(&self, asked: usize) -> anyhow::Result<usize> {
        let list: serde_json::Value =
            serde_json::from_str(&self.keelson(asked, &["members", "list", "-o", "json"])?)?;
        let members = list["members"].as_array().context("no members")?;
        let leader = members.iter().find(|member| member["leader"] == true).context("none leads")?;
        let name = leader["name"].as_str().unwrap_or_default();
        (0..self.members.len()).find(|number| Self::name(*number) == name).context("an unknown member leads")
    }

    /// The members and what they do, by name: `voter`, `learner`.
    pub fn roles(&self, asked: usize) -> anyhow::Result<Vec<(String, String)>> {
        let list: serde_json::Value =
            serde_json::from_str(&self.keelson(asked, &["members", "list", "-o", "json"])?)?;
        let members = list["members"].as_array().context("no members")?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_lowercase();
        let mut roles: Vec<_> =
            members.iter().map(|member| (text(&member["name"]), text(&member["role"]))).collect();
        roles.sort();
        Ok(roles)
    }
}

fn of(file: &Path) -> std::ffi::OsString {
    let mut word = std::ffi::OsString::from("of=");
    word.push(file);
    word
}

impl Drop for Servers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for number in 0..self.members.len() {
                let log = self.log(number).unwrap_or_default();
                // What the replication says of a peer that is gone fills pages, and is known.
                let own = log.lines().rev().filter(|line| !line.contains(" openraft::"));
                let tail: Vec<String> = own.take(10).map(|line| line.chars().take(300).collect()).collect();
                eprintln!("--- the log of server {number}, newest first\n{}", tail.join("\n"));
            }
        }
    }
}
