//! Images come from files and from registries.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use keelson_e2e::{BUSYBOX, Cluster, Engine, LONG, Node, PATIENCE, eventually, image};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

/// Not on loopback, where registries may do without TLS.
const ADDRESS: &str = "10.200.0.1";
/// `user:moby dick`, as htpasswd writes it.
const PASSWORDS: &str = "user:$2b$04$abcdefghijklmnopqrstuuxWv.UA1Pa7264FU1GHWFPxVQqfb4i12\n";

/// Debian's docker-registry in the cluster's network; it ends with its value.
struct Registry {
    process: Child,
    url: String,
    curl: Vec<String>,
}

impl Registry {
    fn start(cluster: &Cluster, name: &str, further: &str, url: &str, curl: &[&str]) -> Registry {
        let folder = cluster.folder().join(name);
        fs::create_dir(&folder).unwrap();
        let listen = url.split("//").nth(1).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: {listen}\n{further}",
            folder.display()
        );
        let file = folder.join("config.yml");
        fs::write(&file, config).unwrap();
        let mut command = cluster.client().program("docker-registry");
        let process =
            command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let curl = ["--silent", "--show-error"].iter().chain(curl).map(|it| (*it).to_owned()).collect();
        let registry = Registry { process, url: url.to_owned(), curl };
        eventually("the registry", LONG, || registry.curl(cluster, &[&format!("{url}/v2/")]).map(Some))
            .unwrap();
        registry
    }

    fn curl(&self, cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<String> {
        let all: Vec<&str> = self.curl.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        cluster.on_the_host("curl", &all)
    }

    /// Pushes an archive of an OCI layout.
    fn push(&self, cluster: &Cluster, archive: &Path, repository: &str, tag: &str) {
        let layout = cluster.folder().join(format!("layout-{}", tag));
        fs::create_dir_all(&layout).unwrap();
        let status = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&layout).status().unwrap();
        assert!(status.success());
        let read = |path: PathBuf| -> serde_json::Value {
            serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
        };
        let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
        let index = read(layout.join("index.json"));
        let manifest_digest = index["manifests"][0]["digest"].as_str().unwrap();
        let manifest = read(blob(manifest_digest));
        let parts = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
        for digest in parts.map(|part| part["digest"].as_str().unwrap()) {
            let begin = [
                "-X",
                "POST",
                "-D",
                "-",
                "-o",
                "/dev/null",
                &format!("{}/v2/{repository}/blobs/uploads/", self.url),
            ];
            let headers = self.curl(cluster, &begin).unwrap();
            let (_, place) = headers
                .lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(name, _)| name.eq_ignore_ascii_case("location"))
                .expect(&headers);
            let place = place.trim();
            let place = format!("{place}&digest={digest}");
            let data = format!("@{}", blob(digest).display());
            let octets = "Content-Type: application/octet-stream";
            self.curl(cluster, &["--fail", "-X", "PUT", "-H", octets, "--data-binary", &data, &place])
                .unwrap();
        }
        let kind = format!("Content-Type: {}", manifest["mediaType"].as_str().unwrap());
        let data = format!("@{}", blob(manifest_digest).display());
        let place = format!("{}/v2/{repository}/manifests/{tag}", self.url);
        self.curl(cluster, &["--fail", "-X", "PUT", "-H", &kind, "--data-binary", &data, &place]).unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A registry of one image, which sends half of a layer, and the rest only to those who ask for the rest.
struct Halves {
    documents: HashMap<String, (&'static str, Vec<u8>)>,
    /// The layer's digest.
    layer: String,
    /// How the layer was asked for.
    asked: Mutex<Vec<String>>,
}

impl Halves {
    const ADDRESS: &str = "127.0.0.1:5009";

