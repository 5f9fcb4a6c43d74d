use super::*;
use crate::disk::RealDisk;
use crate::raft::member::{Identity, Member};
use crate::raft::message::{Origin, Request, Response};
use crate::{Change, Event, Key, Precondition, Value};

struct Nobody;

impl Observer for Nobody {
    fn restored(&self, _: &Snapshot) {}
    fn applied(&self, _: &[Event]) {}
    fn compacted(&self, _: Revision) {}
}

async fn open(dir: &std::path::Path) -> Arc<RaftStore> {
    RaftStore::open(Config::new(dir), Arc::new(Nobody)).await.unwrap()
}

fn put(name: &str) -> Write {
    Write {
        key: Key::new(name).unwrap(),
        precondition: Precondition::Any,
        change: Change::Put(Value::plain("x")),
    }
}

/// Starts a member with peers that is alone.
async fn start(dir: &std::path::Path) -> Arc<Core> {
    let peers = Peers {
        name: "a".to_owned(),
        addresses: vec!["127.0.0.1:1".to_owned()],
        listen: ([127, 0, 0, 1], 1).into(),
        source: None,
        tls: PeerTls::none(),
        join: Vec::new(),
        promote: true,
    };
    let me = Member::new(&peers.name, &peers.addresses).unwrap();
    let config = Config { peers: Some(peers), ..Config::new(dir) };
    let disk = RealDisk::shared();
    let (log, contents) = open::open_log(&disk, &config).unwrap();
    let member = open::Start {
        identity: Identity { member: 7, cluster: Some(1), joins: false },
        me,
        dial: Arc::new(open::Nobody),
        disk,
        ended: CancellationToken::new(),
    };
    member.start(&config, log, contents, Arc::new(Nobody)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_started_again_does_not_answer_for_what_it_led_before() {
    let dir = tempfile::tempdir().unwrap();
    let core = start(dir.path()).await;
    let (before, _) = core.leader().unwrap();
    let (first, _) = core.pending.register();
    core.raft.shutdown().await.unwrap();
    drop(core);
    let core = start(dir.path()).await;
    let (now, _) = core.leader().unwrap();
    assert_eq!(now.node_id, before.node_id);
    let origin = Origin { member: 9, run: 1, number: 1, decided: 1 };
    let fence = |leader| core.answer(core.sender(), Request::Fence { leader, origin });
    assert!(matches!(fence(before).await, Response::NotLeader { .. }));
    assert!(matches!(fence(now).await, Response::Fenced { proposed: false }));
    // And its runs have an order.
    assert!(core.pending.register().0.run > first.run);
}

#[tokio::test(flavor = "multi_thread")]
async fn saves_that_are_asked_for_at_once_all_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    for round in 0..20 {
        store.write(put(&format!("/{round}"))).await.unwrap();
        let saves = (0..4).map(|_| store.checkpoint());
        for saved in futures::future::join_all(saves).await {
            saved.unwrap();
        }
        // One whose caller goes away is under way when the next is asked for.
        store.write(put("/again")).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_micros(50 * round), store.checkpoint()).await;
    }
    store.write(put("/last")).await.unwrap();
    store.checkpoint().await.unwrap();
    assert_eq!(store.snapshot().len(), 22);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_closed_has_not_failed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let failed = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.failed().await })
    };
    store.close().await;
    tokio::task::yield_now().await;
    assert!(!failed.is_finished());
    failed.abort();
}
