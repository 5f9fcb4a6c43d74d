//! What a single pod can have.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use keelson_e2e::{BUSYBOX, Cluster, LONG, Pod, eventually};

#[test]
fn a_pod_has_init_containers_several_containers_volumes_and_environment() {
    let cluster = Cluster::up().unwrap();
    let host = cluster.folder().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "from the host").unwrap();
    let manifest = format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{colour: green, size: large, key.with.dots: dotted}}
---
apiVersion: v1
kind: Secret
metadata: {{name: keys}}
stringData: {{password: hunter2}}
---
apiVersion: v1
kind: Pod
metadata: {{name: everything, labels: {{app: all}}, annotations: {{note: "written\nin two lines"}}}}
spec:
  terminationGracePeriodSeconds: 0
  hostname: ship
  initContainers:
  - {{name: first, image: "{BUSYBOX}", command: [sh, -c, "echo first >> /shared/order"], volumeMounts: [{{name: shared, mountPath: /shared}}]}}
  - {{name: second, image: "{BUSYBOX}", command: [sh, -c, "echo second >> /shared/order"], volumeMounts: [{{name: shared, mountPath: /shared}}]}}
  containers:
  - name: main
    image: {BUSYBOX}
    command: [sh, -c, "cat /shared/order; sleep infinity"]
    env:
    - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: POD_IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
    - {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
    - {{name: LABEL, valueFrom: {{fieldRef: {{fieldPath: "metadata.labels['app']"}}}}}}
    - {{name: MEMORY, valueFrom: {{resourceFieldRef: {{resource: limits.memory, divisor: 1Mi}}}}}}
    - {{name: COLOUR, valueFrom: {{configMapKeyRef: {{name: settings, key: colour}}}}}}
    - {{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: keys, key: password}}}}}}
    - {{name: ABSENT, valueFrom: {{configMapKeyRef: {{name: absent, key: x, optional: true}}}}}}
    - {{name: COMPOSED, value: "$(POD_NAME)-$(COLOUR)-$$(COLOUR)"}}
    envFrom:
    - {{prefix: S_, configMapRef: {{name: settings}}}}
    resources: {{limits: {{memory: 64Mi}}}}
    volumeMounts:
    - {{name: shared, mountPath: /shared}}
    - {{name: memory, mountPath: /memory}}
    - {{name: host, mountPath: /host, readOnly: true}}
    - {{name: settings, mountPath: /settings}}
    - {{name: settings, mountPath: /one/colour, subPath: colour}}
    - {{name: keys, mountPath: /keys}}
    - {{name: about, mountPath: /about}}
    - {{name: all, mountPath: /all}}
  - {{name: side, image: "{BUSYBOX}", command: [sh, -c, "echo from the side > /shared/side; sleep infinity"], volumeMounts: [{{name: shared, mountPath: /shared}}]}}
  volumes:
  - {{name: shared, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
  - {{name: host, hostPath: {{path: "{host}", type: Directory}}}}
  - {{name: settings, configMap: {{name: settings}}}}
  - {{name: keys, secret: {{secretName: keys, defaultMode: 0400}}}}
  - name: about
    downwardAPI:
      items:
      - {{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}
      - {{path: annotations, fieldRef: {{fieldPath: metadata.annotations}}}}
      - {{path: limit, resourceFieldRef: {{containerName: main, resource: limits.memory}}}}
  - name: all
    projected:
      sources:
      - configMap: {{name: settings, items: [{{key: colour, path: deep/colour}}]}}
      - secret: {{name: keys}}
      - downwardAPI: {{items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}
      - serviceAccountToken: {{path: token, audience: harbour, expirationSeconds: 3600}}
"#,
        host = host.display()
    );
    cluster.apply(&manifest).unwrap();
    cluster.wait("everything", "condition=Ready").unwrap();
    let inside = |command: &[&str]| cluster.exec("everything", command).unwrap();
    assert_eq!(cluster.kubectl(&["logs", "everything", "-c", "main"]).unwrap(), "first\nsecond\n");
    let environment = inside(&["env"]);
    let address = cluster.pod("everything", ".status.podIP").unwrap();
    let node = cluster.pod("everything", ".spec.nodeName").unwrap();
    for line in [
        "POD_NAME=everything",
        &format!("POD_IP={address}"),
        &format!("NODE={node}"),
        "LABEL=all",
        "MEMORY=64",
        "COLOUR=green",
        "PASSWORD=hunter2",
        "COMPOSED=everything-green-$(COLOUR)",
        "S_size=large",
        "KUBERNETES_SERVICE_PORT=443",
        "HOSTNAME=ship",
    ] {
        assert!(environment.lines().any(|it| it == line), "{line} is missing:\n{environment}");
    }
    assert!(!environment.contains("ABSENT"));
    for (file, content) in [
        ("/shared/side", "from the side\n"),
        ("/host/file", "from the host"),
        ("/settings/size", "large"),
        ("/one/colour", "green"),
        ("/keys/password", "hunter2"),
        ("/about/labels", "app=\"all\""),
        ("/about/annotations", r#"note="written\nin two lines""#),
        ("/about/limit", "67108864"),
        ("/all/deep/colour", "green"),
        ("/all/password", "hunter2"),
        ("/all/name", "everything"),
    ] {
        let read = inside(&["cat", file]);
        let read = read
            .lines()
            .filter(|line| !line.starts_with("kubectl.kubernetes.io/"))
            .collect::<Vec<_>>()
            .join("\n");
        assert_eq!(read, content.trim_end(), "{file}");
    }
    assert_eq!(inside(&["stat", "-L", "-c", "%a", "/keys/password"]), "400\n");
    assert_eq!(inside(&["hostname"]), "ship\n");
    assert!(inside(&["cat", "/proc/mounts"]).lines().any(|line| line.contains(" /memory tmpfs ")));
    assert!(
        cluster
            .kubectl_fails(&["exec", "everything", "--", "touch", "/host/new"])
            .unwrap()
            .contains("Read-only")
    );
    let full = cluster.kubectl_fails(&[
        "exec",
        "everything",
        "--",
        "dd",
        "if=/dev/zero",
        "of=/memory/big",
        "bs=2M",
        "count=1",
    ]);
    assert!(full.unwrap().contains("No space left"));

    // What is mounted follows its object.
    cluster.kubectl(&["patch", "configmap", "settings", "-p", r#"{"data":{"size":"small"}}"#]).unwrap();
    eventually("the mounted file to change", LONG, || {
        Ok((cluster.exec("everything", &["cat", "/settings/size"])? == "small").then_some(()))
    })
    .unwrap();
    let uid = cluster.pod("everything", ".metadata.uid").unwrap();
    cluster.kubectl(&["delete", "pod", "everything", "--timeout=120s"]).unwrap();
    // Without a grace period the object does not wait for the node.
    eventually("the pod's mounts to go", LONG, || {
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", cluster.holder()))?;
        Ok((!mounts.contains(&uid)).then_some(()))
    })
    .unwrap();
}

#[test]
fn pods_that_end_stay_ended_and_only_failures_are_tried_again() {
    let cluster = Cluster::up().unwrap();
    let pod = |name: &str, policy: &str, command: &str| {
        let pod = Pod::new(name).spec(&format!("restartPolicy: {policy}")).script(command);
        let pod = pod.spec("volumes: [{name: state, emptyDir: {}}]");
        pod.container("volumeMounts: [{name: state, mountPath: /state}]").to_string()
    };
    let manifest = [
        pod("good", "Never", "exit 0"),
        pod("bad", "Never", "exit 7"),
        pod("once", "OnFailure", "exit 0"),
        pod("twice", "OnFailure", "test -e /state/tried || { touch /state/tried; exit 1; }"),
    ];
    cluster.apply(&manifest.concat()).unwrap();
    for (name, phase, restarts, code) in [
        ("good", "Succeeded", "0", "0"),
        ("bad", "Failed", "0", "7"),
        ("once", "Succeeded", "0", "0"),
        ("twice", "Succeeded", "1", "0"),
    ] {
        cluster.wait(name, &format!("jsonpath={{.status.phase}}={phase}")).unwrap();
        let container = ".status.containerStatuses[0]";
        assert_eq!(cluster.pod(name, &format!("{container}.restartCount")).unwrap(), restarts, "{name}");
        assert_eq!(
            cluster.pod(name, &format!("{container}.state.terminated.exitCode")).unwrap(),
            code,
            "{name}"
        );
    }
    let table = cluster.kubectl(&["get", "pods"]).unwrap();
    assert!(
        table.lines().any(|line| line.starts_with("good") && line.contains("0/1     Completed")),
        "{table}"
    );
    assert!(table.lines().any(|line| line.starts_with("bad") && line.contains("0/1     Error")), "{table}");
}

#[test]
fn an_init_container_that_fails_holds_the_others_back() {
    let cluster = Cluster::up().unwrap();
    let init = format!("initContainers: [{{name: prepare, image: \"{BUSYBOX}\", command: [\"false\"]}}]");
    let stuck = Pod::new("stuck").spec("restartPolicy: Never").spec(&init);
    cluster.apply(&stuck.to_string()).unwrap();
    cluster.wait("stuck", "jsonpath={.status.phase}=Failed").unwrap();
    assert_eq!(
        cluster.pod("stuck", ".status.initContainerStatuses[0].state.terminated.exitCode").unwrap(),
        "1"
    );
    assert_eq!(
        cluster.pod("stuck", ".status.containerStatuses[0].state.waiting.reason").unwrap(),
        "PodInitializing"
    );
    let table = cluster.kubectl(&["get", "pod", "stuck"]).unwrap();
    assert!(table.contains("Init:Error"), "{table}");
}

#[test]
fn a_service_account_reaches_the_api_and_may_do_what_its_roles_say() {
    let cluster = Cluster::up().unwrap();
    let rights = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
"#;
    cluster.apply(rights).unwrap();
    cluster.start(&Pod::new("inside").spec("serviceAccountName: reader")).unwrap();
    // Busybox's wget does not check certificates: kubectl on the pod's network does, with what is mounted in the pod.
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mounted = |file: &str| cluster.exec("inside", &["cat", &format!("{folder}/{file}")]).unwrap();
    assert_eq!(mounted("namespace"), "default");
    let (token, authority) = (cluster.folder().join("token"), cluster.folder().join("ca.crt"));
    fs::write(&token, mounted("token")).unwrap();
    fs::write(&authority, mounted("ca.crt")).unwrap();
    let process = cluster.main_process("inside").unwrap();
    let resolver = cluster.folder().join("resolver").to_string_lossy().into_owned();
    fs::write(&resolver, cluster.exec("inside", &["cat", "/etc/resolv.conf"]).unwrap()).unwrap();
    let ask = |path: &str| {
        // The pod's network namespace, and its resolver configuration in a mount namespace of curl's own.
        let script = format!(
            "mount --bind {resolver} /etc/resolv.conf && exec curl --silent --cacert {} -H \"Authorization: Bearer $(cat {})\" -o /dev/null -w '%{{http_code}}' https://kubernetes.default.svc{path}",
            authority.display(),
            token.display()
        );
        let net = format!("--net=/proc/{process}/ns/net");
        cluster.on_the_host("nsenter", &[&net, "unshare", "--mount", "sh", "-c", &script]).unwrap()
    };
    assert_eq!(ask("/api/v1/namespaces/default/pods"), "200");
    assert_eq!(ask("/api/v1/namespaces/default/secrets"), "403");
    assert_eq!(ask("/api/v1/namespaces/kube-system/pods"), "403");
    // The token belongs to the pod: it ends with it.
    let address = format!(
        "https://{}/api/v1/namespaces/default/pods",
        cluster.field(&["svc", "kubernetes"], ".spec.clusterIP").unwrap()
    );
    let header = format!("Authorization: Bearer {}", fs::read_to_string(&token).unwrap());
    let outside =
        ["--silent", "--insecure", "-o", "/dev/null", "-w", "%{http_code}", "-H", &header, &address];
    assert_eq!(cluster.on_the_host("curl", &outside).unwrap(), "200");
    cluster.kubectl(&["delete", "pod", "inside", "--timeout=120s"]).unwrap();
    assert_eq!(cluster.on_the_host("curl", &outside).unwrap(), "401");
}

#[test]
fn variables_come_from_files_that_init_containers_wrote() {
    let cluster = Cluster::up().unwrap();
    let manifest = format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: filed}}
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - {{name: init, image: "{BUSYBOX}", command: [sh, -c, "echo \"DB='db.example:1'\" > /data/config.env"], volumeMounts: [{{name: v, mountPath: /data}}]}}
  containers:
  - name: main
    image: {BUSYBOX}
    command: [sh, -c, "echo $DB ${{NONE:-unset}}; exec sleep infinity"]
    env:
    - {{name: DB, valueFrom: {{fileKeyRef: {{volumeName: v, path: config.env, key: DB}}}}}}
    - {{name: NONE, valueFrom: {{fileKeyRef: {{volumeName: v, path: config.env, key: NONE, optional: true}}}}}}
  volumes: [{{name: v, emptyDir: {{}}}}]
"#
    );
    cluster.apply(&manifest).unwrap();
    cluster.wait("filed", "condition=Ready").unwrap();
    assert_eq!(cluster.kubectl(&["logs", "filed"]).unwrap().trim(), "db.example:1 unset");
}
