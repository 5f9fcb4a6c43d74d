//! Several servers that are one cluster, each in network and mount namespaces of its own, on one bridge.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kubectl::{Kubectl, text};
use crate::{LONG, binary, eventually};

/// Servers, their network and their folders. All of it goes with the value.
pub struct Servers {
    dir: tempfile::TempDir,
    /// Holds the namespace of the bridge, where the tests' clients are too.
    network: Child,
    members: Vec<Member>,
}

/// A machine of its own, as far as its network and its disk go.
struct Member {
    /// Holds its namespaces.
    holder: Child,
    server: Option<Child>,
}

/// A process that holds new namespaces and runs a script in them first.
fn holder(script: &str, argument: &Path) -> anyhow::Result<Child> {
    ensure!(nix::unistd::geteuid().is_root(), "namespaces need root: run the tests as root");
    let script = format!("set -e; ip link set lo up; {script} echo ready; exec sleep infinity");
    let mut holder = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("run unshare")?;
    let mut output = holder.stdout.take().context("the holder has no output")?;
    let mut ready = [0; 6];
    output.read_exact(&mut ready).context("make namespaces: is iproute2 installed?")?;
    Ok(holder)
}

fn prefix(holder: &Child) -> Vec<String> {
    ["nsenter", "--net", "--mount", "--target", &holder.id().to_string()].map(str::to_owned).to_vec()
}

fn end(child: &mut Child) {
    // What has ended by itself needs no signal.
    let _ = child.kill();
    let _ = child.wait();
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed:\n{}", text(&output));
    Ok(String::from_utf8(output.stdout)?)
}

impl Servers {
    /// A network with room for servers, of which none runs yet.
    pub fn network() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("keelson-e2e-").tempdir()?;
        let bridge = "ip link add br0 type bridge; ip addr add 10.77.0.254/24 dev br0; ip link set br0 up;";
        let network = holder(bridge, dir.path())?;
        Ok(Servers { dir, network, members: Vec::new() })
    }

    /// So many servers that are one cluster, each a voter.
    pub fn start(count: usize) -> anyhow::Result<Self> {
        let mut servers = Self::network()?;
        servers.add_machine()?;
        servers.run(0, &[])?;
        for _ in 1..count {
            servers.join()?;
        }
        Ok(servers)
    }

    /// One more machine, and its number. Its disk is in memory and holds 256 MiB.
    pub fn add_machine(&mut self) -> anyhow::Result<usize> {
        let number = self.members.len();
        let folder = self.folder(number);
        fs::create_dir_all(&folder)?;
        let holder = holder("mount -t tmpfs -o size=256m server \"$0\";", &folder)?;
        let (cable, target) = (format!("server{number}"), holder.id().to_string());
        let peer = ["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &target];
        run(self.on_the_network("ip").args(peer))?;
        run(self.on_the_network("ip").args(["link", "set", &cable, "master", "br0", "up"]))?;
        self.members.push(Member { holder, server: None });
        let address = format!("{}/24", self.address(number));
        run(self.on(number, "ip").args(["addr", "add", &address, "dev", "eth0"]))?;
        run(self.on(number, "ip").args(["link", "set", "eth0", "up"]))?;
        Ok(number)
    }

    /// One more server, which joins the first that runs, and its number.
    pub fn join(&mut self) -> anyhow::Result<usize> {
        let first = self.running().first().copied().context("no server runs that could be joined")?;
        let token = self.keelson(first, &["token", "create", "--quiet", "--role", "server"])?;
        let number = self.add_machine()?;
        self.run(number, &["--server", &self.url(first), "--token", token.trim()])?;
        let voter = (Self::name(number), "voter".to_owned());
        eventually("the server to vote", LONG, || Ok(self.roles(first)?.contains(&voter).then_some(())))?;
        Ok(number)
    }

    /// Runs the server of a machine until it is ready.
    pub fn run(&mut self, number: usize, flags: &[&str]) -> anyhow::Result<()> {
        let mut child = self.spawn(number, flags)?;
        let output = child.stdout.take().context("the server has no output")?;
        let mut lines = BufReader::new(output).lines();
        loop {
            let Some(line) = lines.next() else {
                let status = child.wait()?;
                bail!("server {number} ended with {status} before it was ready:\n{}", self.log(number)?);
            };
            if line?.starts_with("API server ready at ") {
                break;
            }
        }
        // The pipe is read to its end, so that the server never waits for it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        self.members[number].server = Some(child);
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

    fn folder(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("server-{number}"))
    }

    /// The folder of its data, as it is reached from outside of its namespaces.
    pub fn folder_in(&self, number: usize) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.members[number].holder.id()));
        let folder = self.folder(number);
        root.join(folder.strip_prefix("/").unwrap_or(&folder))
    }

    fn log_file(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("server-{number}.log"))
    }

    /// What a server has logged.
    pub fn log(&self, number: usize) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.log_file(number))?)
    }

    fn program(&self, holder: &Child, program: &str) -> Command {
        let words = prefix(holder);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program);
        command
    }

    /// A program on a machine.
    pub fn on(&self, number: usize, program: &str) -> Command {
        self.program(&self.members[number].holder, program)
    }

    /// A program on the network between the machines.
    pub fn on_the_network(&self, program: &str) -> Command {
        self.program(&self.network, program)
    }

    /// The namespace of the network between the machines.
    pub fn network_namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.network.id()))
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
            prefix: prefix(&self.network),
            program: "kubectl".to_owned(),
            kubeconfig: self.kubeconfig(number),
            home: self.dir.path().to_owned(),
        }
    }

    fn signal(&self, number: usize, signal: Signal) -> anyhow::Result<()> {
        let server = self.members[number].server.as_ref().context("the server does not run")?;
        // nsenter has become the server.
        kill(Pid::from_raw(i32::try_from(server.id())?), signal).context("signal the server")
    }

    /// Kills a server without warning.
    pub fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        self.signal(number, Signal::SIGKILL)?;
        let mut server = self.members[number].server.take().context("the server does not run")?;
        server.wait()?;
        Ok(())
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
            serde_json::from_str(&self.keelson(asked, &["members", "list", "--json"])?)?;
        let members = list["members"].as_array().context("no members")?;
        let leader = members.iter().find(|member| member["leader"] == true).context("none leads")?;
        let name = leader["name"].as_str().unwrap_or_default();
        (0..self.members.len()).find(|number| Self::name(*number) == name).context("an unknown member leads")
    }

    /// The members and what they do, by name: `voter`, `learner`.
    pub fn roles(&self, asked: usize) -> anyhow::Result<Vec<(String, String)>> {
        let list: serde_json::Value =
            serde_json::from_str(&self.keelson(asked, &["members", "list", "--json"])?)?;
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
                let tail: Vec<&str> = log.lines().rev().take(30).collect();
                eprintln!("--- the log of server {number}, newest first\n{}", tail.join("\n"));
            }
        }
        for member in &mut self.members {
            if let Some(server) = &mut member.server {
                end(server);
            }
            end(&mut member.holder);
        }
        end(&mut self.network);
    }
}
