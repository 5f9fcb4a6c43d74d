//! A runtime in a folder of its own, CRI clients for it, and an image made of busybox.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keelson_cri::v1;
use keelson_cri::v1::image_service_client::ImageServiceClient;
use keelson_cri::v1::runtime_service_client::RuntimeServiceClient;
use keelson_runtime::image::{ImageStore, Registries, SelfImage};
use keelson_runtime::network::{NetworkError, PodIdentity, PodNetwork, PortMapping};
use keelson_runtime::{Config, Error, PodProcess};
use ring::digest::{SHA256, digest};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

/// Pods keep the loopback interface that they have.
struct NoNetwork;

#[async_trait]
impl PodNetwork for NoNetwork {
    async fn add(
        &self,
        netns: &Path,
        _: &PodIdentity,
        _: &[PortMapping],
    ) -> Result<Vec<IpAddr>, NetworkError> {
        if !netns.exists() {
            return Err(NetworkError::new("no such namespace"));
        }
        Ok(vec!["192.0.2.7".parse().unwrap()])
    }
    async fn del(&self, _: Option<&Path>, _: &PodIdentity, _: &[PortMapping]) -> Result<(), NetworkError> {
        Ok(())
    }
    async fn status(&self) -> Result<(), NetworkError> {
        Ok(())
    }
    async fn configure(&self, _: &str) -> Result<(), NetworkError> {
        Ok(())
    }
}

