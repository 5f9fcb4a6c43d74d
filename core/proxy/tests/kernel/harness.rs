//! Threads in network namespaces, and small servers and clients for them.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use keelson_network::{Pod, PodNetwork};
use keelson_proxy::Config;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{geteuid, gettid};
use tokio_util::sync::CancellationToken;

use crate::api::Api;

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

/// A node with a pod network, a proxy, and somebody outside at the other end of a wire.
pub(crate) struct Node {
    _folder: tempfile::TempDir,
    network: PodNetwork,
    pub(crate) api: Api,
    pub(crate) outside: Namespace,
    shutdown: CancellationToken,
    proxy: Option<tokio::task::JoinHandle<Result<(), keelson_proxy::Error>>>,
}

pub(crate) const CLUSTER: &str = "0badcafe";
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Runs a test as a node; without root there is nothing to test.
pub(crate) fn in_a_node(test: impl AsyncFnOnce(&mut Node) + Send + 'static) {
    if !geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let node = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut node = Node::new().await;
            node.start();
            test(&mut node).await;
            node.stop().await;
            keelson_proxy::remove_all(CLUSTER).unwrap();
            keelson_proxy::remove_all(CLUSTER).unwrap();
            node.network.remove_all().await.unwrap();
            let mut kernel = keelson_nftables::Connection::open().unwrap();
            assert!(kernel.tables(keelson_nftables::Family::Ipv4).unwrap().is_empty());
        });
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Node {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let outside = Namespace::new();
        let tid = outside.run(|| gettid().to_string());
        ip(&format!("link add wire type veth peer name wire netns {tid}"));
        ip(&format!("addr add {NODE}/24 dev wire"));
        ip("link set wire up");
        outside.run(|| {
            ip("link set lo up");
            ip(&format!("addr add {OUTSIDE}/24 dev wire"));
            ip("link set wire up");
            ip(&format!("route add default via {NODE}"));
        });
        let network = PodNetwork::start(keelson_network::Config {
            cluster_id: CLUSTER.to_owned(),
            state_dir: folder.path().join("network"),
            cni_conf_dir: folder.path().join("net.d"),
            cni_bin_dirs: vec![folder.path().join("bin")],
            ..keelson_network::Config::default()
        });
        Self {
            network: network.await.unwrap(),
            _folder: folder,
            api: Api::default(),
            outside,
            shutdown: CancellationToken::new(),
            proxy: None,
        }
    }

    pub(crate) fn start(&mut self) {
        let config = Config {
            cluster_id: CLUSTER.to_owned(),
            node_name: "here".to_owned(),
            node_ips: vec![IpAddr::V4(NODE)],
            pod_cidrs: vec!["10.42.0.0/24".parse().unwrap()],
            service_cidr: "10.96.0.0/16".parse().unwrap(),
        };
        self.shutdown = CancellationToken::new();
        let run = keelson_proxy::run(config, self.api.client(), self.shutdown.clone());
        self.proxy = Some(tokio::spawn(run));
    }

    pub(crate) async fn stop(&mut self) {
        self.shutdown.cancel();
        if let Some(proxy) = self.proxy.take() {
            proxy.await.unwrap().unwrap();
        }
    }

    /// A pod with a TCP and a UDP server at port 8080 that tell the name and the client's address.
    pub(crate) async fn pod(&self, name: &'static str) -> (Namespace, Ipv4Addr) {
        let namespace = Namespace::new();
        let pod = Pod {
            container_id: name.to_owned(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
        };
        let added = self.network.add(namespace.path(), &pod, &[]).await.unwrap();
        let IpAddr::V4(address) = added.ips[0] else { panic!("{:?}", added.ips) };
        namespace.run(move || serve(name, 8080));
        (namespace, address)
    }

    /// Waits until something is so.
    pub(crate) async fn eventually(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(Instant::now() < end, "not within 20 s: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Runs `ip` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Serves TCP and UDP until the process ends: each client is told the server's name and its own address.
pub(crate) fn serve(name: &'static str, port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            stream.write_all(format!("{name} {}", peer.ip()).as_bytes()).ok();
            stream.shutdown(Shutdown::Write).ok();
        }
    });
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer).ok();
        }
    });
}

/// Who answered, and whom they saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) server: String,
    pub(crate) client: Ipv4Addr,
}

fn answer(text: &str) -> io::Result<Answer> {
    let (server, client) = text.split_once(' ').ok_or_else(|| io::Error::other(format!("{text:?}")))?;
    Ok(Answer { server: server.to_owned(), client: client.parse().map_err(io::Error::other)? })
}

/// Asks by TCP.
pub(crate) fn ask(address: impl Into<SocketAddr>) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    answer(&text)
}

/// A UDP socket of one client.
pub(crate) struct Asker(UdpSocket);

impl Asker {
    pub(crate) fn new(address: impl Into<SocketAddr>) -> Self {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(address.into()).unwrap();
        Self(socket)
    }

    pub(crate) fn ask(&self) -> io::Result<Answer> {
        self.0.send(b"?")?;
        let mut buffer = [0; 64];
        let length = self.0.recv(&mut buffer)?;
        answer(&String::from_utf8_lossy(&buffer[..length]))
    }
}
