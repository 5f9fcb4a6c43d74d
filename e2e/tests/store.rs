//! The store as its administrator sees it: quota, snapshots, history, damage.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use keelson_e2e::{Kubectl, Server, Servers, binary, eventually};

/// Runs `keelson snapshot ...`; what it prints, or on which fault it fails.
fn snapshot(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(binary().unwrap()).arg("snapshot").args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn save(server: &Server, file: &Path) -> Result<String, String> {
    let kubeconfig = server.kubeconfig();
    snapshot(&["save", file.to_str().unwrap(), "--kubeconfig", kubeconfig.to_str().unwrap()])
}

fn status(file: &Path) -> serde_json::Value {
    serde_json::from_str(&snapshot(&["status", file.to_str().unwrap(), "-o", "json"]).unwrap()).unwrap()
}

/// Makes a ConfigMap with as many bytes.
fn create(server: &Server, name: &str, bytes: usize) -> anyhow::Result<String> {
    create_with(&server.client(), name, bytes)
}

fn create_with(client: &Kubectl, name: &str, bytes: usize) -> anyhow::Result<String> {
    let manifest = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name}, "data": {"x": "x".repeat(bytes)},
    });
    client.with(&["create", "-f", "-"], &manifest.to_string())
}

#[test]
fn a_store_that_has_reached_its_quota_says_so_takes_deletions_and_goes_on_when_there_is_room() {
    let server = Server::start_with(&["--quota-backend-bytes", "3000000"]).unwrap();
    let alarm = "/readyz/store-alarms";
    assert_eq!(server.kubectl(&["get", "--raw", alarm]).unwrap(), "ok");
    let mut made = 0;
    let refused = loop {
        match create(&server, &format!("c{made}"), 500_000) {
            Ok(_) => made += 1,
            Err(error) => break format!("{error:#}"),
        }
        assert!(made < 10, "the quota was never reached");
    };
    assert!(refused.contains("etcdserver: mvcc: database space exceeded"), "{refused}");
    assert!(server.kubectl_fails(&["get", "--raw", alarm]).unwrap().contains("NOSPACE"));
    let verbose = server.kubectl(&["get", "--raw", "/readyz?verbose"]).unwrap();
    assert!(
        verbose.contains("[!]store-alarms raised") && verbose.ends_with("readyz check passed\n"),
        "{verbose}"
    );
    let metrics = server.kubectl(&["get", "--raw", "/metrics"]).unwrap();
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).expect(name);
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(value("etcd_server_quota_backend_bytes"), 3_000_000.0);
    assert_eq!(value("etcd_debugging_server_alarms"), 1.0);
    assert!(value("etcd_mvcc_db_total_size_in_bytes") > 2_400_000.0);
    // Reads go on, and so does a deletion that takes more than one step.
    server.kubectl(&["get", "configmap", "c0"]).unwrap();
    server
        .kubectl(&["patch", "configmap", "c0", "-p", r#"{"metadata":{"finalizers":["example.com/wait"]}}"#])
        .unwrap();
    server.kubectl(&["delete", "configmap", "c0", "--wait=false"]).unwrap();
    server.kubectl(&["patch", "configmap", "c0", "-p", r#"{"metadata":{"finalizers":null}}"#]).unwrap();
    assert_eq!(server.kubectl(&["get", "--raw", alarm]).unwrap(), "ok");
    create(&server, "again", 500_000).unwrap();
    assert!(create(&server, "more", 500_000).is_err());
}

#[test]
fn when_the_quota_is_reached_all_servers_say_so_and_go_on_when_there_is_room() {
    let servers = Servers::start_with(3, &["--quota-backend-bytes", "3000000"]).unwrap();
    let clients = [0, 1, 2].map(|number| servers.client(number));
    let alarm = ["get", "--raw", "/readyz/store-alarms"];
    let alarms = |client: &Kubectl| {
        let metrics = client.run(&["get", "--raw", "/metrics"]).unwrap();
        let line = metrics.lines().find(|line| line.starts_with("etcd_debugging_server_alarms")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let mut made = 0;
    while create_with(&clients[made % 3], &format!("c{made}"), 500_000).is_ok() {
        made += 1;
        assert!(made < 10, "the quota was never reached");
    }
    for (number, client) in clients.iter().enumerate() {
        let refused = create_with(client, "more", 500_000).unwrap_err().to_string();
        assert!(refused.contains("etcdserver: mvcc: database space exceeded"), "{number}: {refused}");
        // One that follows has all when it has read what is current.
        client.run(&["get", "configmap", &format!("c{}", made - 1)]).unwrap();
        assert!(client.fails(&alarm).unwrap().contains("NOSPACE"), "server {number} raises no alarm");
        assert_eq!(alarms(client), 1.0);
        // It is a notice, and no reason to send nobody there.
        client.run(&["get", "--raw", "/readyz"]).unwrap();
    }
    // Deletions and small changes go on, through each.
    for (number, client) in clients.iter().enumerate() {
        client.run(&["label", "configmap", &format!("c{number}"), "small=change"]).unwrap();
    }
    clients[1].run(&["delete", "configmap", "c0", "c1"]).unwrap();
    for (number, client) in clients.iter().enumerate() {
        servers.keelson(number, &["snapshot", "defrag"]).unwrap();
        client.run(&["get", "configmap", "c2"]).unwrap();
        assert_eq!(client.run(&alarm).unwrap(), "ok", "server {number} still raises an alarm");
        assert_eq!(alarms(client), 0.0);
    }
    // And so do writes, although another one leads.
    let leader = servers.leader(0).unwrap();
    servers.keelson(0, &["members", "lead", &Servers::name((leader + 1) % 3)]).unwrap();
    create_with(&clients[leader], "again", 500_000).unwrap();
    let refused =
        (0..4).find_map(|number| create_with(&clients[leader], &format!("full{number}"), 500_000).err());
    let refused = refused.expect("the new leader does not keep to the quota").to_string();
    assert!(refused.contains("etcdserver: mvcc: database space exceeded"), "{refused}");
}

#[test]
fn a_snapshot_is_restored_elsewhere_with_the_same_objects_and_whoever_watched_reads_anew() {
    let server = Server::start().unwrap();
    create(&server, "kept", 10).unwrap();
    let versions =
        "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {.metadata.resourceVersion}\n{end}";
    let all = ["get", "configmaps,secrets,namespaces,clusterroles", "-A", "-o", versions];
    let before = server.kubectl(&all).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let said = save(&server, &file).unwrap();
    assert!(said.starts_with("Snapshot saved at "), "{said}");
    let found = status(&file);
    assert!(found["totalKey"].as_u64().unwrap() > 50 && found["hash"].as_u64().is_some(), "{found}");
    let table = snapshot(&["status", file.to_str().unwrap()]).unwrap();
    assert!(table.starts_with("HASH ") && table.contains("TOTAL KEYS"), "{table}");
    // Only who may do anything may have everything.
    let path = ["get", "--raw", "/keelson.io/v1/store/snapshot"];
    let refused = server.kubectl_fails(&[&path[..], &["--as=jane"]].concat()).unwrap();
    assert!(refused.contains("cannot get path \"/keelson.io/v1/store/snapshot\""), "{refused}");
    create(&server, "lost", 10).unwrap();
    let newest = ["get", "--raw", "/api/v1/configmaps?limit=1"];
    let revision = |server: &Server| -> u64 {
        let list: serde_json::Value = serde_json::from_str(&server.kubectl(&newest).unwrap()).unwrap();
        list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    let seen = revision(&server);

    let to = server.data_dir().to_owned();
    let restore = ["restore", file.to_str().unwrap(), "--data-dir", to.to_str().unwrap()];
    assert!(snapshot(&restore).unwrap_err().contains("is in use"));
    let server = server.stopped(|| {
        assert!(snapshot(&restore).unwrap_err().contains("is not empty"));
        std::fs::rename(to.join("store"), to.join("store.old")).unwrap();
        let mut damaged = std::fs::read(&file).unwrap();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        let bad = dir.path().join("bad");
        std::fs::write(&bad, damaged).unwrap();
        let restored = ["restore", bad.to_str().unwrap(), "--data-dir", to.to_str().unwrap()];
        assert!(snapshot(&restored).unwrap_err().contains("is not a whole snapshot"));
        assert!(!to.join("store").exists());
        let said = snapshot(&restore).unwrap();
        assert!(said.contains("kubeconfigs and tokens stay good"), "{said}");
    });
    let server = server.map_err(|failed| failed.error).unwrap();
    assert_eq!(server.kubectl(&all).unwrap(), before);
    assert!(server.kubectl_fails(&["get", "configmap", "lost"]).unwrap().contains("not found"));
    assert!(revision(&server) > seen + 1_000_000);
    // One who has seen what is no more is told so, and one who reads anew misses nothing.
    let watch = |from: u64| {
        format!("/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=2&resourceVersion={from}")
    };
    let expired = server.kubectl(&["get", "--raw", &watch(seen)]).unwrap();
    assert!(expired.contains("\"code\":410") && expired.contains("Expired"), "{expired}");
    let from = revision(&server);
    create(&server, "later", 10).unwrap();
    let events = server.kubectl(&["get", "--raw", &watch(from)]).unwrap();
    assert!(events.contains("\"ADDED\"") && events.contains("\"later\""), "{events}");
    let future = server.kubectl_fails(&["get", "--raw", &watch(from * 2)]);
    let future = future.or_else(|_| server.kubectl(&["get", "--raw", &watch(from * 2)])).unwrap();
    assert!(future.contains("Too large resource version"), "{future}");
    server.stop().unwrap();
}

#[test]
fn a_save_that_is_killed_leaves_the_file_that_was_there_and_the_next_one_is_whole() {
    let server = Server::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    save(&server, &file).unwrap();
    let before = std::fs::read(&file).unwrap();
    for number in 0..12 {
        create(&server, &format!("c{number}"), 900_000).unwrap();
    }
    let partial = dir.path().join("file.partial");
    let mut killed = 0;
    for _ in 0..20 {
        let mut child = Command::new(binary().unwrap())
            .args(["snapshot", "save", file.to_str().unwrap(), "--kubeconfig"])
            .arg(server.kubeconfig())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !partial.exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());
        let now = std::fs::read(&file).unwrap();
        assert!(now == before || status(&file)["totalKey"].as_u64() > Some(0));
    }
    assert!(killed > 0, "every save was faster than its end");
    save(&server, &file).unwrap();
    assert!(status(&file)["totalSize"].as_u64() > Some(10_000_000));
    assert!(!partial.exists());
}

#[test]
fn snapshots_are_saved_by_a_schedule() {
    let server = Server::start_with(&["--snapshot-schedule", "1h", "--snapshot-retention", "2"]).unwrap();
    let dir = server.data_dir().join("snapshots");
    let saved = || {
        let files = std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|file| file.path());
        files.filter(|file| file.extension().is_some_and(|it| it == "snapshot")).collect::<Vec<_>>()
    };
    eventually("a snapshot to be saved", Duration::from_secs(60), || Ok((saved().len() == 1).then_some(())))
        .unwrap();
    assert!(status(&saved()[0])["totalKey"].as_u64() > Some(50));
    // One that is started again goes on with the schedule, and does not begin it anew.
    let server = server.kill_and_restart_with(&["--snapshot-schedule", "1h"]).unwrap();
    server.kubectl(&["get", "--raw", "/readyz"]).unwrap();
    assert_eq!(saved().len(), 1);
}

#[test]
fn a_store_that_is_written_anew_gives_its_room_back_and_is_read_meanwhile() {
    let server = Server::start().unwrap();
    for number in 0..20 {
        create(&server, &format!("c{number}"), 900_000).unwrap();
    }
    let size = || {
        let output = Command::new("du").arg("-sk").arg(server.data_dir().join("store")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    server.kubectl(&["delete", "configmaps", "--all"]).unwrap();
    let before = size();
    let kubeconfig = server.kubeconfig();
    snapshot(&["defrag", "--kubeconfig", kubeconfig.to_str().unwrap()]).unwrap();
    let after = size();
    println!("{before} KiB before, {after} KiB after");
    assert!(after < before && after < 40_000, "{before} KiB before, {after} KiB after");
    let server = server.kill_and_restart().unwrap();
    server.kubectl(&["get", "namespaces"]).unwrap();
}

#[test]
fn a_damaged_log_is_refused_with_the_commands_that_repair_it() {
    let server = Server::start().unwrap();
    for number in 0..5 {
        create(&server, &format!("c{number}"), 1000).unwrap();
    }
    let log = server.data_dir().join("store/log");
    let data_dir = server.data_dir().to_owned();
    let spoil = || {
        let file = std::fs::read_dir(&log).unwrap().flatten().map(|file| file.path()).next().unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[3000..3010].iter_mut().for_each(|byte| *byte ^= 0xff);
        std::fs::write(&file, bytes).unwrap();
    };
    let failed = server.stopped(spoil).err().unwrap();
    let refused = failed.error.to_string();
    assert!(
        refused.contains("the log is damaged in") && refused.contains("keelson members rebuild"),
        "{refused}"
    );
    assert!(refused.contains("keelson snapshot restore"), "{refused}");
    let output = Command::new(binary().unwrap())
        .args(["members", "rebuild", "--data-dir", data_dir.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("snapshot restore"), "{said}");
    assert!(log.exists());
}

#[test]
fn a_list_that_was_begun_long_ago_is_told_to_begin_anew() {
    let server = Server::start_with(&["--etcd-compaction-interval", "1s"]).unwrap();
    for name in ["a", "b"] {
        create(&server, name, 10).unwrap();
    }
    let page = "/api/v1/namespaces/default/configmaps?limit=1";
    let list: serde_json::Value =
        serde_json::from_str(&server.kubectl(&["get", "--raw", page]).unwrap()).unwrap();
    let token = list["metadata"]["continue"].as_str().unwrap();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    // What it shows is no longer the newest.
    create(&server, "c", 10).unwrap();
    let exact = format!("{page}&resourceVersion={revision}&resourceVersionMatch=Exact");
    for (path, says) in [(format!("{page}&continue={token}"), "continue"), (exact, "too old")] {
        eventually("the state to be dropped", Duration::from_secs(60), || {
            let told = server.kubectl_fails(&["get", "--raw", &path]).unwrap_or_default();
            Ok((told.contains("(Expired)") && told.contains(says)).then_some(()))
        })
        .unwrap();
    }
    server.kubectl(&["get", "configmaps"]).unwrap();
}

#[test]
fn a_server_whose_log_has_no_room_serves_on() {
    let server = Server::start().unwrap();
    let log = server.data_dir().join("log");
    std::fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink("/dev/full", &log).unwrap();
    // It has much to tell: that it was killed, and what it found.
    let server = server.kill_and_restart_with(&["--verbose"]).unwrap();
    create(&server, "one", 1).unwrap();
    assert_eq!(server.kubectl(&["get", "configmap", "one", "-o", "name"]).unwrap(), "configmap/one\n");
}