pub(crate) struct Node {
    pub(crate) folder: PathBuf,
    pub(crate) config: Config,
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

async fn serve(config: &Config) -> (CancellationToken, JoinHandle<Result<(), Error>>, Channel) {
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(keelson_runtime::run(config.clone(), shutdown.clone()));
    let socket = config.socket.clone();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let socket = socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        match Endpoint::from_static("http://cri").connect_with_connector(connector).await {
            Ok(channel) => return (shutdown, task, channel),
            Err(error) => {
                assert!(!task.is_finished(), "the runtime ended: {:?}", task.await);
                assert!(std::time::Instant::now() < deadline, "no CRI socket: {error}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

impl Node {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("keelson-runtime-").tempdir().unwrap().keep();
        let id = hex::encode(rand::random::<[u8; 4]>());
        let exe = std::env::current_exe().unwrap();
        let config = Config {
            root: folder.join("runtime"),
            socket: folder.join("cri.sock"),
            cluster_id: id.clone(),
            cgroup_root: format!("/keelson-test-{id}"),
            cgroup_driver: keelson_cgroup::Driver::Cgroupfs,
            pod_process: PodProcess { program: exe.clone(), arguments: vec![OsString::from("pod-process")] },
            network: Arc::new(NoNetwork),
            registries: Registries { hosts: folder.join("certs.d"), ..Registries::default() },
            self_image: Some(SelfImage { name: "keelson.io/keelson:test".to_owned(), binary: exe }),
        };
        let store = ImageStore::open(config.root.join("images")).unwrap();
        let archive = folder.join("busybox.tar");
        busybox(&archive);
        store.import(&archive, None).unwrap();
        let (shutdown, task, channel) = serve(&config).await;
        let runtime = RuntimeServiceClient::new(channel.clone());
        Self { folder, config, runtime, images: ImageServiceClient::new(channel), shutdown, task }
    }

    /// Stops the runtime and starts it again on the same folder.
    pub(crate) async fn restart(&mut self) {
        self.shutdown.cancel();
        self.task.abort();
        let _ = (&mut self.task).await;
        let (shutdown, task, channel) = serve(&self.config).await;
        self.runtime = RuntimeServiceClient::new(channel.clone());
        self.images = ImageServiceClient::new(channel);
        (self.shutdown, self.task) = (shutdown, task);
    }

    /// Everything goes; nothing may stay behind.
    pub(crate) async fn finish(self) {
        self.shutdown.cancel();
        self.task.abort();
        let _ = self.task.await;
        keelson_runtime::remove_all(self.config.clone(), std::time::Duration::ZERO).await.unwrap();
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let name = self.folder.to_str().unwrap();
        assert!(!mounts.contains(name), "mounts left behind");
        let groups = Path::new("/sys/fs/cgroup/memory").join(self.config.cgroup_root.trim_matches('/'));
        assert!(!groups.exists(), "control groups left behind");
        std::fs::remove_dir_all(&self.folder).unwrap();
    }

    pub(crate) fn sandbox_config(&self, name: &str) -> v1::PodSandboxConfig {
        let options = v1::NamespaceOption { pid: v1::NamespaceMode::Container as i32, ..Default::default() };
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.folder.join("logs").join(name).display().to_string(),
            dns_config: Some(v1::DnsConfig { servers: vec!["10.96.0.10".to_owned()], ..Default::default() }),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/burstable/pod{name}", self.config.cgroup_root),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub(crate) async fn sandbox(&mut self, name: &str) -> String {
        let config = Some(self.sandbox_config(name));
        let request = v1::RunPodSandboxRequest { config, ..Default::default() };
        self.runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    pub(crate) fn shell(&self, name: &str, script: &str) -> v1::ContainerConfig {
        let image = Some(v1::ImageSpec { image: "busybox:test".to_owned(), ..Default::default() });
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image,
            command: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
            log_path: format!("{name}.log"),
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        pid: v1::NamespaceMode::Container as i32,
                        ..Default::default()
                    }),
                    seccomp: Some(v1::SecurityProfile::default()),
                    masked_paths: vec!["/proc/kcore".to_owned(), "/proc/keys".to_owned()],
                    readonly_paths: vec!["/proc/sys".to_owned()],
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub(crate) async fn create(&mut self, sandbox: &str, config: v1::ContainerConfig) -> String {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: None,
        };
        self.runtime.create_container(request).await.unwrap().into_inner().container_id
    }

    pub(crate) async fn start_container(&mut self, id: &str) -> Result<(), tonic::Status> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.runtime.start_container(request).await.map(drop)
    }

    pub(crate) async fn launch(&mut self, sandbox: &str, config: v1::ContainerConfig) -> String {
        let id = self.create(sandbox, config).await;
        self.start_container(&id).await.unwrap();
        id
    }

    pub(crate) async fn status(&mut self, id: &str) -> v1::ContainerStatus {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.runtime.container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    /// Waits until the container has ended.
    pub(crate) async fn ended(&mut self, id: &str) -> v1::ContainerStatus {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let status = self.status(id).await;
            if status.state() == v1::ContainerState::ContainerExited {
                return status;
            }
            assert!(std::time::Instant::now() < deadline, "container did not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn exec(&mut self, id: &str, script: &str) -> v1::ExecSyncResponse {
        let cmd = ["sh", "-c", script].map(ToOwned::to_owned).to_vec();
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 10 };
        self.runtime.exec_sync(request).await.unwrap().into_inner()
    }

    pub(crate) fn log(&self, pod: &str, container: &str) -> String {
        std::fs::read_to_string(self.folder.join("logs").join(pod).join(format!("{container}.log"))).unwrap()
    }
}

fn own(header: &mut tar::Header) {
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
}

fn add(builder: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    own(&mut header);
    builder.append_data(&mut header, name, content).unwrap();
}

/// A docker archive `busybox:test` of two layers, the second of which hides a file of the first.
fn busybox(path: &Path) {
    let mut base = tar::Builder::new(Vec::new());
    add(&mut base, "bin/busybox", 0o755, &std::fs::read("/bin/busybox").unwrap());
    for applet in [
        "sh", "ls", "cat", "id", "sleep", "echo", "stty", "tty", "mount", "unshare", "dd", "env", "nc", "ps",
        "touch", "mknod", "true",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        own(&mut header);
        base.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    add(&mut base, "etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n");
    add(&mut base, "etc/group", 0o644, b"root:x:0:\nextra:x:300:web\n");
    add(&mut base, "hidden", 0o644, b"x");
    let base = base.into_inner().unwrap();
    let mut top = tar::Builder::new(Vec::new());
    add(&mut top, ".wh.hidden", 0o644, b"");
    add(&mut top, "shown", 0o644, b"yes\n");
    let top = top.into_inner().unwrap();
    let name = |bytes: &[u8]| format!("sha256:{}", hex::encode(digest(&SHA256, bytes)));
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux",
        "config": { "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sh"], "StopSignal": "SIGUSR1" },
        "rootfs": { "type": "layers", "diff_ids": [name(&base), name(&top)] },
    });
    let manifest = serde_json::json!([{
        "Config": "config.json", "RepoTags": ["busybox:test"], "Layers": ["base/layer.tar", "top/layer.tar"]
    }]);
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "config.json", 0o644, config.to_string().as_bytes());
    add(&mut archive, "base/layer.tar", 0o644, &base);
    add(&mut archive, "top/layer.tar", 0o644, &top);
    add(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes());
    std::fs::write(path, archive.into_inner().unwrap()).unwrap();
}

