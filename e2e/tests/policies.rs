//! What a cluster refuses, fills in and holds back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use keelson_e2e::{BUSYBOX, Cluster, LONG, eventually};

fn pod(namespace: &str, name: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{terminationGracePeriodSeconds: 0, \
         containers: [{{name: c, image: '{BUSYBOX}', command: [sleep, infinity]}}]{more}}}}}"
    )
}

fn refused(cluster: &Cluster, manifest: &str) -> String {
    cluster.apply(manifest).unwrap_err().to_string()
}

fn ready(cluster: &Cluster, namespace: &str, name: &str) {
    let wait = ["-n", namespace, "wait", "pod", name, "--for=condition=Ready", keelson_e2e::PATIENCE];
    cluster.kubectl(&wait).unwrap();
}

/// Two pods and no more; what a pod does not say comes from the LimitRange.
fn quota(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", "small"]).unwrap();
    cluster.kubectl(&["-n", "small", "create", "quota", "room", "--hard=pods=1,requests.cpu=150m"]).unwrap();
    eventually("the quota to be counted", LONG, || {
        Ok((cluster.field(&["quota", "room", "-n", "small"], ".status.used.pods")? == "0").then_some(()))
    })
    .unwrap();
    let told = refused(cluster, &pod("small", "a", ""));
    let text = "is forbidden: failed quota: room: must specify requests.cpu for: c";
    assert!(told.contains(text), "{told}");
    cluster
        .apply(
            "{apiVersion: v1, kind: LimitRange, metadata: {name: usual, namespace: small}, spec: {limits: [\
             {type: Container, default: {cpu: 200m}, defaultRequest: {cpu: 100m}, max: {cpu: 400m}}]}}",
        )
        .unwrap();
    cluster.apply(&pod("small", "a", "")).unwrap();
    ready(cluster, "small", "a");
    let cpu = ".spec.containers[0].resources.requests.cpu} {.spec.containers[0].resources.limits.cpu";
    assert_eq!(cluster.field(&["pod", "a", "-n", "small"], cpu).unwrap(), "100m 200m");
    let told = refused(cluster, &pod("small", "b", ""));
    let text = "pods \"b\" is forbidden: exceeded quota: room, requested: pods=1,requests.cpu=100m, \
                used: pods=1,requests.cpu=100m, limited: pods=1,requests.cpu=150m";
    assert!(told.contains(text), "{told}");
    let large = pod("small", "large", "").replace("command:", "resources: {limits: {cpu: 500m}}, command:");
    let told = refused(cluster, &large);
    assert!(told.contains("maximum cpu usage per Container is 400m, but limit is 500m"), "{told}");
    cluster.kubectl(&["-n", "small", "delete", "pod", "a"]).unwrap();
    eventually("room after the pod is gone", LONG, || Ok(cluster.apply(&pod("small", "b", "")).ok()))
        .unwrap();
    let described = cluster.kubectl(&["-n", "small", "describe", "quota", "room"]).unwrap();
    let rows: Vec<Vec<&str>> = described.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.contains(&vec!["pods", "1", "1"]), "{described}");
    // A workload's own pods are counted too, and what is refused is told where its owner looks.
    let image = format!("--image={BUSYBOX}");
    cluster.kubectl(&["-n", "small", "create", "deployment", "web", &image]).unwrap();
    let message = ".status.conditions[?(@.type==\"ReplicaFailure\")].message";
    eventually("the deployment to tell of the quota", LONG, || {
        let told = cluster.field(&["deploy", "web", "-n", "small"], message)?;
        Ok(told.contains("exceeded quota: room").then_some(()))
    })
    .unwrap();
}

