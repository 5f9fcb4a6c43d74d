//! An etcd of a test: one member on loopback, in a folder of its own, to which only clients with a certificate are let.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keelson_etcd::Config;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

pub(crate) struct Etcd {
    dir: tempfile::TempDir,
    client: SocketAddr,
    peer: SocketAddr,
    arguments: Vec<String>,
    process: Option<Child>,
}

fn free() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Writes an authority, and certificates of the server and of a client, by it and by another one.
fn certificates(dir: &std::path::Path) {
    for (authority, names) in [("ca", ["server", "client"].as_slice()), ("other-ca", &["stranger"])] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, authority);
        std::fs::write(dir.join(format!("{authority}.crt")), params.self_signed(&key).unwrap().pem())
            .unwrap();
        let issuer = Issuer::new(params, key);
        for name in names {
            let key = KeyPair::generate().unwrap();
            let mut params =
                CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            let certificate = params.signed_by(&key, &issuer).unwrap().pem();
            std::fs::write(dir.join(format!("{name}.crt")), certificate).unwrap();
            std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
    }
}

impl Etcd {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        // `RUST_LOG` shows what goes on; another test of this process may have been first.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let arguments = arguments.iter().map(|it| (*it).to_owned()).collect();
        let mut etcd = Etcd { dir, client: free(), peer: free(), arguments, process: None };
        etcd.run();
        etcd
    }

    /// Starts it again where it was.
    pub(crate) fn run(&mut self) {
        let file = |name: &str| self.file(name).display().to_string();
        let (client, peer) = (format!("https://{}", self.client), format!("http://{}", self.peer));
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let program = std::env::var("KEELSON_TEST_ETCD").unwrap_or_else(|_| "etcd".to_owned());
        let process = Command::new(program)
            .args(["--name", "m", "--data-dir", &file("data"), "--log-level", "warn", "--unsafe-no-fsync"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m={peer}")])
            .args(["--client-cert-auth", "--trusted-ca-file", &file("ca.crt")])
            .args(["--cert-file", &file("server.crt"), "--key-file", &file("server.key")])
            .args(&self.arguments)
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .expect("etcd: install Debian's etcd-server");
        self.process = Some(process);
    }

    /// Ends it without a farewell.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = self.process.as_ref().unwrap().id();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id.try_into().unwrap()), signal).unwrap();
    }

    /// Lets it answer nothing, without an end of its connections.
    pub(crate) fn stop(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal(nix::sys::signal::Signal::SIGCONT);
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.client
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.client)
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            ca_file: Some(self.file("ca.crt")),
            cert_file: Some(self.file("client.crt")),
            key_file: Some(self.file("client.key")),
            start_timeout: Duration::from_secs(30),
            ..Config::new([self.url()])
        }
    }

    /// What `etcdctl` says.
    pub(crate) fn etcdctl(&self, arguments: &[&str]) -> String {
        self.try_etcdctl(arguments).unwrap()
    }

    pub(crate) fn try_etcdctl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url(), "--cacert"])
            .arg(self.file("ca.crt"))
            .arg("--cert")
            .arg(self.file("client.crt"))
            .arg("--key")
            .arg(self.file("client.key"))
            .args(arguments)
            .output()
            .expect("etcdctl: install Debian's etcd-client");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