/// Blobs that a registry was asked for, with the range of bytes.
pub(crate) type Asked = Arc<std::sync::Mutex<Vec<(String, String)>>>;
/// All that a registry was asked, and whether credentials were shown.
pub(crate) type Requests = Arc<std::sync::Mutex<Vec<(Uri, bool)>>>;

/// A registry on loopback that serves one image as an index.
pub(crate) struct Registry {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) blobs: Asked,
    pub(crate) requests: Requests,
}

/// Starts a registry; one that is guarded wants the user `u` with password `p`. What it sends of a large blob for the first time
/// breaks off in the middle.
pub(crate) async fn registry(archive: &Path, guarded: bool) -> Registry {
    use axum::http::{HeaderMap, StatusCode, Uri, header};
    use axum::response::IntoResponse as _;

    let mut files = std::collections::HashMap::new();
    for entry in tar::Archive::new(std::fs::File::open(archive).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        files.insert(name, bytes);
    }
    let name = |bytes: &[u8]| format!("sha256:{}", hex::encode(digest(&SHA256, bytes)));
    let pack = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let mut blobs = std::collections::HashMap::new();
    let config = files["config.json"].clone();
    let mut layers = Vec::new();
    for layer in ["base/layer.tar", "top/layer.tar"] {
        let packed = pack(&files[layer]);
        layers.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": name(&packed), "size": packed.len()
        }));
        blobs.insert(name(&packed), packed);
    }
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": name(&config), "size": config.len()
        },
        "layers": layers,
    })
    .to_string();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": name(manifest.as_bytes()), "size": manifest.len(),
            "platform": { "os": "linux", "architecture": architecture },
        }],
    })
    .to_string();
    blobs.insert(name(&config), config);
    let documents = [
        ("latest".to_owned(), index.clone(), "application/vnd.oci.image.index.v1+json"),
        (name(manifest.as_bytes()), manifest.clone(), "application/vnd.oci.image.manifest.v1+json"),
    ];
    let asked = Asked::default();
    let told = Arc::clone(&asked);
    let requests = Requests::default();
    let noted = Arc::clone(&requests);
    let serve = move |uri: Uri, headers: HeaderMap| {
        let response = || {
            use base64::Engine as _;
            let expected = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("u:p"));
            let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            noted.lock().unwrap().push((uri.clone(), given.is_some()));
            if guarded && given != Some(expected.as_str()) {
                let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")];
                return (StatusCode::UNAUTHORIZED, challenge, "{\"errors\":[]}").into_response();
            }
            let last = uri.path().rsplit('/').next().unwrap_or_default();
            if uri.path().contains("/manifests/")
                && let Some((_, text, kind)) = documents.iter().find(|(name, ..)| name == last)
            {
                let digest = name(text.as_bytes());
                let headers = [("content-type", (*kind).to_owned()), ("docker-content-digest", digest)];
                return (headers, text.clone()).into_response();
            }
            if uri.path() == "/v2/" {
                return "{}".into_response();
            }
            let range = headers.get(header::RANGE).map_or("", |range| range.to_str().unwrap());
            if uri.path().contains("/blobs/") {
                told.lock().unwrap().push((last.to_owned(), range.to_owned()));
            }
            match blobs.get(last) {
                Some(bytes) if bytes.len() > 10_000 && range.is_empty() => {
                    let half = axum::body::Bytes::copy_from_slice(&bytes[..bytes.len() / 2]);
                    let broken = std::io::Error::other("the connection breaks off");
                    let pieces = futures::stream::iter([Ok(half), Err(broken)]);
                    // The first half is on its way before the connection ends.
                    let pieces = futures::StreamExt::then(pieces, |piece| async {
                        for _ in 0..100 {
                            tokio::task::yield_now().await;
                        }
                        piece
                    });
                    axum::body::Body::from_stream(pieces).into_response()
                }
                Some(bytes) if !range.is_empty() => {
                    let from =
                        range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).unwrap();
                    let rest = bytes[from.parse::<usize>().unwrap()..].to_vec();
                    (StatusCode::PARTIAL_CONTENT, rest).into_response()
                }
                Some(bytes) => bytes.clone().into_response(),
                None => {
                    let text = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
                    (StatusCode::NOT_FOUND, text).into_response()
                }
            }
        };
        std::future::ready(response())
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = axum::Router::new().fallback(serve);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Registry { address, blobs: asked, requests }
}