/// What kubectl prints besides the answer.
fn warnings(cluster: &Cluster, namespace: &str, arguments: &[&str]) -> (bool, String) {
    let output = cluster.client().command(&[&["-n", namespace], arguments].concat()).output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

fn pod_security(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", "strict"]).unwrap();
    let label = |level: &str| {
        let label = format!("pod-security.kubernetes.io/{level}");
        warnings(cluster, "strict", &["label", "--overwrite", "namespace", "strict", &label])
    };
    assert_eq!(label("enforce=baseline"), (true, String::new()));
    assert_eq!(label("warn=restricted"), (true, String::new()));
    let image = format!("--image={BUSYBOX}");
    let (made, told) = warnings(cluster, "strict", &["run", "bad", &image, "--privileged"]);
    assert!(!made);
    let text = "Error from server (Forbidden): pods \"bad\" is forbidden: violates PodSecurity \"baseline:latest\": \
                privileged (container \"bad\" must not set securityContext.privileged=true)\n";
    assert_eq!(told, text);
    let restricted = |name: &str| {
        format!(
            "Warning: would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"{name}\" must set \
             securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"{name}\" must set \
             securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"{name}\" must set \
             securityContext.runAsNonRoot=true), seccompProfile (pod or container \"{name}\" must set \
             securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")\n"
        )
    };
    let run = ["run", "meek", &image, "--", "sleep", "infinity"];
    assert_eq!(warnings(cluster, "strict", &run), (true, restricted("meek")));
    ready(cluster, "strict", "meek");
    let deployment = ["create", "deployment", "web", &image];
    assert_eq!(warnings(cluster, "strict", &deployment), (true, restricted("busybox")));
    let (made, told) = label("enforce=restricted");
    assert!(made);
    let existing = "Warning: existing pods in namespace \"strict\" violate the new PodSecurity enforce level \"restricted:latest\"\n";
    assert!(told.starts_with(existing) && told.contains("Warning: meek"), "{told}");
    let (made, told) = label("enforce=lenient");
    assert!(!made);
    assert!(told.contains("must be one of privileged, baseline, restricted"), "{told}");
}

fn claim_in_use(cluster: &Cluster) {
    let claim = "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {storageClassName: '', \
                 accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}";
    let finalizers = || cluster.field(&["pvc", "data"], ".metadata.finalizers");
    cluster.apply(claim).unwrap();
    eventually("the claim to be protected", LONG, || {
        Ok((finalizers()? == "[\"kubernetes.io/pvc-protection\"]").then_some(()))
    })
    .unwrap();
    // Held by a pod of a node, whether its volume can be mounted or not.
    let node = cluster.field(&["node"], ".items[0].metadata.name").unwrap();
    let more =
        format!(", nodeName: {node}, volumes: [{{name: v, persistentVolumeClaim: {{claimName: data}}}}]");
    cluster.apply(&pod("default", "user", &more)).unwrap();
    cluster.kubectl(&["delete", "pvc", "data", "--wait=false"]).unwrap();
    assert!(!cluster.field(&["pvc", "data"], ".metadata.deletionTimestamp").unwrap().is_empty());
    assert!(cluster.kubectl(&["get", "pvc", "data"]).unwrap().contains("Terminating"));
    assert_eq!(finalizers().unwrap(), "[\"kubernetes.io/pvc-protection\"]");
    cluster.kubectl(&["delete", "pod", "user"]).unwrap();
    cluster.kubectl(&["wait", "--for=delete", "pvc/data", keelson_e2e::PATIENCE]).unwrap();
}

fn priority(cluster: &Cluster) {
    cluster.kubectl(&["create", "priorityclass", "high", "--value=1000", "--description=first"]).unwrap();
    assert!(cluster.kubectl(&["get", "priorityclasses"]).unwrap().contains("system-node-critical"));
    cluster.apply(&pod("default", "first", ", priorityClassName: high")).unwrap();
    let both = ".spec.priority} {.spec.preemptionPolicy";
    assert_eq!(cluster.pod("first", both).unwrap(), "1000 PreemptLowerPriority");
    let told = refused(cluster, &pod("default", "second", ", priorityClassName: absent"));
    assert!(told.contains("no PriorityClass with name absent was found"), "{told}");
    let told = refused(cluster, &pod("default", "second", ", priorityClassName: high, priority: 5"));
    assert!(told.contains("the integer value of priority (5) must not be provided in pod spec"), "{told}");
    let told = cluster.kubectl_fails(&["patch", "priorityclass", "high", "-p", "{\"value\": 5}"]).unwrap();
    assert!(told.contains("value: Forbidden: may not be changed in an update."), "{told}");
    let told = cluster.kubectl_fails(&["create", "priorityclass", "top", "--value=1000000001"]).unwrap();
    assert!(told.contains("maximum allowed value of a user defined priority is 1000000000"), "{told}");
}

#[test]
fn quotas_limits_pod_security_protection_and_priorities_hold_on_a_cluster() {
    let cluster = Cluster::up().unwrap();
    pod_security(&cluster);
    quota(&cluster);
    claim_in_use(&cluster);
    priority(&cluster);
}
