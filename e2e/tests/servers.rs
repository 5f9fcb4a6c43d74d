//! Several servers are one cluster: they join, one may die, and members come and go.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use keelson_e2e::{LONG, Servers, eventually};

fn voters(count: usize) -> Vec<(String, String)> {
    (0..count).map(|number| (Servers::name(number), "voter".to_owned())).collect()
}

fn endpoints(servers: &Servers, asked: usize) -> anyhow::Result<Vec<String>> {
    let path = "jsonpath={.endpoints[*].addresses[0]}";
    let printed = servers.client(asked).run(&["get", "endpointslice", "kubernetes", "-o", path])?;
    let mut addresses: Vec<String> = printed.split_whitespace().map(str::to_owned).collect();
    addresses.sort();
    Ok(addresses)
}

#[test]
fn servers_join_with_a_token_and_what_is_written_to_one_is_read_from_all() {
    let servers = Servers::start(3).unwrap();
    assert_eq!(servers.roles(2).unwrap(), voters(3));
    for number in 0..3 {
        let name = format!("from-{number}");
        servers.client(number).run(&["create", "configmap", &name]).unwrap();
        for other in 0..3 {
            // Without a look at the clock: it is there at once.
            servers.client(other).run(&["get", "configmap", &name]).unwrap();
        }
    }
    let all: Vec<String> = (0..3).map(|number| servers.address(number)).collect();
    eventually("clients to be led to all servers", LONG, || {
        Ok((endpoints(&servers, 1)? == all).then_some(()))
    })
    .unwrap();
}

#[test]
fn the_others_go_on_without_a_server_that_was_killed_and_it_comes_back_to_them() {
    let mut servers = Servers::start(3).unwrap();
    let leader = servers.leader(0).unwrap();
    let (next, last) = ((leader + 1) % 3, (leader + 2) % 3);
    servers.kill(leader).unwrap();
    servers.client(next).run(&["create", "configmap", "without"]).unwrap();
    servers.client(last).run(&["get", "configmap", "without"]).unwrap();
    let mut left = vec![servers.address(next), servers.address(last)];
    left.sort();
    eventually("clients to be led to those who are left", LONG, || {
        Ok((endpoints(&servers, next)? == left).then_some(()))
    })
    .unwrap();
    servers.run(leader, &[]).unwrap();
    servers.client(leader).run(&["get", "configmap", "without"]).unwrap();
    // One that ends in order hands the lead over first.
    let leader = servers.leader(0).unwrap();
    servers.stop(leader).unwrap();
    servers.client((leader + 1) % 3).run(&["create", "configmap", "handed-over"]).unwrap();
    // Without a majority nothing is read as current, and it is told why.
    servers.kill((leader + 1) % 3).unwrap();
    let refused = servers.client((leader + 2) % 3).fails(&["get", "configmap"]).unwrap();
    assert!(
        refused.contains("ServiceUnavailable") || refused.contains("the store cannot answer"),
        "{refused}"
    );
    servers.run(leader, &[]).unwrap();
    servers.client((leader + 2) % 3).run(&["get", "configmap", "handed-over"]).unwrap();
}

/// Makes ConfigMaps of nearly a megabyte through a server, one after the other.
fn create_large(servers: &Servers, through: usize, names: impl Iterator<Item = usize>) {
    for number in names {
        let manifest = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("large-{number}")}, "data": {"x": "x".repeat(900_000)},
        });
        servers.client(through).with(&["create", "-f", "-"], &manifest.to_string()).unwrap();
    }
}

#[test]
fn a_leader_whose_disk_is_full_gives_the_lead_away_and_catches_up_when_it_has_room() {
    let servers = Servers::start(3).unwrap();
    let full = servers.leader(0).unwrap();
    let (next, last) = ((full + 1) % 3, (full + 2) % 3);
    servers.fill_disk(full).unwrap();
    // More than is preallocated of its log.
    create_large(&servers, next, 0..20);
    create_large(&servers, last, 20..40);
    assert_ne!(servers.leader(next).unwrap(), full);
    let refused = servers.client(full).fails(&["create", "configmap", "refused"]).unwrap();
    assert!(refused.contains("the disk of this member is full"), "{refused}");
    // What it has seen it still shows to who asks for no more.
    servers.client(full).run(&["get", "--raw", "/api/v1/configmaps?resourceVersion=0&limit=1"]).unwrap();
    servers.free_disk(full).unwrap();
    eventually("the server to catch up", LONG, || {
        Ok(servers.client(full).run(&["get", "configmap", "large-39"]).is_ok().then_some(()))
    })
    .unwrap();
    servers.keelson(full, &["members", "lead", &Servers::name(full)]).unwrap();
    servers.client(full).run(&["create", "configmap", "taken"]).unwrap();
    assert_eq!(servers.leader(next).unwrap(), full);
}

#[test]
fn a_member_is_removed_and_replaced_and_the_others_are_not_left_without_a_majority() {
    let mut servers = Servers::start(3).unwrap();
    servers.keelson(0, &["members", "lead", "server-1"]).unwrap();
    assert_eq!(servers.leader(0).unwrap(), 1);
    servers.keelson(0, &["members", "remove", "server-2"]).unwrap();
    assert_eq!(servers.roles(1).unwrap(), voters(2));
    let said = servers.ended(2).unwrap();
    assert!(said.contains("was removed from the cluster"), "{said}");
    let three = servers.join().unwrap();
    servers.client(three).run(&["get", "configmap"]).unwrap();
    servers.kill(three).unwrap();
    eventually("the killed member to be known as such", LONG, || {
        Ok(servers.keelson(0, &["members", "list"])?.contains("Unreachable").then_some(()))
    })
    .unwrap();
    let refused = servers.keelson_fails(0, &["members", "remove", "server-0"]).unwrap();
    assert!(refused.contains("needed for a majority"), "{refused}");
    servers.keelson(0, &["members", "remove", &Servers::name(three)]).unwrap();
    let refused = servers.keelson_fails(0, &["members", "remove", "server-9"]).unwrap();
    assert!(refused.contains("there is no member \"server-9\"; there are server-0, server-1"), "{refused}");
}

#[test]
fn who_may_not_join_is_told_why_and_makes_no_cluster_of_its_own() {
    let mut servers = Servers::start(1).unwrap();
    let url = servers.url(0);
    let token = |role: &str| servers.keelson(0, &["token", "create", "--quiet", "--role", role]).unwrap();
    let (agent, server) = (token("agent"), token("server"));
    let other_authority = format!("{}@sha256:{}", server.split('@').next().unwrap(), "0".repeat(64));
    let unknown = format!("aaaaaa.{}@{}", "a".repeat(16), server.trim().split('@').nth(1).unwrap());
    let number = servers.add_machine().unwrap();
    let mut ask =
        |token: &str| servers.refused(number, &["--server", &url, "--token", token.trim()]).unwrap();
    assert!(ask(&agent).contains("is not for servers"));
    assert!(ask(&other_authority).contains("is not of the cluster that the token is for"));
    assert!(ask(&unknown).contains("does not know the token aaaaaa"));
    assert!(ask("nonsense").contains("ID.SECRET@sha256:DIGEST"));
    let taken = servers.refused(number, &["--server", &url, "--token", server.trim(), "--name", "server-0"]);
    assert!(taken.unwrap_or_default().contains("has the name server-0 already"));
    assert_eq!(servers.roles(0).unwrap(), voters(1));
}
