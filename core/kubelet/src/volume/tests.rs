use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use http::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::testing;

/// An API server that holds objects by their paths, and has no watches.
type Server = Arc<Mutex<HashMap<String, Value>>>;

fn client(server: &Server) -> kube::Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let found = server.lock().get(request.uri().path()).cloned();
        let missing = || json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404});
        let status = if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        let body = found.unwrap_or_else(missing).to_string();
        let answer = Response::builder().status(status).body(Body::from(body.into_bytes()));
        async move { answer }
    });
    kube::Client::new(service, "default")
}

struct Node {
    volumes: Volumes,
    server: Server,
    data_dir: PathBuf,
}

impl Node {
    fn new(name: &str) -> Self {
        let data_dir = std::env::temp_dir().join(format!("keelson-volumes-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&data_dir);
        let config = Arc::new(Config { data_dir: data_dir.clone(), ..testing::config() });
        let server = Server::default();
        let client = client(&server);
        let drivers = Arc::new(Drivers::new(Arc::clone(&config), client.clone()));
        let volumes = Volumes::new(config, client.clone(), Objects::new(client), drivers);
        Node { volumes, server, data_dir }
    }

    fn put(&self, name: &str, data: Value) {
        let object = json!({"metadata": {"name": name, "namespace": "n"}, "data": data});
        self.server.lock().insert(format!("/api/v1/namespaces/n/configmaps/{name}"), object);
    }

    fn path(&self, volume: &str) -> PathBuf {
        self.data_dir.join("pods/u/volumes").join(volume)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.data_dir);
    }
}

fn pod(volumes: Value, mounts: Value) -> Arc<Pod> {
    let value = json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"volumes": volumes, "containers": [{"name": "c", "volumeMounts": mounts}]},
    });
    Arc::new(serde_json::from_value(value).unwrap())
}

async fn mounts(
    node: &Node,
    pod: &Arc<Pod>,
    env: &[(&str, &str)],
) -> Result<Vec<(String, String, bool)>, String> {
    let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let container = &pod.spec.as_ref().unwrap().containers[0];
    let found = node.volumes.mounts(pod, container, &env, Recursion::Possible).await;
    let found = found.map_err(|error| error.to_string())?;
    Ok(found.into_iter().map(|one| (one.host_path, one.container_path, one.readonly)).collect())
}

#[tokio::test]
async fn a_volume_waits_for_its_config_map_follows_it_and_goes_with_its_pod() {
    let node = Node::new("life");
    let pod = pod(
        json!([{"name": "v", "configMap": {"name": "m"}}, {"name": "e", "emptyDir": {}}]),
        json!([{"name": "v", "mountPath": "/v"}, {"name": "e", "mountPath": "e"}]),
    );
    let error = node.volumes.set_up(&pod).await.unwrap_err().to_string();
    assert_eq!(error, "MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found");
    node.put("m", json!({"k": "1"}));
    node.volumes.set_up(&pod).await.unwrap();
    let (map, folder) = (node.path("kubernetes.io~configmap/v"), node.path("kubernetes.io~empty-dir/e"));
    assert_eq!(fs::read_to_string(map.join("k")).unwrap(), "1");
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o777);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let expected = [(text(&map), "/v".to_owned(), true), (text(&folder), "/e".to_owned(), false)];
    assert_eq!(mounts(&node, &pod, &[]).await.unwrap(), expected);

    fs::write(folder.join("kept"), "x").unwrap();
    node.put("m", json!({"k": "2"}));
    node.volumes.set_up(&pod).await.unwrap();
    assert_eq!(fs::read_to_string(map.join("k")).unwrap(), "2");
    assert!(folder.join("kept").exists());
    node.volumes.tear_down("u").await.unwrap();
    assert!(!node.data_dir.join("pods/u").exists());
}

