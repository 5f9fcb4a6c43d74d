//! The benchmark of the store works; what it measures is not judged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::process::Command;

use serde_json::Value;

#[test]
fn the_store_is_measured_against_etcd_in_one_run() {
    let output = Command::new(env!("CARGO_BIN_EXE_bench_store"))
        .args(["--short", "--seconds", "0.2", "--rounds", "1", "--keys", "500"])
        .output()
        .unwrap();
    let tables = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tables}");
    let told: HashMap<String, Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let told: Value = serde_json::from_str(line).unwrap();
            (told["measurement"].as_str().unwrap().to_owned(), told["value"].clone())
        })
        .collect();
    // A busy machine may make no write in so short a time.
    let known = |name: &str| assert!(told.contains_key(name), "no measurement {name}\n{told:#?}");
    let positive = |name: &str| {
        let value = told.get(name).unwrap_or_else(|| panic!("no measurement {name}\n{told:#?}"));
        assert!(value.as_f64().unwrap() > 0.0, "{name}: {value}");
    };
    for clients in [1, 16, 128] {
        known(&format!("put: 1 members, Keelson's store alone, asked in process, {clients} clients"));
        for system in ["Keelson", "Keelson on etcd", "etcd"] {
            for (members, asked) in [(1, "leader"), (3, "leader"), (3, "all")] {
                let name = format!("put: {members} members, {system}, asked {asked}, {clients} clients");
                known(&format!("{name}, p99"));
                positive(&format!("{name}, processor time of all servers per write"));
            }
        }
    }
    for system in ["Keelson", "etcd"] {
        positive(&format!("leader of 3 killed to next write, {system}: worst of 1"));
        for fact in [
            "memory (RSS) with them",
            "on the disk, room",
            "start after kill -9 until a key is read",
            "member 3 joins until it votes and a key is read there",
        ] {
            positive(&format!("500 keys, {system}: {fact}"));
        }
    }
    assert!(tables.contains("### Durable writes of 1 KiB"), "{tables}");
}
