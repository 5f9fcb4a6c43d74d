//! An etcd of a test.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::{LONG, eventually};

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// Members on loopback, each at an address and in a folder of its own, to which only clients with a certificate are let.
///
/// `KEELSON_TEST_ETCD` names another program than the `etcd` on the PATH. What runs ends with the value.
pub struct Etcd {
    members: Vec<Member>,
    arguments: Vec<String>,
    dir: tempfile::TempDir,
}

struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    process: Option<Child>,
}

impl Member {
    fn new(etcd: (u8, u8), number: usize) -> anyhow::Result<Self> {
        let ip = [127, etcd.0, etcd.1, u8::try_from(number + 1)?];
        Ok(Member { client: (ip, CLIENT_PORT).into(), peer: (ip, PEER_PORT).into(), process: None })
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // What has ended by itself needs no signal.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The middle of addresses that neither another etcd of this process uses nor one of another process.
fn network() -> (u8, u8) {
    static ETCDS: AtomicU8 = AtomicU8::new(0);
    let process = 1 + (std::process::id() % 250) as u8;
    (process, ETCDS.fetch_add(1, Ordering::Relaxed))
}

/// Writes an authority with certificates of servers and of a client, and another one with that of a stranger.
fn certificates(dir: &Path, members: &[Member]) -> anyhow::Result<()> {
    for (authority, names) in [("ca", ["server", "client"].as_slice()), ("other-ca", &["stranger"])] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, authority);
        std::fs::write(dir.join(format!("{authority}.crt")), params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        for name in names {
            let key = KeyPair::generate()?;
            let addresses = members.iter().map(|member| member.client.ip().to_string());
            let addresses = addresses.chain(["localhost".to_owned(), "127.0.0.1".to_owned()]);
            let mut params = CertificateParams::new(addresses.collect::<Vec<_>>())?;
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            let certificate = params.signed_by(&key, &issuer)?.pem();
            std::fs::write(dir.join(format!("{name}.crt")), certificate)?;
            std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem())?;
        }
    }
    Ok(())
}

impl Etcd {
    /// One member.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(1, &[])
    }

    /// So many members, with further arguments.
    pub fn start_with(count: usize, arguments: &[&str]) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("keelson-e2e-").tempdir()?;
        let network = network();
        let members =
            (0..count).map(|number| Member::new(network, number)).collect::<anyhow::Result<Vec<_>>>()?;
        certificates(dir.path(), &members)?;
        let arguments = arguments.iter().map(|it| (*it).to_owned()).collect();
        let mut etcd = Etcd { members, arguments, dir };
        (0..count).try_for_each(|number| etcd.run(number))?;
        Ok(etcd)
    }

    /// Starts a member where it was. Clients have to wait until it answers.
    pub fn run(&mut self, number: usize) -> anyhow::Result<()> {
        let peers = self.members.iter().enumerate();
        let all: Vec<String> =
            peers.map(|(number, member)| format!("m{number}=http://{}", member.peer)).collect();
        let member = &self.members[number];
        ensure!(member.process.is_none(), "the member runs");
        let (name, file) = (format!("m{number}"), |name: &str| self.file(name).display().to_string());
        let (client, peer) = (format!("https://{}", member.client), format!("http://{}", member.peer));
        let log = File::options().create(true).append(true).open(self.file(&format!("{name}.log")))?;
        let program = std::env::var("KEELSON_TEST_ETCD").unwrap_or_else(|_| "etcd".to_owned());
        let process = Command::new(program)
            .args(["--name", &name, "--data-dir", &file(&name), "--log-level", "warn"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all.join(",")])
            .args(["--client-cert-auth", "--trusted-ca-file", &file("ca.crt")])
            .args(["--cert-file", &file("server.crt"), "--key-file", &file("server.key")])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .spawn()
            .context("run etcd: install Debian's etcd-server")?;
        self.members[number].process = Some(process);
        Ok(())
    }

    /// Ends a member without a farewell.
    pub fn kill(&mut self, number: usize) {
        self.members[number].kill();
    }

    fn signal(&self, number: usize, signal: Signal) -> anyhow::Result<()> {
        let process = self.members[number].process.as_ref().context("the member does not run")?;
        nix::sys::signal::kill(Pid::from_raw(i32::try_from(process.id())?), signal).context("signal etcd")
    }

    /// Lets a member answer nothing, without an end of its connections.
    pub fn suspend(&self, number: usize) -> anyhow::Result<()> {
        self.signal(number, Signal::SIGSTOP)?;
        let process = self.members[number].process.as_ref().context("the member does not run")?;
        let threads = PathBuf::from(format!("/proc/{}/task", process.id()));
        eventually("the member to stand still", LONG, || {
            let mut stats = std::fs::read_dir(&threads)?.map(|thread| -> anyhow::Result<String> {
                Ok(std::fs::read_to_string(thread?.path().join("stat"))?)
            });
            let stands = stats.try_fold(true, |all, stat| {
                let stat = stat?;
                anyhow::Ok(all && stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
            })?;
            Ok(stands.then_some(()))
        })
    }

    /// Lets it go on.
    pub fn resume(&self, number: usize) -> anyhow::Result<()> {
        self.signal(number, Signal::SIGCONT)
    }

    /// A file of the folder: `ca.crt`, `client.crt`, `client.key`, and `other-ca.crt`, `stranger.crt`, `stranger.key` of who
    /// is not let in.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where a member listens for clients.
    pub fn address(&self, number: usize) -> SocketAddr {
        self.members[number].client
    }

    /// Where clients find the members.
    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("https://{}", member.client)).collect()
    }

    /// The flags of a server that keeps its state here.
    pub fn flags(&self) -> Vec<String> {
        let file = |name: &str| self.file(name).display().to_string();
        vec![
            "--store=etcd".to_owned(),
            format!("--etcd-servers={}", self.urls().join(",")),
            format!("--etcd-cafile={}", file("ca.crt")),
            format!("--etcd-certfile={}", file("client.crt")),
            format!("--etcd-keyfile={}", file("client.key")),
        ]
    }

    /// What `etcdctl` prints; an error that holds what it says if it fails.
    pub fn etcdctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--dial-timeout", "30s", "--command-timeout", "30s"])
            .args(["--endpoints", &self.urls().join(","), "--cacert"])
            .arg(self.file("ca.crt"))
            .arg("--cert")
            .arg(self.file("client.crt"))
            .arg("--key")
            .arg(self.file("client.key"))
            .args(arguments)
            .output()
            .context("run etcdctl: install Debian's etcd-client")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for number in 0..self.members.len() {
                let log = std::fs::read_to_string(self.file(&format!("m{number}.log"))).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                eprintln!("--- the log of etcd's member {number}, newest first\n{}", tail.join("\n"));
            }
        }
    }
}
