//! Measures pulls against plain decompression, and prints a JSON line per measurement: `{"measurement":NAME,"value":NUMBER,"unit":UNIT}`.
//!
//! ```text
//! cargo bench -p keelson-runtime --bench pull         # as root; needs Debian's docker-registry, gzip, zstd and busybox-static
//! cargo bench -p keelson-runtime --bench pull -- zstd # of one kind alone
//! ```
//!
//! An image of about 200 MB, packed, of this machine's larger files, in one layer and in four, lies in a registry on loopback. What
//! is measured is the time until it is fetched, verified, unpacked and on the disk for good; beside it, the times that
//! `gzip -dc` and `zstd -dc` take for the same layers, one after the other, when nobody keeps what they say, and when `tar` unpacks it
//! and `sync` waits for the disk; and the time of a pull by Debian's containerd, if it is installed, which waits for no disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keelson_cri::v1;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use ring::digest::{SHA256, digest};
use serde_json::json;

#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../tests/node/harness.rs"]
mod harness;

use harness::Node;

/// Bytes of an image, packed.
const SIZE: u64 = 200_000_000;
/// Files below this are left out: making many of them is another matter than unpacking.
const SMALL: u64 = 16 << 10;
/// Of each measurement the best counts: other work on the machine only adds.
const ROUNDS: usize = 3;
const ADDRESS: &str = "127.0.0.1:5057";

struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn registry(folder: &Path) -> Registry {
    let file = folder.join("registry.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: {ADDRESS}\n",
        folder.join("registry").display()
    );
    fs::write(&file, text).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    let registry = Registry(command.spawn().expect("run docker-registry: install Debian's package"));
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(ADDRESS).is_err() {
        assert!(Instant::now() < deadline, "the registry does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    registry
}

/// How layers are packed.
struct Packing {
    program: &'static str,
    media_type: &'static str,
    /// Plain bytes that make one packed byte of such files, roughly.
    ratio: f64,
}

const PACKINGS: [Packing; 2] = [
    Packing { program: "gzip", media_type: "application/vnd.oci.image.layer.v1.tar+gzip", ratio: 3.1 },
    Packing { program: "zstd", media_type: "application/vnd.oci.image.layer.v1.tar+zstd", ratio: 3.3 },
];

/// Files of this machine.
fn files() -> impl Iterator<Item = PathBuf> {
    let mut folders: Vec<PathBuf> = ["/usr", "/root/.rustup"].map(PathBuf::from).into();
    let mut found: Vec<PathBuf> = Vec::new();
    std::iter::from_fn(move || {
        loop {
            if let Some(file) = found.pop() {
                return Some(file);
            }
            let folder = folders.pop()?;
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    Ok(kind) if kind.is_file() => found.push(entry.path()),
                    Ok(_) | Err(_) => {}
                }
            }
        }
    })
}

/// A layer's file, plain, of at least `size` bytes if there are as many.
fn plain(path: &Path, files: &mut impl Iterator<Item = PathBuf>, size: u64) {
    let mut archive = tar::Builder::new(std::io::BufWriter::new(File::create(path).unwrap()));
    let mut bytes = 0;
    while bytes < size {
        let Some(file) = files.next() else { break };
        let Ok(mut source) = File::open(&file) else { continue };
        let length = source.metadata().unwrap().len();
        if length < SMALL {
            continue;
        }
        bytes += length;
        archive.append_file(file.strip_prefix("/").unwrap(), &mut source).unwrap();
    }
    archive.into_inner().unwrap().into_inner().unwrap();
}

fn name(path: &Path) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, &fs::read(path).unwrap())))
}

/// Packs and pushes an image; answers its layers' files.
async fn push(folder: &Path, packing: &Packing, layers: usize, reference: &Reference) -> Vec<PathBuf> {
    let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    client.auth(reference, &RegistryAuth::Anonymous, RegistryOperation::Push).await.unwrap();
    let mut files = files();
    let (mut packed, mut descriptors, mut diff_ids) = (Vec::new(), Vec::new(), Vec::new());
    for layer in 0..layers {
        let source = folder.join(format!("{}-{layers}-{layer}.tar", packing.program));
        let target = source.with_extension(packing.program);
        plain(&source, &mut files, (SIZE as f64 * packing.ratio) as u64 / layers as u64);
        let out = File::create(&target).unwrap();
        let mut pack = Command::new(packing.program);
        pack.arg("-c").arg(&source).stdout(out).stderr(Stdio::null());
        assert!(pack.status().unwrap().success());
        let (digest, size) = (name(&target), fs::metadata(&target).unwrap().len());
        diff_ids.push(name(&source));
        fs::remove_file(&source).unwrap();
        client.push_blob(reference, fs::read(&target).unwrap(), &digest).await.unwrap();
        descriptors.push(json!({ "mediaType": packing.media_type, "digest": digest, "size": size }));
        packed.push(target);
    }
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
    .into_bytes();
    let config_digest = format!("sha256:{}", hex::encode(digest(&SHA256, &config)));
    let size = config.len();
    client.push_blob(reference, config, &config_digest).await.unwrap();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": size },
        "layers": descriptors,
    });
    let kind = http::HeaderValue::from_static("application/vnd.oci.image.manifest.v1+json");
    client.push_manifest_raw(reference, manifest.to_string().into_bytes(), kind).await.unwrap();
    packed
}

