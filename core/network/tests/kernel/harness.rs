//! Threads in network namespaces, and small servers and clients for them.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use keelson_network::{Config, Pod, PortMapping, Protocol};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{geteuid, gettid};

/// Long enough for a loaded machine, short enough for tests of what does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace that a thread holds.
pub(crate) struct Namespace {
    jobs: mpsc::Sender<Job>,
    path: PathBuf,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(gettid()).unwrap();
            while let Ok(job) = queue.recv() {
                job();
            }
        });
        let path = format!("/proc/self/task/{}/ns/net", told.recv().unwrap());
        Self { jobs, path: PathBuf::from(path) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs something inside.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.jobs.send(Box::new(move || tell.send(job()).unwrap())).unwrap();
        told.recv().expect("the job inside the namespace panicked")
    }
}

pub(crate) struct Node {
    folder: tempfile::TempDir,
}

/// Runs a test as a node; without root there is nothing to test.
pub(crate) fn in_a_node(test: impl AsyncFnOnce(Node) + Send + 'static) {
    if !geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let node = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(Node { folder: tempfile::tempdir().unwrap() }));
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Node {
    pub(crate) fn config(&self) -> Config {
        Config {
            cluster_id: "0badcafe".to_owned(),
            state_dir: self.state(),
            cni_conf_dir: self.folder.path().join("net.d"),
            cni_bin_dirs: vec![self.folder.path().join("bin")],
            ..Config::default()
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("network")
    }

    /// A wire to another namespace, with an address at each end.
    pub(crate) fn connect(&self, other: &Namespace, here: &str, there: &str) {
        let tid = other.run(|| gettid().to_string());
        ip(&format!("link add wire type veth peer name wire netns {tid}"));
        ip(&format!("addr add {here} dev wire"));
        ip("link set wire up");
        let there = there.to_owned();
        other.run(move || {
            ip("link set lo up");
            ip(&format!("addr add {there} dev wire"));
            ip("link set wire up");
        });
    }

    pub(crate) fn assert_empty(&self) {
        let links = ip("-o link");
        assert_eq!(links.lines().count(), 1, "more than loopback is left:\n{links}");
        let mut kernel = keelson_nftables::Connection::open().unwrap();
        assert!(kernel.tables(keelson_nftables::Family::Ipv4).unwrap().is_empty());
        assert!(!self.state().exists());
    }
}

/// Runs `ip` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn pod(id: &str) -> Pod {
    Pod {
        container_id: id.to_owned(),
        namespace: "default".to_owned(),
        name: id.to_owned(),
        uid: format!("uid-{id}"),
    }
}

pub(crate) fn port(
    protocol: Protocol,
    host_port: u16,
    container_port: u16,
    host_ip: Option<&str>,
) -> PortMapping {
    PortMapping { protocol, container_port, host_port, host_ip: host_ip.map(|ip| ip.parse().unwrap()) }
}

/// Ends a server when it is dropped.
pub(crate) struct Server(OwnedFd);

impl Drop for Server {
    fn drop(&mut self) {
        nix::sys::socket::shutdown(self.0.as_raw_fd(), nix::sys::socket::Shutdown::Both).ok();
    }
}

/// A TCP server that tells each client its address.
pub(crate) fn serve(address: impl Into<SocketAddr>) -> Server {
    let listener = TcpListener::bind(address.into()).unwrap();
    let accepting = listener.try_clone().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = accepting.accept() {
            stream.write_all(peer.ip().to_string().as_bytes()).ok();
            stream.shutdown(Shutdown::Write).ok();
        }
    });
    Server(listener.into())
}

/// A UDP server that tells each client its address.
pub(crate) fn serve_udp(address: impl Into<SocketAddr>) -> Server {
    let socket = UdpSocket::bind(address.into()).unwrap();
    let receiving = socket.try_clone().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, peer)) = receiving.recv_from(&mut buffer) {
            if length == 0 {
                return;
            }
            receiving.send_to(peer.ip().to_string().as_bytes(), peer).ok();
        }
    });
    Server(socket.into())
}

/// Asks a TCP server for our address.
pub(crate) fn ask(address: impl Into<SocketAddr>) -> io::Result<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&address.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.parse().map_err(io::Error::other)
}

/// Asks a UDP server for our address.
pub(crate) fn ask_udp(address: impl Into<SocketAddr>) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(address.into())?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    String::from_utf8_lossy(&buffer[..length]).parse().map_err(io::Error::other)
}
