//! Clients that others wrote, in many versions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use keelson_e2e::{BUSYBOX, Cluster, Kubectl, Server, clients};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "example/web:1", ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: green}
"#;

/// What people do with kubectl all day, in a namespace of its own.
fn everyday(minor: u32, kubectl: &Kubectl) {
    let namespace = format!("v{minor}");
    let run = |arguments: &[&str]| kubectl.run(&[&["-n", &namespace], arguments].concat()).unwrap();
    let fails = |arguments: &[&str]| kubectl.fails(&[&["-n", &namespace], arguments].concat()).unwrap();
    let with = |arguments: &[&str], text: &str| {
        kubectl.with(&[&["-n", &namespace], arguments].concat(), text).unwrap()
    };
    run(&["create", "namespace", &namespace]);
    assert_eq!(with(&["apply", "-f", "-"], WEB), "deployment.apps/web created\nconfigmap/settings created\n");
    assert_eq!(
        with(&["apply", "-f", "-"], WEB),
        "deployment.apps/web unchanged\nconfigmap/settings unchanged\n"
    );
    with(&["apply", "-f", "-"], &WEB.replace("green", "blue"));
    assert_eq!(run(&["get", "cm", "settings", "-o", "jsonpath={.data.colour}"]), "blue");
    let drift = kubectl.command(&["-n", &namespace, "diff", "-f", "-"]);
    assert_eq!(status_with(drift, &format!("---{WEB}")), Some(1), "a difference is told by the code 1");
    run(&["scale", "deploy/web", "--replicas=3"]);
    run(&["set", "image", "deploy/web", "web=example/web:2"]);
    run(&[
        "patch",
        "deploy",
        "web",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]"#,
    ]);
    run(&["annotate", "deploy", "web", "note=1"]);
    assert!(run(&["get", "deploy", "-l", "a=b", "-o", "wide"]).contains("example/web:2"));
    assert!(run(&["describe", "deploy", "web"]).contains("example/web:2"));
    assert!(run(&["get", "deploy", "web", "-o", "yaml"]).contains("replicas: 3"));
    run(&["wait", "--for=jsonpath={.spec.replicas}=3", "deploy/web", "--timeout=60s"]);
    with(
        &["apply", "--server-side", "--field-manager=tests", "-f", "-"],
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: b}",
    );
    let misspelt = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: wrong}\ndatta: {a: b}";
    let refused = kubectl.with(&["-n", &namespace, "create", "-f", "-"], misspelt).unwrap_err().to_string();
    assert!(refused.contains("unknown field \"datta\""), "{refused}");
    run(&["create", "secret", "generic", "keys", "--from-literal=k=v"]);
    run(&["create", "job", "once", "--image=example/web:1"]);
    run(&["run", "single", "--image=example/web:1"]);
    run(&["expose", "deploy/web", "--port=80"]);
    run(&["autoscale", "deploy/web", "--max=5"]);
    run(&["create", "rolebinding", "view", "--clusterrole=view", "--serviceaccount=default:default"]);
    assert_eq!(run(&["auth", "can-i", "create", "pods"]), "yes\n");
    assert!(run(&["api-resources", "--namespaced=true"]).contains("deployments"));
    assert!(run(&["explain", "deployment.spec.strategy"]).contains("rollingUpdate"));
    assert!(run(&["explain", "cronjob", "--recursive"]).contains("concurrencyPolicy"));
    assert!(run(&["get", "all"]).contains("deployment.apps/web"));
    assert!(run(&["get", "events,secrets,jobs,svc,hpa"]).contains("secret/keys"));
    assert!(fails(&["get", "pod", "absent"]).contains("(NotFound)"));
    run(&["rollout", "history", "deploy/web"]);
    run(&["create", "token", "default"]);
    run(&["delete", "deploy,cm,secret,job,pod", "--all", "--wait=false"]);
    run(&["delete", "namespace", &namespace, "--wait=false"]);
}

fn status_with(mut command: std::process::Command, input: &str) -> Option<i32> {
    use std::io::Write;
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn kubectls_of_ten_minor_versions_do_everyday_work() {
    let server = Server::start().unwrap();
    let found = clients::kubectls();
    for (minor, program) in &found {
        everyday(*minor, &server.client().with_program(program));
    }
    if found.len() < 10 {
        let minors: Vec<&u32> = found.keys().collect();
        eprintln!("driven by kubectl 1.x of {minors:?} alone: run e2e/fetch-clients, and have Google's SDK");
    }
    everyday(0, &server.client());
}

fn helm(cluster: &Cluster, helm: &Path, arguments: &[&str]) -> String {
    let output = cluster.client().program(&helm.to_string_lossy()).args(arguments).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "helm {arguments:?} failed:\n{text}");
    text
}

/// A chart with a kind of its own, hooks before and after, a Deployment and a test.
fn chart(folder: &Path) {
    fs::create_dir_all(folder.join("templates")).unwrap();
    fs::create_dir_all(folder.join("crds")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("Chart.yaml", "apiVersion: v2\nname: shop\nversion: 1.0.0\nappVersion: '1'\n");
    write("values.yaml", &format!("image: {BUSYBOX}\nreplicas: 1\ncolour: green\n"));
    write(
        "crds/goods.yaml",
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: goods.shop.example.com}
spec:
  group: shop.example.com
  scope: Namespaced
  names: {plural: goods, singular: good, kind: Good}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {price: {type: integer}}}}}}