    /// Serves the image of an archive as `test/app:1`, and as `test/app:huge` one whose layer nobody has room for.
    fn serve(cluster: &Cluster, archive: &Path) -> Arc<Halves> {
        let mut files = HashMap::new();
        for entry in tar::Archive::new(File::open(archive).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let (name, mut bytes) = (entry.path().unwrap().display().to_string(), Vec::new());
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(name, bytes);
        }
        let mut layer = files.remove("layer.tar").unwrap();
        // A layer that the node does not have: what follows an archive's end counts.
        layer.extend([0; 1024]);
        let name = |bytes: &[u8]| {
            let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
            let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            format!("sha256:{hex}")
        };
        let mut config: serde_json::Value = serde_json::from_slice(&files["config.json"]).unwrap();
        config["rootfs"]["diff_ids"][0] = name(&layer).into();
        let config = config.to_string().into_bytes();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = |digest: &str, size: u64| {
            let text = serde_json::json!({
                "schemaVersion": 2, "mediaType": kind,
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": name(&config), "size": config.len()},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size}],
            });
            (kind, text.to_string().into_bytes())
        };
        let digest = name(&layer);
        let documents = HashMap::from([
            ("/v2/".to_owned(), ("application/json", b"{}".to_vec())),
            ("/v2/test/app/manifests/1".to_owned(), manifest(&digest, layer.len() as u64)),
            ("/v2/test/app/manifests/huge".to_owned(), manifest(&name(b"huge"), 1 << 60)),
            (format!("/v2/test/app/blobs/{}", name(&config)), ("application/octet-stream", config.clone())),
            (format!("/v2/test/app/blobs/{digest}"), ("application/octet-stream", layer)),
        ]);
        let halves = Arc::new(Halves { documents, layer: digest, asked: Mutex::default() });
        let network = File::open(format!("/proc/{}/ns/net", cluster.holder())).unwrap();
        let served = Arc::clone(&halves);
        std::thread::spawn(move || {
            nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            for stream in TcpListener::bind(Self::ADDRESS).unwrap().incoming().flatten() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || served.answer(&stream));
            }
        });
        halves
    }

    fn answer(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        loop {
            let Some(first) = lines.next() else { return Ok(()) };
            let path = first?.split(' ').nth(1).unwrap_or_default().to_owned();
            let mut range = String::new();
            for line in lines.by_ref() {
                let line = line?;
                if line.is_empty() {
                    break;
                }
                if let Some((_, value)) =
                    line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("range"))
                {
                    range = value.to_owned();
                }
            }
            let Some((kind, body)) = self.documents.get(&path) else {
                write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{{}}")?;
                continue;
            };
            let from = range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>();
            let (status, body) = match &from {
                Ok(from) => ("206 Partial Content", &body[*from..]),
                Err(_) => ("200 OK", &body[..]),
            };
            let length = body.len();
            write!(stream, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n")?;
            if path.ends_with(&self.layer) {
                self.asked.lock().unwrap().push(range);
                if from.is_err() {
                    stream.write_all(&body[..length / 2])?;
                    // Until whoever asked has gone.
                    lines.next();
                    return Ok(());
                }
            }
            stream.write_all(body)?;
        }
    }
}

fn pod(name: &str, image: &str, further: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: main, image: \"{image}\", command: [sleep, infinity]}}]\n{further}"
    )
}

fn events(cluster: &Cluster, pod: &str) -> String {
    let fields = format!("involvedObject.name={pod}");
    let columns = "custom-columns=REASON:.reason,MESSAGE:.message";
    cluster.kubectl(&["get", "events", "--field-selector", &fields, "-o", columns]).unwrap()
}

/// Events are written after what they tell of.
fn await_event(cluster: &Cluster, pod: &str, text: &str) {
    eventually(text, LONG, || Ok(events(cluster, pod).contains(text).then_some(()))).unwrap();
}

