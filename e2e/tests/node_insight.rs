//! What a node tells of itself and its pods, and whom.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use keelson_e2e::{Cluster, Engine, LONG, Node, PATIENCE, Pod, Topic, eventually};
use serde_json::Value;

/// The kubelet's server, asked as somebody with a token.
struct Kubelet<'a> {
    cluster: &'a Cluster,
    url: String,
}

impl<'a> Kubelet<'a> {
    fn of(cluster: &'a Cluster) -> Self {
        let node = |path: &str| cluster.field(&["nodes"], &format!(".items[0].status.{path}")).unwrap();
        let address = node("addresses[?(@.type==\"InternalIP\")].address");
        let url = format!("https://{address}:{}", node("daemonEndpoints.kubeletEndpoint.Port"));
        Kubelet { cluster, url }
    }

    /// Status and body.
    fn get(&self, token: Option<&str>, path: &str) -> (String, String) {
        let authority = self.cluster.folder().join("authority.crt");
        if !authority.exists() {
            let path = ".data.ca\\.crt";
            let text = self.cluster.field(&["configmap", "kube-root-ca.crt"], path).unwrap();
            std::fs::write(&authority, text).unwrap();
        }
        let (authority, url) = (authority.to_string_lossy().into_owned(), format!("{}{path}", self.url));
        let header = token.map(|token| format!("Authorization: Bearer {token}"));
        let mut arguments = vec!["--silent", "--show-error", "--max-time", "10", "--cacert", &authority];
        arguments.extend(["-w", "\n%{http_code}", &url]);
        arguments.extend(header.iter().flat_map(|header| ["-H", header.as_str()]));
        let answer = self.cluster.on_the_host("curl", &arguments).unwrap();
        let (body, status) = answer.rsplit_once('\n').unwrap();
        (status.to_owned(), body.to_owned())
    }
}

/// The token of an account in the default namespace that may get these subresources of nodes.
fn scraper(cluster: &Cluster, name: &str, resources: &str) -> String {
    cluster.kubectl(&["create", "serviceaccount", name]).unwrap();
    let resource = format!("--resource={resources}");
    cluster.kubectl(&["create", "clusterrole", name, "--verb=get", &resource]).unwrap();
    let (role, account) = (format!("--clusterrole={name}"), format!("--serviceaccount=default:{name}"));
    cluster.kubectl(&["create", "clusterrolebinding", name, &role, &account]).unwrap();
    cluster.kubectl(&["create", "token", name]).unwrap().trim().to_owned()
}

fn speaker() -> Pod {
    Pod::new("speaker").script("echo hello; sleep infinity")
}

/// The last one takes away what it looks at.
const TOPICS: [(&str, Topic); 5] = [
    ("its machine", its_machine),
    ("who may ask", who_may_ask),
    ("what pods use", what_pods_use),
    ("logs for collectors", logs_for_collectors),
    ("kubectl top", kubectl_top),
];

#[test]
fn a_node_tells_those_who_may_ask_of_its_machine_and_its_pods() {
    Node::up(Engine::Embedded, "").unwrap().shows(&TOPICS);
}

#[test]
fn a_node_with_containerd_tells_those_who_may_ask_of_its_machine_and_its_pods() {
    Node::up(Engine::Containerd, "").unwrap().shows(&TOPICS);
}

/// It answers those whom the API server lets.
fn who_may_ask(cluster: &Node) {
    let kubelet = Kubelet::of(cluster);
    assert_eq!(kubelet.get(None, "/healthz"), ("401".to_owned(), "Unauthorized".to_owned()));
    assert_eq!(kubelet.get(Some("nobodys"), "/healthz").0, "401");
    let token = scraper(cluster, "scraper", "nodes/stats,nodes/healthz");
    let as_scraper = |path: &str| kubelet.get(Some(&token), path);
    assert_eq!(as_scraper("/healthz"), ("200".to_owned(), "ok".to_owned()));
    let (status, summary) = as_scraper("/stats/summary");
    assert!(status == "200" && summary.contains("\"nodeName\""), "{status} {summary}");
    let (status, refused) = as_scraper("/pods");
    let text = "Forbidden (user=system:serviceaccount:default:scraper, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
    assert_eq!((status.as_str(), refused.as_str()), ("403", text));
    // What the API server asks for others goes on.
    cluster.start(&speaker()).unwrap();
    eventually("the speaker to be heard", LONG, || {
        Ok((cluster.kubectl(&["logs", "speaker"])? == "hello\n").then_some(()))
    })
    .unwrap();
    assert_eq!(cluster.exec("speaker", &["echo", "well"]).unwrap(), "well\n");
}