",
    );
    write(
        "templates/all.yaml",
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}, labels: {app.kubernetes.io/instance: {{ .Release.Name }}}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: web, image: "{{ .Values.image }}", command: [sleep, infinity], env: [{name: COLOUR, value: {{ .Values.colour }}}]}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-settings}
data: {colour: {{ .Values.colour }}}
---
apiVersion: shop.example.com/v1
kind: Good
metadata: {name: {{ .Release.Name }}}
spec: {price: 3}
"#,
    );
    for (name, hook) in
        [("before", "pre-install,pre-upgrade"), ("after", "post-install,post-upgrade"), ("test", "test")]
    {
        let text = format!(
            r#"apiVersion: v1
kind: Pod
metadata:
  name: {{{{ .Release.Name }}}}-{name}
  annotations: {{helm.sh/hook: "{hook}", helm.sh/hook-delete-policy: before-hook-creation}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{{name: hook, image: "{{{{ .Values.image }}}}", command: [sh, -c, "echo {name}"]}}]
"#
        );
        write(&format!("templates/{name}.yaml"), &text);
    }
}

#[test]
fn helm_installs_upgrades_rolls_back_and_uninstalls_a_chart_with_hooks_and_kinds() {
    let Some(program) = clients::helm() else {
        eprintln!("skipped: there is no helm here; run e2e/fetch-clients");
        return;
    };
    let cluster = Cluster::up().unwrap();
    let folder = cluster.folder().join("shop");
    chart(&folder);
    let place = folder.to_string_lossy().into_owned();
    let run = |arguments: &[&str]| helm(&cluster, &program, arguments);
    let colour = ["get", "cm", "s1-settings", "-o", "jsonpath={.data.colour}"];
    run(&["install", "s1", &place, "--wait", "--timeout", "120s"]);
    assert_eq!(cluster.kubectl(&colour).unwrap(), "green");
    assert_eq!(cluster.kubectl(&["get", "good", "s1", "-o", "jsonpath={.spec.price}"]).unwrap(), "3");
    assert_eq!(cluster.kubectl(&["logs", "s1-before"]).unwrap(), "before\n");
    assert!(run(&["test", "s1"]).contains("Succeeded"));
    run(&["upgrade", "s1", &place, "--set", "colour=blue,replicas=2", "--wait", "--timeout", "120s"]);
    assert_eq!(cluster.kubectl(&colour).unwrap(), "blue");
    assert_eq!(
        cluster.kubectl(&["get", "deploy", "s1", "-o", "jsonpath={.status.readyReplicas}"]).unwrap(),
        "2"
    );
    run(&["rollback", "s1", "1", "--wait", "--timeout", "120s"]);
    assert_eq!(cluster.kubectl(&colour).unwrap(), "green");
    assert!(run(&["list"]).contains("deployed"));
    assert_eq!(run(&["history", "s1"]).lines().count(), 4);
    run(&["uninstall", "s1", "--wait", "--timeout", "120s"]);
    assert!(cluster.kubectl_fails(&["get", "deploy", "s1"]).unwrap().contains("NotFound"));
    assert!(run(&["list"]).lines().count() == 1);
}

const PYTHON: &str = r#"
from kubernetes import client, config, watch
config.load_kube_config()
core, apps, custom = client.CoreV1Api(), client.AppsV1Api(), client.CustomObjectsApi()
core.create_namespace({"metadata": {"name": "py"}})
core.create_namespaced_config_map("py", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"x": "y"}), data={"k": "v"}))
assert core.read_namespaced_config_map("a", "py").data == {"k": "v"}
core.patch_namespaced_config_map("a", "py", {"data": {"k": "w"}})
found = core.list_namespaced_config_map("py", label_selector="x=y", limit=5)
assert [it.data["k"] for it in found.items] == ["w"], found
seen = []
core.create_namespaced_config_map("py", {"metadata": {"name": "b", "labels": {"x": "y"}}})
core.delete_namespaced_config_map("b", "py")
for event in watch.Watch().stream(core.list_namespaced_config_map, "py", label_selector="x=y", resource_version=found.metadata.resource_version):
    seen.append((event["type"], event["object"].metadata.name))
    if event["type"] == "DELETED":
        break
assert seen == [("ADDED", "b"), ("DELETED", "b")], seen
container = client.V1Container(name="web", image="example/web:1")
template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels={"app": "web"}), spec=client.V1PodSpec(containers=[container]))
spec = client.V1DeploymentSpec(replicas=2, selector={"matchLabels": {"app": "web"}}, template=template)
apps.create_namespaced_deployment("py", client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec))
scale = apps.read_namespaced_deployment_scale("web", "py")
scale.spec.replicas = 4
apps.replace_namespaced_deployment_scale("web", "py", scale)
assert apps.read_namespaced_deployment("web", "py").spec.replicas == 4
try:
    core.create_namespaced_config_map("py", {"metadata": {"name": "a"}})
    raise SystemExit("created twice")
except client.ApiException as error:
    assert error.status == 409, error
assert client.VersionApi().get_code().major == "1"
assert any(group.name == "apps" for group in client.ApisApi().get_api_versions().groups)
core.delete_collection_namespaced_config_map("py", label_selector="x=y")
print("done")
"#;

#[test]
fn the_python_client_reads_writes_and_watches() {
    let Some(python) = clients::python() else {
        eprintln!("skipped: Debian's python3-kubernetes is not installed");
        return;
    };
    let server = Server::start().unwrap();
    let output = server.client().program(python).args(["-c", PYTHON]).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("done"), "{text}");
}
