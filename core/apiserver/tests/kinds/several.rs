//! What several servers of one cluster promise together.

use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use keelson_apiserver::pki::{Pki, Renewed};
use keelson_store::raft_store::{MEMBER_DNS_NAME, PeerTls, Peers};
use serde_json::{Value, json};

use crate::custom_resources::shirts;
use crate::harness::{Answer, Server};
use crate::hook_server::HookServer;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The way of a server to the others: an address that no other process of tests uses, and a port that was free.
fn peers(dir: &Path, number: usize, join: &[String]) -> Peers {
    static USED: AtomicU8 = AtomicU8::new(10);
    let process = 1 + (std::process::id() % 250) as u8;
    let address = IpAddr::from([127, 98, process, USED.fetch_add(1, Ordering::Relaxed)]);
    let listen = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap();
    let name = format!("server-{number}");
    let pki = Arc::new(Pki::open(dir.join("pki")).unwrap().members().unwrap());
    let certificate = Renewed::peer(&pki, "member", &[name.clone(), MEMBER_DNS_NAME.to_owned()]).unwrap();
    let tls = PeerTls { authority: pki.authority().into(), certificate };
    let addresses = vec![listen.to_string()];
    Peers { name, addresses, listen, source: None, tls, join: join.to_vec(), promote: true }
}

/// Servers in one process, on one store.
pub(crate) async fn servers(count: usize) -> Vec<Server> {
    let mut servers: Vec<Server> = Vec::new();
    let mut addresses = Vec::new();
    for number in 0..count {
        let first = servers.first().map(|first| first.dir.path().join("pki"));
        let server = Server::start_with(|config| {
            if let Some(first) = first {
                copy(&first, &config.data_dir.join("pki"));
            }
            let peers = peers(&config.data_dir, number, &addresses);
            addresses.extend(peers.addresses.clone());
            config.store.peers = Some(peers);
        })
        .await;
        servers.push(server);
    }
    servers
}

fn service(name: &str, address: Option<&str>, port: Option<u16>) -> Value {
    let mut spec = json!({"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]});
    if let Some(address) = address {
        spec["clusterIP"] = address.into();
    }
    if let Some(port) = port {
        spec["ports"][0]["nodePort"] = port.into();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn at_once(servers: &[Server], make: impl Fn(usize) -> Value) -> Vec<Answer> {
    let posts = servers.iter().enumerate().map(|(number, server)| server.post(SERVICES, make(number)));
    futures::future::join_all(posts).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn services_that_several_servers_make_at_once_never_share_an_address_or_a_port() {
    let servers = servers(3).await;
    for round in 0..20_u16 {
        // One of those who ask for the same gets it, whichever of the two it is.
        let (address, port) = (format!("10.96.7.{}", round + 1), 30_000 + round);
        let by_port = at_once(&servers, |number| service(&format!("p{round}-{number}"), None, Some(port)));
        let name = |number| format!("a{round}-{number}");
        let by_address = at_once(&servers, |number| service(&name(number), Some(&address), None));
        let (by_port, by_address) = tokio::join!(by_port, by_address);
        for (answers, reason) in [(by_port, "provided port is"), (by_address, "provided IP is")] {
            let made = answers.iter().filter(|answer| answer.0 == 201).count();
            assert_eq!(made, 1, "round {round}: {answers:?}");
            for refused in answers.into_iter().filter(|answer| answer.0 != 201) {
                let message = refused.fails(422);
                assert!(message.contains(reason) && message.contains("already allocated"), "{message}");
            }
        }
    }
    let all = servers[1].get(SERVICES).await.ok();
    let all = all["items"].as_array().unwrap();
    assert_eq!(all.len(), 41);
    let mut ports: Vec<_> = all.iter().filter_map(|it| it["spec"]["ports"][0]["nodePort"].as_u64()).collect();
    let mut addresses: Vec<_> = all.iter().map(|it| it["spec"]["clusterIP"].as_str().unwrap()).collect();
    ports.sort_unstable();
    addresses.sort_unstable();
    let (given, held) = (ports.len(), addresses.len());
    ports.dedup();
    addresses.dedup();
    assert_eq!((ports.len(), addresses.len()), (given, held), "{ports:?} {addresses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_a_service_of_one_server_is_free_for_one_of_another() {
    let servers = servers(2).await;
    for round in 0..6 {
        let (one, other) = (&servers[round % 2], &servers[(round + 1) % 2]);
        let asked = |name: &str| service(name, Some("10.96.8.8"), Some(30_077));
        one.post(SERVICES, asked("s")).await.ok();
        // Of the same name, and of another one.
        for name in ["s", "t"] {
            other.delete(&format!("{SERVICES}/s"), json!({})).await.ok();
            other.post(SERVICES, asked(name)).await.ok();
            one.post(SERVICES, service("more", None, Some(30_077))).await.fails(422);
        }
        one.delete(&format!("{SERVICES}/t"), json!({})).await.ok();
    }
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SHIRTS: &str = "/apis/stable.example.com/v1/namespaces/default/shirts";
const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// Reads a path until it is answered with a code.
async fn until(server: &Server, path: &str, code: u16) {
    let looked = async {
        while server.get(path).await.0 != code {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), looked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_object_that_one_server_is_making_does_not_outlive_its_definition_that_another_deletes() {
    let servers = servers(2).await;
    let (one, other) = (&servers[0], &servers[1]);
    one.post(DEFINITIONS, shirts()).await.ok();
    until(other, SHIRTS, 200).await;
    // Admission of the object takes as long as the test wants.
    let (entered, mut has_entered) = tokio::sync::mpsc::unbounded_channel();
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let may_go = std::sync::Mutex::new(may_go);
    let hook = HookServer::start(move |_, review| {
        entered.send(()).unwrap();
        may_go.lock().unwrap().recv().unwrap();
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": {"uid": review["request"]["uid"], "allowed": true}})
    })
    .await;
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["stable.example.com"], "apiVersions": ["*"],
        "resources": ["shirts"]});
    let hooks = json!({"metadata": {"name": "slow"}, "webhooks": [{
        "name": "slow.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 30, "clientConfig": hook.client_config("slow"), "rules": [rule]}]});
    one.post(HOOKS, hooks).await.ok();
    let definition = format!("{DEFINITIONS}/shirts.stable.example.com");
    let late = json!({"metadata": {"name": "late"}, "spec": {"color": "red"}});
    let creation = other.post(SHIRTS, late.clone());
    let deletion = async {
        has_entered.recv().await.unwrap();
        one.delete(&definition, json!({})).await.ok();
        until(one, &definition, 404).await;
        go.send(()).unwrap();
    };
    let (created, ()) = tokio::join!(creation, deletion);
    // Its definition is being deleted, or has gone, as far as that server has seen.
    assert!(matches!(created.0, 404 | 405), "{created:?}");
    one.delete(&format!("{HOOKS}/slow"), json!({})).await.ok();
    one.post(DEFINITIONS, shirts()).await.ok();
    for server in &servers {
        until(server, SHIRTS, 200).await;
        assert_eq!(server.get(SHIRTS).await.ok()["items"], json!([]));
    }
    // A definition that changes while an object is made keeps nobody from making it.
    let change = |number: usize| json!({"metadata": {"labels": {"number": number.to_string()}}});
    for number in 0..20 {
        let mut shirt = late.clone();
        shirt["metadata"]["name"] = format!("s{number}").into();
        let (made, changed) = tokio::join!(other.post(SHIRTS, shirt), one.merge(&definition, change(number)));
        made.ok();
        changed.ok();
    }
}