#[test]
fn images_are_imported_from_archives_and_exported_as_oci_layouts() {
    let cluster = Cluster::up().unwrap();
    let layout = cluster.folder().join("layout.tar").to_string_lossy().into_owned();
    cluster.keelson_prints(&["image", "export", BUSYBOX, &layout]).unwrap();
    cluster.keelson_prints(&["image", "import", &layout, "--name", "test.keelson.io/again:1"]).unwrap();
    // The same layout as a folder.
    let folder = cluster.folder().join("layout");
    fs::create_dir(&folder).unwrap();
    let unpacked = Command::new("tar").args(["-xf", &layout, "-C"]).arg(&folder).status().unwrap();
    assert!(unpacked.success());
    cluster
        .keelson_prints(&["image", "import", &folder.to_string_lossy(), "--name", "test.keelson.io/folder:1"])
        .unwrap();
    for (name, image) in [("again", "test.keelson.io/again:1"), ("folder", "test.keelson.io/folder:1")] {
        cluster.apply(&pod(name, image, "")).unwrap();
        cluster.wait(name, "condition=Ready").unwrap();
        await_event(&cluster, name, "already present on machine");
    }
    let listed = cluster.keelson_prints(&["image", "list"]).unwrap();
    assert!(listed.contains("test.keelson.io/again:1") && listed.contains("keelson.io/keelson:"), "{listed}");
    // The binary's own image does nothing when it is told nothing, and ends when it is asked to: the sandbox of another runtime.
    let own = listed.split_whitespace().find(|word| word.starts_with("keelson.io/keelson:")).unwrap();
    cluster.kubectl(&["run", "idle", "--image", own, "--restart", "Never"]).unwrap();
    cluster.wait("idle", "condition=Ready").unwrap();
    let process = cluster.main_process("idle").unwrap();
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM).unwrap();
    cluster.wait("idle", "jsonpath={.status.phase}=Succeeded").unwrap();
    let broken = cluster.folder().join("broken.tar");
    fs::write(&broken, "not an archive").unwrap();
    let refused = cluster.keelson(&["image", "import", &broken.to_string_lossy()]).unwrap();
    assert!(!refused.status.success());
}

#[test]
fn images_are_had_from_registries_by_those_who_may_and_others_are_told_why_not() {
    images_of_pods(Engine::Embedded);
}

#[test]
fn images_in_containerd_are_had_from_registries_by_those_who_may_and_others_are_told_why_not() {
    images_of_pods(Engine::Containerd);
}

fn images_of_pods(engine: Engine) {
    let node = Node::on(Cluster::namespaces().unwrap(), engine).unwrap();
    node.configure("").unwrap();
    // The authority must be known before the cluster starts.
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![ADDRESS.to_owned()]).unwrap().self_signed(&key).unwrap();
    let (certificate_file, key_file) =
        (node.folder().join("registry.crt"), node.folder().join("registry.key"));
    fs::write(&certificate_file, certificate.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let passwords = node.folder().join("passwords");
    fs::write(&passwords, PASSWORDS).unwrap();
    node.on_the_host("busybox", &["ip", "addr", "add", &format!("{ADDRESS}/32"), "dev", "lo"]).unwrap();
    match &node.containerd {
        Some(containerd) => containerd.trust(&format!("{ADDRESS}:5443"), &certificate_file).unwrap(),
        None => {
            let registries = format!("certificateAuthorities: [{}]\n", certificate_file.display());
            fs::write(node.data_dir().join("registries.yaml"), registries).unwrap();
        }
    }
    node.continue_with(&[]).unwrap();

    let layout = node.folder().join("layout.tar");
    node.keelson_prints(&["image", "export", BUSYBOX, &layout.to_string_lossy()]).unwrap();
    let open = Registry::start(&node, "open", "", "http://127.0.0.1:5000", &[]);
    open.push(&node, &layout, "test/busybox", "1");
    let further = format!(
        "  tls: {{certificate: {}, key: {}}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\n",
        certificate_file.display(),
        key_file.display(),
        passwords.display()
    );
    let credentials = ["--insecure", "--user", "user:moby dick"];
    let guarded =
        Registry::start(&node, "guarded", &further, &format!("https://{ADDRESS}:5443"), &credentials);
    guarded.push(&node, &layout, "test/busybox", "2");
    let image = format!("{ADDRESS}:5443/test/busybox:2");
    without(&node);
    by_secret(&node, &image);
    if engine == Engine::Embedded {
        by_command(&node, &image);
    }
    node.kubectl(&["delete", "pods", "--all", PATIENCE]).unwrap();
    fs::remove_file(node.data_dir().join("kubelet/config.json")).unwrap();
    // The same image where nobody has shown credentials yet.
    guarded.push(&node, &layout, "test/vault", "3");
    by_plugin(&node, &format!("{ADDRESS}:5443/test/vault:3"));
    guarded.push(&node, &layout, "test/robot", "4");
    by_account(&node, &format!("{ADDRESS}:5443/test/robot:4"));
}

/// What a pod says that waits for its next pull: which begins in a moment, and says something else.
fn backs_off(node: &Node, pod: &str) -> String {
    eventually(&format!("pod {pod} to wait for its next pull"), LONG, || {
        let waiting = node.pod(pod, ".status.containerStatuses[0].state.waiting")?;
        let waiting: serde_json::Value = serde_json::from_str(&waiting).unwrap_or_default();
        Ok(waiting["message"].as_str().filter(|_| waiting["reason"] == "ImagePullBackOff").map(str::to_owned))
    })
    .unwrap()
}

