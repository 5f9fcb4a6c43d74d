//! An etcd of a test: one member on loopback, in a folder of its own, to which only clients with a certificate are let.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

pub(crate) struct Member {
    dir: tempfile::TempDir,
    client: SocketAddr,
    peer: SocketAddr,
    process: Option<Child>,
}

fn free() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Writes an authority, and a certificate for both sides.
fn certificates(dir: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(dir.join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    std::fs::write(dir.join("own.crt"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    std::fs::write(dir.join("own.key"), key.serialize_pem()).unwrap();
}

impl Member {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let mut member = Member { dir, client: free(), peer: free(), process: None };
        member.run();
        member
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Starts it again where it was.
    pub(crate) fn run(&mut self) {
        let (client, peer) = (format!("https://{}", self.client), format!("http://{}", self.peer));
        let process = Command::new("etcd")
            .args(["--name", "m", "--data-dir", &self.file("data"), "--log-level", "error"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m={peer}")])
            .args(["--client-cert-auth", "--trusted-ca-file", &self.file("ca.crt")])
            .args(["--cert-file", &self.file("own.crt"), "--key-file", &self.file("own.key")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
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

    /// The flags of a server that keeps its state here.
    pub(crate) fn flags(&self) -> Vec<String> {
        vec![
            "--store=etcd".to_owned(),
            format!("--etcd-servers=https://{}", self.client),
            format!("--etcd-cafile={}", self.file("ca.crt")),
            format!("--etcd-certfile={}", self.file("own.crt")),
            format!("--etcd-keyfile={}", self.file("own.key")),
        ]
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