#[tokio::test]
async fn mounts_that_contradict_themselves_are_refused() {
    let node = Node::new("mounts");
    let volumes = json!([{"name": "e", "emptyDir": {}}]);
    let refused = async |mount: Value| {
        let pod = pod(volumes.clone(), json!([mount]));
        node.volumes.set_up(&pod).await.unwrap();
        mounts(&node, &pod, &[("A", "a")]).await.unwrap_err()
    };
    let error = refused(json!({"name": "x", "mountPath": "/x"})).await;
    assert_eq!(error, "cannot find volume \"x\" to mount into container \"c\"");
    let recursive = "failed to resolve recursive read-only mode: volume \"e\" requested recursive read-only mode, but it is not";
    let mount = |more: Value| {
        let mut mount = json!({"name": "e", "mountPath": "/e"});
        mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        mount
    };
    for (more, told) in [
        (json!({"subPath": "../x"}), "unable to provision SubPath `../x`: must not contain '..'".to_owned()),
        (json!({"subPathExpr": "$(MISSING)"}), "missing value for MISSING".to_owned()),
        (json!({"subPathExpr": "/$(A)"}), "error SubPath `/a` must not be an absolute path".to_owned()),
        (json!({"mountPropagation": "Sideways"}), "invalid MountPropagation mode: \"Sideways\"".to_owned()),
        (json!({"recursiveReadOnly": "Enabled"}), format!("{recursive} read-only")),
        (
            json!({"recursiveReadOnly": "IfPossible", "readOnly": true, "mountPropagation": "HostToContainer"}),
            format!("{recursive} compatible with propagation \"HostToContainer\""),
        ),
    ] {
        assert_eq!(refused(mount(more)).await, told);
    }
}

#[tokio::test]
async fn folders_of_earlier_runs_are_known_and_removed_without_what_they_point_to() {
    let node = Node::new("orphan");
    let kept = node.data_dir.join("kept");
    fs::create_dir_all(node.path("kubernetes.io~empty-dir/e")).unwrap();
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.join("file"), "x").unwrap();
    symlink(&kept, node.path("kubernetes.io~empty-dir/e/link")).unwrap();
    assert_eq!(node.volumes.remaining().await.unwrap(), ["u"]);
    node.volumes.tear_down("u").await.unwrap();
    node.volumes.tear_down("u").await.unwrap();
    assert!(node.volumes.remaining().await.unwrap().is_empty() && kept.join("file").exists());
    for bad in ["", "..", "../x", "a/b"] {
        assert!(node.volumes.tear_down(bad).await.is_err(), "{bad}");
    }
}

#[tokio::test]
async fn what_is_not_supported_is_refused_before_anything_is_made() {
    let node = Node::new("refused");
    let share = json!({"name": "c", "nfs": {"server": "s", "path": "/"}});
    let pod = pod(json!([{"name": "e", "emptyDir": {}}, share]), json!([]));
    let error = node.volumes.set_up(&pod).await.unwrap_err().to_string();
    assert!(error.contains("volumes of type nfs are not supported"), "{error}");
    assert!(!node.path("kubernetes.io~empty-dir/e").exists());
}

#[tokio::test(start_paused = true)]
async fn what_failed_for_one_pod_is_tried_again_whatever_goes_well_with_others() {
    let (mut failures, begun) = (Failures::default(), Instant::now());
    let after = |seconds| begun + Duration::from_secs(seconds);
    failures.note("a".to_owned(), false, begun);
    failures.note("b".to_owned(), true, after(10));
    assert_eq!(failures.retry, Some(begun + RETRY));
    failures.note("b".to_owned(), false, after(20));
    assert_eq!(failures.retry, Some(begun + RETRY));
    failures.note("a".to_owned(), true, after(31));
    assert_eq!(failures.retry, Some(begun + RETRY));
    failures.note("b".to_owned(), false, after(31));
    assert_eq!(failures.retry, Some(after(31) + RETRY));
    failures.forget(|uid| uid == "b");
    assert_eq!(failures.retry, None);
}