/// Images that need no credentials: what policies say, and what pods are told whose images cannot be had.
fn without(node: &Node) {
    let known = "127.0.0.1:5000/test/busybox:1";
    let absent = "127.0.0.1:5000/test/absent:1";
    let policy = |policy: &str, name: &str, image: &str| {
        pod(name, image, "").replace("command:", &format!("imagePullPolicy: {policy}, command:"))
    };
    let late = "test.keelson.io/late:1";
    for manifest in [
        pod("plain", known, ""),
        pod("late", late, ""),
        pod("absent", absent, ""),
        pod("wrong", "test.keelson.io/Wrong:1", ""),
        policy("Never", "never", "test.keelson.io/absent:1"),
    ] {
        node.apply(&manifest).unwrap();
    }
    node.wait("plain", "condition=Ready").unwrap();
    node.told("plain", "Pulling", &format!("Pulling image {known:?}")).unwrap();
    node.told("plain", "Pulled", &format!("Successfully pulled image {known:?} in ")).unwrap();
    node.apply(&policy("Always", "always", known)).unwrap();
    node.apply(&pod("again", known, "")).unwrap();
    node.wait("always", "condition=Ready").unwrap();
    node.wait("again", "condition=Ready").unwrap();
    node.told("always", "Pulled", &format!("Successfully pulled image {known:?} in ")).unwrap();
    let present =
        format!("Container image {known:?} already present on machine and can be accessed by the pod");
    node.told("again", "Pulled", &present).unwrap();

    let message = node.waits("never", "ErrImageNeverPull").unwrap();
    let never = "Container image \"test.keelson.io/absent:1\" is not present with pull policy of Never";
    assert_eq!(message, never);
    node.told("never", "ErrImageNeverPull", never).unwrap();
    let message = node.waits("wrong", "InvalidImageName").unwrap();
    let invalid = "Failed to apply default image tag \"test.keelson.io/Wrong:1\": couldn't parse image name \"test.keelson.io/Wrong:1\": invalid reference format: repository name (Wrong) must be lowercase";
    assert_eq!(message, invalid);
    node.told("wrong", "InspectFailed", invalid).unwrap();
    let message = backs_off(node, "absent");
    let not_found =
        format!("Back-off pulling image {absent:?}: ErrImagePull: rpc error: code = NotFound desc = ");
    assert!(message.starts_with(&not_found) && message.contains("not found"), "{message}");
    node.waits("late", "ImagePullBackOff").unwrap();
    node.told("late", "Failed", "Error: ErrImagePull").unwrap();
    node.told("late", "Failed", &format!("Failed to pull image {late:?}: ")).unwrap();
    node.told("late", "Failed", "Error: ImagePullBackOff").unwrap();
    node.told("late", "BackOff", &format!("Back-off pulling image {late:?}")).unwrap();
    let table = node.kubectl(&["get", "pods"]).unwrap();
    assert!(
        table.contains("0/1     ErrImageNeverPull") && table.contains("0/1     InvalidImageName"),
        "{table}"
    );
    // It heals when it can.
    node.import(late, &json!({}), &[]).unwrap();
    node.wait("late", "condition=Ready").unwrap();
    node.kubectl(&["delete", "pods", "--all", PATIENCE]).unwrap();
}

