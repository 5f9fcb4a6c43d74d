//! Operators are installed one by one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use keelson_e2e::{BUSYBOX, Cluster, LONG, PATIENCE, eventually, manifests};

fn deployment(name: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: main, image: "{BUSYBOX}", command: [sleep, infinity]}}]
"#
    )
}

#[test]
fn the_default_profile_has_its_operators_ready_with_version_and_age() {
    let cluster = Cluster::up().unwrap();
    let table = cluster.kubectl(&["get", "operators"]).unwrap();
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["NAME", "READY", "VERSION", "AGE"]);
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
    for name in [
        "attachdetach",
        "bootstraptoken",
        "deployment",
        "disruption",
        "dns",
        "endpointslice",
        "ephemeralvolume",
        "garbagecollector",
        "localvolume",
        "metrics",
        "namespace",
        "nodeipam",
        "nodelifecycle",
        "persistentvolume",
        "replicaset",
        "resourceclaim",
        "resourcequota",
        "serviceaccount",
        "storageprotection",
    ] {
        let row =
            rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name} is missing: {table}"));
        assert_eq!(row[1..3], ["True", env!("CARGO_PKG_VERSION")], "{table}");
    }
}

#[test]
fn a_deployment_does_nothing_until_its_operators_are_applied_and_outlives_them() {
    let cluster = Cluster::up_with(&["--profile", "minimal"]).unwrap();
    cluster.apply(&deployment("web")).unwrap();
    let operators = cluster.kubectl(&["get", "operators", "-o", "name"]).unwrap();
    assert!(!operators.contains("deployment") && !operators.contains("replicaset"), "{operators}");
    assert_eq!(cluster.kubectl(&["get", "rs,pods", "-o", "name"]).unwrap(), "");

    let folder = manifests().unwrap().join("operators");
    let [replicaset, deployments] =
        ["replicaset.yaml", "deployment.yaml"].map(|it| folder.join(it).to_string_lossy().into_owned());
    cluster.kubectl(&["apply", "-f", &replicaset, "-f", &deployments]).unwrap();
    cluster.kubectl(&["wait", "deploy/web", "--for=condition=Available", PATIENCE]).unwrap();
    assert_eq!(cluster.pods("app=web").unwrap().len(), 2);

    cluster.kubectl(&["delete", "-f", &deployments, PATIENCE]).unwrap();
    let operators = cluster.kubectl(&["get", "operators", "-o", "name"]).unwrap();
    assert!(!operators.contains("deployment"), "{operators}");
    cluster.apply(&deployment("late")).unwrap();
    cluster.kubectl(&["scale", "deploy/web", "--replicas=1"]).unwrap();
    // The ReplicaSet's operator still works: a pod that it must replace shows that time has passed.
    let victim = cluster.pods("app=web").unwrap().remove(0);
    cluster.kubectl(&["delete", "pod", &victim, PATIENCE]).unwrap();
    eventually("a replacement", LONG, || {
        let pods = cluster.pods("app=web")?;
        Ok((pods.len() == 2 && !pods.contains(&victim)).then_some(()))
    })
    .unwrap();
    assert_eq!(cluster.pods("app=late").unwrap(), Vec::<String>::new());
    assert_eq!(cluster.field(&["deploy", "late"], ".status").unwrap(), "{}");

    cluster.kubectl(&["apply", "-f", &deployments]).unwrap();
    cluster.kubectl(&["wait", "deploy/late", "--for=condition=Available", PATIENCE]).unwrap();
    eventually("the scale to be obeyed", LONG, || Ok((cluster.pods("app=web")?.len() == 1).then_some(())))
        .unwrap();
}