/// The value of a line of metrics that has all these parts.
fn value(metrics: &str, parts: &[&str]) -> Option<f64> {
    let mut lines = metrics.lines().filter(|line| !line.starts_with('#'));
    let line = lines.find(|line| parts.iter().all(|part| line.contains(part)))?;
    let (_, rest) = line.rsplit_once('}').or(line.split_once(' '))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn what_pods_use(cluster: &Node) {
    let pod = Pod::new("busy")
        .spec("volumes: [{name: kept, emptyDir: {}}]")
        .script("dd if=/dev/zero of=/kept/file bs=1M count=8; dd if=/dev/zero of=/own bs=1M count=4; while true; do :; done")
        .container("resources: {limits: {cpu: 200m, memory: 64Mi}}")
        .container("livenessProbe: {exec: {command: [\"true\"]}, periodSeconds: 1, timeoutSeconds: 30}")
        .container("volumeMounts: [{name: kept, mountPath: /kept}]");
    cluster.start(&pod).unwrap();
    let kubelet = Kubelet::of(cluster);
    let token =
        scraper(cluster, "prometheus", "nodes/stats,nodes/metrics,nodes/pods,nodes/configz,nodes/log");
    let get = |path: &str| {
        let (status, body) = kubelet.get(Some(&token), path);
        assert_eq!(status, "200", "{path}: {body}");
        body
    };
    let of_pod = [r#"pod="busy""#, r#"namespace="default""#];
    let main = [of_pod.as_slice(), &[r#"container="main""#]].concat();

    let resource = get("/metrics/resource");
    let cpu = value(&resource, &[&["container_cpu_usage_seconds_total"], main.as_slice()].concat()).unwrap();
    assert!(cpu > 0.0, "{resource}");
    assert!(
        value(&resource, &[&["pod_memory_working_set_bytes"], of_pod.as_slice()].concat()).unwrap() > 0.0
    );
    assert!(value(&resource, &["node_cpu_usage_seconds_total "]).is_some(), "{resource}");
    assert!(resource.contains("\nresource_scrape_error 0\n"), "{resource}");

    let mut containers = String::new();
    for (name, least) in [
        ("container_cpu_usage_seconds_total{", 0.01),
        ("container_memory_working_set_bytes{", 1.0),
        ("container_cpu_cfs_throttled_periods_total{", 1.0),
        ("container_spec_memory_limit_bytes{", f64::from(64 << 20)),
        ("container_start_time_seconds{", 1.0),
    ] {
        eventually(&format!("{name} to be {least} at the least"), LONG, || {
            containers = get("/metrics/cadvisor");
            let found = value(&containers, &[&[name], main.as_slice()].concat());
            anyhow::ensure!(found.is_some_and(|found| found >= least), "{found:?}\n{containers}");
            Ok(Some(()))
        })
        .unwrap();
    }
    let network =
        value(&containers, &[&["container_network_receive_bytes_total{"], of_pod.as_slice()].concat());
    assert!(network.is_some(), "{containers}");

    let node = get("/metrics");
    assert!(value(&node, &["kubelet_running_pods "]).unwrap() >= 1.0, "{node}");
    assert!(
        value(&node, &["kubelet_started_containers_total", r#"container_type="container""#]).unwrap() >= 1.0
    );
    assert!(value(&node, &["kubelet_runtime_operations_total", "create_container"]).unwrap() >= 1.0);
    assert!(value(&node, &["kubelet_pod_start_duration_seconds_count"]).unwrap() >= 1.0);
    eventually("a probe to be counted", LONG, || {
        let probes = get("/metrics/probes");
        Ok(value(&probes, &[&["prober_probe_total", "Liveness", "successful"], main.as_slice()].concat()))
    })
    .unwrap();

    // What is on the disk is counted in the background.
    let summary = eventually("the disk to be counted", LONG, || {
        let summary: Value = serde_json::from_str(&get("/stats/summary"))?;
        let pods = summary["pods"].as_array().unwrap();
        let pod = pods.iter().find(|pod| pod["podRef"]["name"] == "busy").unwrap().clone();
        let counted = pod["volume"].as_array().and_then(|all| all.iter().find(|it| it["name"] == "kept"));
        let full = counted.is_some_and(|it| it["usedBytes"].as_u64().unwrap() >= 8 << 20);
        let busy = pod["cpu"]["usageNanoCores"].as_u64().is_some_and(|used| used > 50_000_000);
        let written = pod["containers"][0]["rootfs"]["usedBytes"].as_u64().is_some_and(|it| it >= 4 << 20);
        let images = summary["node"]["runtime"]["imageFs"]["usedBytes"].as_u64().is_some_and(|it| it > 0);
        Ok((full && busy && written && images).then_some((summary, pod)))
    });
    let (summary, pod) = summary.unwrap();
    assert!(pod["network"]["interfaces"][0]["rxBytes"].is_u64(), "{pod}");
    assert!(pod["ephemeral-storage"]["usedBytes"].as_u64().unwrap() >= 12 << 20, "{pod}");
    assert!(pod["containers"][0]["logs"]["usedBytes"].is_u64() && pod["startTime"].is_string(), "{pod}");
    let node = &summary["node"];
    assert!(node["cpu"]["usageNanoCores"].as_u64().unwrap() > 0, "{node}");
    assert_eq!(node["systemContainers"][0]["name"], "pods");

    assert!(get("/configz").contains(r#""maxPods":110"#));
    let running: Value = serde_json::from_str(&get("/runningpods/")).unwrap();
    assert!(running["items"].as_array().unwrap().iter().any(|pod| pod["metadata"]["name"] == "busy"));
    assert!(get("/pods").contains(r#""name":"busy""#));
    assert!(get("/logs/").starts_with("<pre>"));
    assert_eq!(kubelet.get(Some(&token), "/logs/no-such-file").0, "404");
}

/// It shows nodes and pods.
fn kubectl_top(cluster: &Node) {
    cluster.start(&Pod::new("calm")).unwrap();
    let busy = Pod::new("busy").metadata("labels: {app: busy}").script("while true; do :; done");
    cluster.start(&busy).unwrap();
    let available = "--for=condition=Available";
    cluster.kubectl(&["wait", "apiservice/v1beta1.metrics.k8s.io", available, PATIENCE]).unwrap();
    let rows = eventually("a busy pod to be seen", LONG, || {
        let text = cluster.kubectl(&["top", "pods", "--no-headers"])?;
        let rows: Vec<Vec<String>> =
            text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        let cpu = |row: &Vec<String>| row[1].trim_end_matches('m').parse::<u32>().unwrap();
        let busy = rows.iter().find(|row| row[0] == "busy").map_or(0, cpu);
        Ok((rows.len() == 2 && busy > 100).then_some(rows))
    });
    let calm = rows.unwrap().into_iter().find(|row| row[0] == "calm").unwrap();
    assert!(calm[1].trim_end_matches('m').parse::<u32>().unwrap() < 100, "{calm:?}");
    assert!(calm[2].ends_with("Mi"), "{calm:?}");
    let nodes = cluster.kubectl(&["top", "nodes", "--no-headers"]).unwrap();
    let node: Vec<&str> = nodes.split_whitespace().collect();
    assert!(node.len() == 5 && node[2].ends_with('%') && node[4].ends_with('%'), "{nodes}");
    let selected =
        cluster.kubectl(&["top", "pods", "-l", "app=busy", "--containers", "--no-headers"]).unwrap();
    assert_eq!(selected.split_whitespace().take(2).collect::<Vec<_>>(), ["busy", "main"]);
    let table = cluster.kubectl(&["get", "podmetrics", "busy"]).unwrap();
    assert!(table.starts_with("NAME   CPU") && table.contains("busy"), "{table}");
    let one = cluster.kubectl(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/calm"]);
    let one: Value = serde_json::from_str(&one.unwrap()).unwrap();
    assert_eq!(
        (&one["kind"], &one["containers"][0]["name"]),
        (&Value::from("PodMetrics"), &Value::from("main"))
    );
    let missing = cluster.kubectl_fails(&["get", "podmetrics", "nobody"]).unwrap();
    assert!(missing.contains("pods.metrics.k8s.io \"default/nobody\" not found"), "{missing}");

    // Who may view things may see what they use; others may not.
    let refused = cluster.kubectl_fails(&["top", "pods", "--as", "jane"]).unwrap();
    assert!(
        refused.contains("User \"jane\" cannot list resource \"pods\" in API group \"metrics.k8s.io\""),
        "{refused}"
    );
    cluster.kubectl(&["create", "rolebinding", "jane", "--clusterrole=view", "--user=jane"]).unwrap();
    cluster.kubectl(&["top", "pods", "--as", "jane"]).unwrap();

    // Nobody but the API server is answered.
    let port =
        cluster.field(&["-n", "keelson-system", "endpointslice", "metrics"], ".ports[0].port").unwrap();
    let address =
        cluster.field(&["-n", "keelson-system", "endpointslice", "metrics"], ".endpoints[0].addresses[0]");
    let url = format!("https://{}:{port}/apis/metrics.k8s.io/v1beta1/nodes", address.unwrap());
    cluster.on_the_host("curl", &["--silent", "--insecure", "--max-time", "5", &url]).unwrap_err();

    // What was installed goes with the operator, and nothing is left that nobody serves.
    cluster.kubectl(&["delete", "operator", "metrics"]).unwrap();
    eventually("the group to be gone", LONG, || {
        Ok((!cluster.kubectl(&["get", "apiservices", "-o", "name"])?.contains("metrics.k8s.io"))
            .then_some(()))
    })
    .unwrap();
    let roles = cluster.kubectl(&["get", "clusterroles", "-o", "name"]).unwrap();
    assert!(!roles.contains("system:aggregated-metrics-reader"), "{roles}");
}

/// It tells what is wrong with it.
fn its_machine(cluster: &Node) {
    let path = "{range .items[0].status.conditions[*]}{.type}={.status}:{.reason} {end}";
    for known in [
        " Ready=True",
        "KernelDeadlock=False:KernelHasNoDeadlock",
        "FrequentKubeletRestart=False:NoFrequentKubeletRestart",
        "ReadonlyFilesystem=",
        "NTPProblem=",
    ] {
        eventually(&format!("the condition {known}"), LONG, || {
            let found = cluster.kubectl(&["get", "nodes", "-o", &format!("jsonpath={path}")])?;
            anyhow::ensure!(format!(" {found}").contains(known), "{found}");
            Ok(Some(()))
        })
        .unwrap();
    }
    let reasons = || {
        let path = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
        cluster.kubectl(&["get", "events", "--field-selector=involvedObject.kind=Node", "-o", path])
    };
    // Any program of the machine's owner may write there.
    let line = format!("task nobody-{}:1 blocked for more than 120 seconds.", std::process::id());
    std::fs::write("/dev/kmsg", format!("<3>{line}\n")).unwrap();
    let of_kernel = format!("TaskHung: {line}");
    for known in [
        of_kernel.as_str(),
        "Starting: Starting kubelet.",
        "NodeAllocatableEnforced: Updated Node Allocatable limit across pods",
    ] {
        eventually(&format!("the event {known:?}"), LONG, || {
            let told = reasons()?;
            anyhow::ensure!(told.contains(known), "{told}");
            Ok(Some(()))
        })
        .unwrap();
    }
}

/// Collectors find them by the names of containers.
fn logs_for_collectors(cluster: &Node) {
    cluster.start(&speaker()).unwrap();
    let id = cluster.pod("speaker", ".status.containerStatuses[0].containerID").unwrap();
    let (_, id) = id.rsplit_once('/').unwrap();
    let logs = cluster.data_dir().join("logs");
    let volume = format!("{{name: logs, hostPath: {{path: \"{}\", type: Directory}}}}", logs.display());
    let collector = Pod::new("collector")
        .spec(&format!("volumes: [{volume}]"))
        .container("volumeMounts: [{name: logs, mountPath: /var/log, readOnly: true}]");
    cluster.start(&collector).unwrap();
    let path = format!("/var/log/containers/speaker_default_main-{id}.log");
    eventually("the line of the speaker", LONG, || {
        let text = cluster.exec("collector", &["cat", &path])?;
        anyhow::ensure!(text.trim_end().ends_with("stdout F hello"), "{text}");
        Ok(Some(()))
    })
    .unwrap();
    cluster.kubectl(&["delete", "pod", "speaker", PATIENCE]).unwrap();
    eventually("the link to go with the log", LONG, || {
        let left = cluster.exec("collector", &["ls", "/var/log/containers"])?;
        Ok((!left.contains("speaker")).then_some(()))
    })
    .unwrap();
}