/// Credentials are in Secrets of pods, or in a file of the node's.
fn by_secret(node: &Node, image: &str) {
    node.apply(&pod("stranger", image, "  imagePullSecrets: [{name: absent}]\n")).unwrap();
    let message = backs_off(node, "stranger");
    assert!(message.starts_with(&format!("Back-off pulling image {image:?}: ErrImagePull: ")), "{message}");
    let denied = match node.engine() {
        Engine::Embedded => "pull access denied",
        Engine::Containerd => "401 Unauthorized",
    };
    assert!(message.contains(denied), "{message}");
    node.told("stranger", "Failed", denied).unwrap();
    let missing =
        "Unable to retrieve some image pull secrets (absent); attempting to pull the image may not succeed.";
    node.told("stranger", "FailedToRetrieveImagePullSecret", missing).unwrap();

    let secret = [
        "create",
        "secret",
        "docker-registry",
        "registry",
        "--docker-username=user",
        "--docker-password=moby dick",
    ];
    node.kubectl(&[&secret[..], &[&format!("--docker-server={ADDRESS}:5443")]].concat()).unwrap();
    node.apply(&pod("known", image, "  imagePullSecrets: [{name: registry}]\n")).unwrap();
    node.wait("known", "condition=Ready").unwrap();
    let id = node.pod("known", ".status.containerStatuses[0].imageID").unwrap();
    assert!(id.contains("sha256:"), "{id}");
    // That one pod could pull it opens the image to those who know the credentials, and to no other.
    node.apply(&pod("guest", image, "")).unwrap();
    let never = pod("never", image, "").replace("command:", "imagePullPolicy: Never, command:");
    node.apply(&never).unwrap();
    node.apply(&pod("friend", image, "  imagePullSecrets: [{name: registry}]\n")).unwrap();
    node.waits("guest", "ImagePullBackOff").unwrap();
    let message = node.waits("never", "ErrImageNeverPull").unwrap();
    assert_eq!(message, format!("Container image {image:?} is not present with pull policy of Never"));
    node.wait("friend", "condition=Ready").unwrap();
    node.told("friend", "Pulled", "already present on machine").unwrap();
    // What the node itself may have is for all.
    let own = format!(r#"{{"auths": {{"{ADDRESS}:5443": {{"auth": "dXNlcjptb2J5IGRpY2s="}}}}}}"#);
    fs::write(node.data_dir().join("kubelet/config.json"), own).unwrap();
    node.wait("guest", "condition=Ready").unwrap();
    node.kubectl(&["delete", "pods", "--all", PATIENCE]).unwrap();
}

/// Where plugins are.
fn plugin_flags(configuration: &Path, programs: &Path) -> [String; 4] {
    [
        "--image-credential-provider-config".to_owned(),
        configuration.display().to_string(),
        "--image-credential-provider-bin-dir".to_owned(),
        programs.display().to_string(),
    ]
}

/// Credentials come from a plugin, which nobody has to trust with a log; and of images that are there a pod shows that it may have
/// them, where the node says so.
fn by_plugin(cluster: &Node, image: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = cluster.folder().join("plugins");
    fs::create_dir(&folder).unwrap();
    let (configuration, fault, asked) =
        (folder.join("config.yaml"), folder.join("fault"), folder.join("asked"));
    let script = format!(
        r#"#!/bin/sh
cat >> {asked}; echo >> {asked}
[ ! -e {fault} ] || {{ echo "$COMPLAINT" >&2; exit 1; }}
cat << END
{{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "cacheKeyType": "Registry",
  "cacheDuration": "1h0m0s", "auth": {{"*.200.0.1:5443": {{"username": "user", "password": "moby $1"}}}}}}
END
"#,
        asked = asked.display(),
        fault = fault.display()
    );
    let program = folder.join("vault");
    fs::write(&program, script).unwrap();
    let text = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: vault\n  \
                apiVersion: credentialprovider.kubelet.k8s.io/v1\n  matchImages: ['10.*.0.1:5443/test']\n  \
                args: [dick]\n  env: [{name: COMPLAINT, value: the vault is closed}]\n";
    fs::write(&configuration, text).unwrap();
    let flags = plugin_flags(&configuration, &folder);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    cluster.kill().unwrap();
    let settings = cluster.data_dir().join("kubelet.yaml");
    let known = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, format!("{known}imagePullCredentialsVerificationPolicy: AlwaysVerify\n")).unwrap();
    let refused = cluster.continue_with(&flags).unwrap_err().to_string();
    assert!(refused.contains("providers.defaultCacheDuration: Required value"), "{refused}");
    fs::write(&configuration, format!("{text}  defaultCacheDuration: 0s\n")).unwrap();
    let refused = cluster.continue_with(&flags).unwrap_err().to_string();
    assert!(refused.contains("error inspecting binary executable"), "{refused}");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&fault, "").unwrap();
    cluster.continue_with(&flags).unwrap();

    let waiting = "jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff";
    cluster.apply(&pod("helped", image, "")).unwrap();
    cluster.apply(&pod("preloaded", BUSYBOX, "")).unwrap();
    cluster.wait("helped", waiting).unwrap();
    cluster.wait("preloaded", waiting).unwrap();
    fs::remove_file(&fault).unwrap();
    cluster.wait("helped", "condition=Ready").unwrap();
    await_event(cluster, "helped", "Successfully pulled image");
    // What a plugin opens is open to the whole node.
    cluster.apply(&pod("other", image, "")).unwrap();
    cluster.wait("other", "condition=Ready").unwrap();
    await_event(cluster, "other", "already present on machine");
    let questions = fs::read_to_string(&asked).unwrap();
    let is_known = |line: &str| {
        let question: serde_json::Value = serde_json::from_str(line).unwrap();
        question["kind"] == "CredentialProviderRequest" && question["image"] == "10.200.0.1:5443/test/vault"
    };
    assert!(questions.lines().all(is_known), "{questions}");
    let node = cluster.field(&["nodes"], ".items[0].metadata.name").unwrap();
    let metrics = cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")]).unwrap();
    for name in [
        "kubelet_credential_provider_plugin_errors_total{plugin_name=\"vault\"}",
        "kubelet_credential_provider_plugin_duration_count{plugin_name=\"vault\"}",
        "kubelet_credential_provider_config_info{hash=\"sha256:",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(name) && !line.ends_with(" 0")), "{name}");
    }
    let log = fs::read_to_string(cluster.data_dir().join("log/keelson.log")).unwrap();
    assert!(log.contains("the vault is closed") && !log.contains("moby dick"));
}