fn tell(measurement: &str, value: f64, unit: &str) {
    let value = (value * 1000.0).round() / 1000.0;
    println!("{}", json!({ "measurement": measurement, "value": value, "unit": unit }));
}

fn decompress(program: &str, layers: &[PathBuf]) -> f64 {
    let since = Instant::now();
    for layer in layers {
        let done = Command::new(program).arg("-dc").arg(layer).stdout(Stdio::null()).status().unwrap();
        assert!(done.success());
    }
    since.elapsed().as_secs_f64()
}

/// The same layers, unpacked and on the disk.
fn unpack(program: &str, layers: &[PathBuf], folder: &Path) -> f64 {
    let target = folder.join("unpacked");
    fs::create_dir(&target).unwrap();
    let since = Instant::now();
    for layer in layers {
        let mut plain = Command::new(program).arg("-dc").arg(layer).stdout(Stdio::piped()).spawn().unwrap();
        let mut tar = Command::new("tar");
        let done = tar.arg("-xC").arg(&target).stdin(plain.stdout.take().unwrap()).status().unwrap();
        assert!(done.success() && plain.wait().unwrap().success());
    }
    assert!(Command::new("sync").arg("-f").arg(&target).status().unwrap().success());
    let time = since.elapsed().as_secs_f64();
    fs::remove_dir_all(&target).unwrap();
    time
}

/// Debian's containerd, with folders of its own.
struct Containerd {
    process: Child,
    socket: PathBuf,
}

impl Containerd {
    /// None where it is not installed.
    fn start(folder: &Path) -> Option<Self> {
        let (socket, folder) = (folder.join("containerd.sock"), folder.join("containerd"));
        fs::create_dir(&folder).unwrap();
        let file = folder.join("config.toml");
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
            folder.join("root"),
            folder.join("state"),
            folder.join("opt")
        );
        fs::write(&file, text).unwrap();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let engine = Self { process: command.spawn().ok()?, socket };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !engine.ctr(&["version"]) {
            assert!(Instant::now() < deadline, "containerd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(engine)
    }

    fn ctr(&self, arguments: &[&str]) -> bool {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket).args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    fn pull(&self, image: &str) -> f64 {
        let since = Instant::now();
        assert!(self.ctr(&["images", "pull", "--plain-http", image]), "containerd pulls {image}");
        let time = since.elapsed().as_secs_f64();
        assert!(self.ctr(&["images", "rm", "--sync", image]));
        time
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where images are pulled to.
struct Pullers {
    node: Node,
    containerd: Option<Containerd>,
}

async fn measure(pullers: &mut Pullers, folder: &Path, packing: &Packing, layers: usize) {
    let Pullers { node, containerd } = pullers;
    let text = format!("{ADDRESS}/bench/{}:{layers}", packing.program);
    let reference = keelson_runtime::image::normalize(&text).unwrap();
    let packed = push(folder, packing, layers, &reference).await;
    let bytes: u64 = packed.iter().map(|layer| fs::metadata(layer).unwrap().len()).sum();
    let image = Some(v1::ImageSpec { image: text.clone(), ..v1::ImageSpec::default() });
    let [mut plain, mut unpacked, mut pulled, mut elsewhere] = [f64::INFINITY; 4];
    for _ in 0..ROUNDS {
        plain = plain.min(decompress(packing.program, &packed));
        unpacked = unpacked.min(unpack(packing.program, &packed, folder));
        if let Some(containerd) = containerd {
            elsewhere = elsewhere.min(containerd.pull(&text));
        }
        let since = Instant::now();
        let request = v1::PullImageRequest { image: image.clone(), ..v1::PullImageRequest::default() };
        node.images.pull_image(request).await.unwrap();
        pulled = pulled.min(since.elapsed().as_secs_f64());
        node.images.remove_image(v1::RemoveImageRequest { image: image.clone() }).await.unwrap();
    }
    let what = format!("{:.0} MB of {}, {layers} layer(s)", bytes as f64 / 1e6, packing.program);
    tell(&format!("{what}: {} -dc", packing.program), plain, "s");
    tell(&format!("{what}: {} -dc, tar -x, sync", packing.program), unpacked, "s");
    tell(&format!("{what}: pulled"), pulled, "s");
    tell(&format!("{what}: pulled, against plain decompression"), pulled / plain, "times");
    tell(&format!("{what}: pulled, against decompression to the disk"), pulled / unpacked, "times");
    if containerd.is_some() {
        tell(&format!("{what}: pulled by containerd"), elsewhere, "s");
        tell(&format!("{what}: pulled, against containerd"), pulled / elsewhere, "times");
    }
    packed.iter().for_each(|layer| fs::remove_file(layer).unwrap());
}

#[tokio::main]
async fn main() {
    // Whoever builds all and runs it to see whether it works does not mean to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let chosen = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let node = Node::start().await;
    let folder = node.folder.join("bench");
    fs::create_dir(&folder).unwrap();
    let mut pullers = Pullers { node, containerd: Containerd::start(&folder) };
    let registry = registry(&folder);
    let is_chosen = |packing: &&Packing| chosen.as_deref().is_none_or(|chosen| packing.program == chosen);
    for packing in PACKINGS.iter().filter(is_chosen) {
        for layers in [1, 4] {
            measure(&mut pullers, &folder, packing, layers).await;
        }
    }
    drop(registry);
    drop(pullers.containerd);
    pullers.node.finish().await;
}