/// A plugin is asked in the name of the pod's service account, where the node may; its image is open to pods of that account alone.
fn by_account(cluster: &Node, image: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = cluster.folder().join("by-account");
    fs::create_dir(&folder).unwrap();
    let (configuration, asked, program) =
        (folder.join("config.yaml"), folder.join("asked"), folder.join("broker"));
    let script = format!(
        r#"#!/bin/sh
question=$(cat)
echo "$question" >> {asked}
case $question in *'"serviceAccountToken":"'*) password='moby dick';; *) password=none;; esac
cat << END
{{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "cacheKeyType": "Image",
  "auth": {{"{ADDRESS}:5443": {{"username": "user", "password": "$password"}}}}}}
END
"#,
        asked = asked.display(),
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let text = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: broker\n  \
                apiVersion: credentialprovider.kubelet.k8s.io/v1\n  matchImages: ['10.*.0.1:5443/test']\n  \
                defaultCacheDuration: 1h\n  tokenAttributes:\n    serviceAccountTokenAudience: registry.example\n    \
                requireServiceAccount: true\n    requiredServiceAccountAnnotationKeys: [example.com/puller]\n";
    let flags = plugin_flags(&configuration, &folder);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    cluster.kill().unwrap();
    fs::write(&configuration, text).unwrap();
    let refused = cluster.continue_with(&flags).unwrap_err().to_string();
    assert!(refused.contains("providers.tokenAttributes.cacheType: Required value"), "{refused}");
    fs::write(&configuration, format!("{text}    cacheType: ServiceAccount\n")).unwrap();
    cluster.continue_with(&flags).unwrap();

    for name in ["robot", "other"] {
        cluster.kubectl(&["create", "serviceaccount", name]).unwrap();
    }
    cluster.kubectl(&["annotate", "serviceaccount", "robot", "example.com/puller=yes"]).unwrap();
    let of = |account: &str| format!("  serviceAccountName: {account}\n");
    cluster.apply(&pod("first", image, &of("robot"))).unwrap();
    cluster.waits("first", "ImagePullBackOff").unwrap();
    let log = || fs::read_to_string(cluster.data_dir().join("log/keelson.log")).unwrap();
    let denied = "is not authorized to request tokens for this audience";
    assert!(log().contains(denied) && !asked.exists());
    // Whoever keeps the cluster lets nodes have such tokens.
    let role = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: pullers}, rules: [\
                {apiGroups: [''], resources: [registry.example], verbs: [request-serviceaccounts-token-audience]}]}";
    cluster.apply(role).unwrap();
    let bind = ["create", "clusterrolebinding", "pullers", "--clusterrole=pullers", "--group=system:nodes"];
    cluster.kubectl(&bind).unwrap();
    cluster.wait("first", "condition=Ready").unwrap();
    cluster.apply(&pod("second", image, &of("robot"))).unwrap();
    cluster.apply(&pod("stranger", image, &of("other"))).unwrap();
    cluster.wait("second", "condition=Ready").unwrap();
    await_event(cluster, "second", "already present on machine");
    cluster.waits("stranger", "ImagePullBackOff").unwrap();

    let questions = fs::read_to_string(&asked).unwrap();
    assert_eq!(questions.lines().count(), 1, "all pods of the account share what was answered: {questions}");
    let question: serde_json::Value = serde_json::from_str(&questions).unwrap();
    assert_eq!(question["serviceAccountAnnotations"], serde_json::json!({ "example.com/puller": "yes" }));
    let token = question["serviceAccountToken"].as_str().unwrap();
    let review = format!(
        "{{apiVersion: authentication.k8s.io/v1, kind: TokenReview, spec: {{token: {token}, audiences: [registry.example]}}}}"
    );
    let user = "jsonpath={.status.user.username} {.status.user.extra['authentication\\.kubernetes\\.io/pod-name'][0]}";
    let user = cluster.client().with(&["create", "-f", "-", "-o", user], &review).unwrap();
    assert_eq!(user, "system:serviceaccount:default:robot first");
    assert!(!log().contains(token));
}

/// Images of the embedded runtime are pulled and removed by command.
fn by_command(cluster: &Cluster, guarded: &str) {
    let list = || cluster.keelson_prints(&["image", "list"]).unwrap();
    for name in ["127.0.0.1:5000/test/busybox:1", guarded] {
        assert!(list().contains(name));
        cluster.keelson_prints(&["image", "remove", name]).unwrap();
        assert!(!list().contains(name));
    }
    let pulled = cluster.keelson_prints(&["image", "pull", "127.0.0.1:5000/test/busybox:1"]).unwrap();
    assert!(pulled.starts_with("sha256:") && list().contains("127.0.0.1:5000/test/busybox:1"), "{pulled}");
    // Another name leads to the same registry, by a file that is read when it is needed.
    let hosts = cluster.data_dir().join("certs.d/registry.example:7000");
    fs::create_dir_all(&hosts).unwrap();
    let text = "[host.\"http://127.0.0.1:1\"]\n[host.\"http://127.0.0.1:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n";
    fs::write(hosts.join("hosts.toml"), text).unwrap();
    cluster.keelson_prints(&["image", "pull", "registry.example:7000/test/busybox:1"]).unwrap();
    assert!(list().contains("registry.example:7000/test/busybox:1"));
    fs::write(hosts.join("hosts.toml"), "[host.\"http://127.0.0.1:5000\"]\nclient = \"c.pem\"\n").unwrap();
    let refused = cluster.keelson(&["image", "pull", "registry.example:7000/test/busybox:1"]).unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("client is not supported"));
    let refused = cluster.keelson(&["image", "pull", guarded]).unwrap();
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("denied"));
    let refused = cluster.keelson(&["image", "remove", "test.keelson.io/absent:1"]).unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there is no image"));
}

#[test]
fn a_pull_tells_how_far_it_is_and_goes_on_after_a_kill_and_what_does_not_fit_is_not_begun() {
    let cluster = Cluster::up().unwrap();
    let archive = cluster.folder().join("app.tar");
    image::busybox(&archive, "test.keelson.io/app:1").unwrap();
    let registry = Halves::serve(&cluster, &archive);
    let image = |tag: &str| format!("{}/test/app:{tag}", Halves::ADDRESS);
    cluster.apply(&pod("large", &image("1"), "")).unwrap();
    cluster.apply(&pod("huge", &image("huge"), "")).unwrap();
    let told = |pod: &str, what: &str| {
        eventually(what, LONG, || {
            let told = events(&cluster, pod);
            Ok(told.lines().find(|line| line.contains(what)).map(str::to_owned))
        })
        .unwrap()
    };
    told("huge", "no space left on device: at least 2305843009213693952 bytes are needed in");
    let line = told("large", "0 of 1 layers done");
    let layer = registry.documents[&format!("/v2/test/app/blobs/{}", registry.layer)].1.len();
    assert!(line.contains(&format!("{} of {layer} bytes", layer / 2)), "{line}");
    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    cluster.wait("large", "condition=Ready").unwrap();
    assert_eq!(*registry.asked.lock().unwrap(), [String::new(), format!("bytes={}-", layer / 2)]);
    assert!(events(&cluster, "large").contains("Successfully pulled image"));
}
