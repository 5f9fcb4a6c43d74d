//! The durable store against what happens to machines: ends, kills, and full disks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use keelson_store::raft_store::Config;
use keelson_store::{
    Alarm, Change, Event, Key, Observer, Precondition, RaftStore, Refusal, Revision, Snapshot, Store,
    StoreError, Value, Write, archive,
};

/// What an observer has seen: the state it would build.
#[derive(Default)]
struct Follower(Mutex<BTreeMap<String, u64>>);

impl Observer for Follower {
    fn restored(&self, snapshot: &Snapshot) {
        *self.0.lock().unwrap() = state(snapshot);
    }

    fn applied(&self, events: &[Event]) {
        let mut seen = self.0.lock().unwrap();
        for event in events {
            match event.kind {
                keelson_store::EventKind::Deleted => seen.remove(event.key.as_str()),
                keelson_store::EventKind::Created | keelson_store::EventKind::Updated => {
                    seen.insert(event.key.to_string(), event.revision.get())
                }
            };
        }
    }

    fn compacted(&self, _: Revision) {}
}

fn state(snapshot: &Snapshot) -> BTreeMap<String, u64> {
    snapshot.range("/", None).map(|(key, entry)| (key.to_string(), entry.modified.get())).collect()
}

fn put(name: &str, precondition: Precondition, value: &[u8]) -> Write {
    Write {
        key: Key::new(format!("/{name}")).unwrap(),
        precondition,
        change: Change::Put(Value::plain(value.to_vec())),
    }
}

async fn open(dir: &Path) -> (Arc<RaftStore>, Arc<Follower>) {
    let follower = Arc::new(Follower::default());
    let store = RaftStore::open(Config::new(dir), follower.clone()).await.unwrap();
    (store, follower)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_opened_again_has_everything_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path()).await;
    for number in 0..10 {
        store.write(put(&format!("k{number}"), Precondition::Absent, b"x")).await.unwrap();
    }
    let before = state(&store.snapshot());
    store.close().await;
    drop(store);
    let (store, follower) = open(dir.path()).await;
    assert_eq!(state(&store.snapshot()), before);
    assert_eq!(*follower.0.lock().unwrap(), before);
    let entry = store.write(put("k0", Precondition::Unchanged(Revision::new(1)), b"y")).await.unwrap();
    assert_eq!(entry.modified, Revision::new(11));
    assert_eq!(store.barrier().await.unwrap(), Revision::new(11));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_state_and_the_log_after_it_make_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path()).await;
    for number in 0..10 {
        store.write(put(&format!("a{number}"), Precondition::Absent, b"x")).await.unwrap();
    }
    store.checkpoint().await.unwrap();
    for number in 0..10 {
        store.write(put(&format!("b{number}"), Precondition::Absent, b"x")).await.unwrap();
    }
    let before = state(&store.snapshot());
    store.close().await;
    drop(store);
    assert!(dir.path().join("state/current").exists());
    let (store, follower) = open(dir.path()).await;
    assert_eq!(state(&store.snapshot()), before);
    assert_eq!(*follower.0.lock().unwrap(), before);
}

/// A store whose state was saved twice, with writes before, between and after.
async fn saved_twice(dir: &Path, snapshot_after_bytes: u64) -> BTreeMap<String, u64> {
    let config = Config { snapshot_after_bytes, segment_bytes: 64 << 10, ..Config::new(dir) };
    let store = RaftStore::open(config, Arc::new(Follower::default())).await.unwrap();
    for round in ["a", "b", "c"] {
        for number in 0..100 {
            store.write(put(&format!("{round}{number}"), Precondition::Absent, &[b'x'; 2000])).await.unwrap();
            store.write(put("often", Precondition::Any, round.as_bytes())).await.unwrap();
        }
        if round != "c" {
            store.checkpoint().await.unwrap();
        }
    }
    let state = state(&store.snapshot());
    store.close().await;
    state
}

fn spoil(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].iter_mut().for_each(|byte| *byte ^= 0x5a);
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_is_moved_away_and_made_again_from_snapshot_and_log() {
    // With and without a whole snapshot behind the log.
    for (snapshot_after_bytes, whole) in [(u64::MAX, false), (1, true), (300_000, true)] {
        for name in ["state/current", "state/sled/db"] {
            let dir = tempfile::tempdir().unwrap();
            let before = saved_twice(dir.path(), snapshot_after_bytes).await;
            assert_eq!(dir.path().join("state.snapshot").exists(), whole);
            spoil(&dir.path().join(name));
            let (store, follower) = open(dir.path()).await;
            assert_eq!(state(&store.snapshot()), before, "{name} {snapshot_after_bytes}");
            assert_eq!(*follower.0.lock().unwrap(), before);
            assert!(dir.path().join("state.damaged").exists());
            store.write(put("new", Precondition::Absent, b"x")).await.unwrap();
            store.checkpoint().await.unwrap();
            let before = state(&store.snapshot());
            store.close().await;
            drop(store);
            let (store, _) = open(dir.path()).await;
            assert_eq!(state(&store.snapshot()), before);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_harms_nothing_while_the_checkpoint_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let before = saved_twice(dir.path(), 1).await;
    spoil(&dir.path().join("state.snapshot"));
    let (store, _) = open(dir.path()).await;
    assert_eq!(state(&store.snapshot()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_way_to_make_the_state_again_the_store_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    saved_twice(dir.path(), 1).await;
    std::fs::remove_file(dir.path().join("state.snapshot")).unwrap();
    spoil(&dir.path().join("state/current"));
    let refused = RaftStore::open(Config::new(dir.path()), Arc::new(Follower::default())).await.err();
    assert!(matches!(refused, Some(keelson_store::OpenError::Lost { .. })), "{refused:?}");
    assert!(dir.path().join("state/current").exists(), "nothing is moved away that may still be of use");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_write_the_same_revision_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, follower) = open(dir.path()).await;
    store.write(put("k", Precondition::Absent, b"0")).await.unwrap();
    let writers = (0..32).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(
            async move { store.write(put("k", Precondition::Unchanged(Revision::new(1)), b"1")).await },
        )
    });
    let mut made = 0;
    for writer in futures::future::join_all(writers).await {
        match writer.unwrap() {
            Ok(entry) => {
                assert_eq!(entry.modified, Revision::new(2));
                made += 1;
            }
            Err(StoreError::Refused(Refusal::Conflict { current })) => {
                assert_eq!(current.unwrap().modified, Revision::new(2));
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(made, 1);
    assert_eq!(follower.0.lock().unwrap()["/k"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_quota_a_store_takes_deletions_alone_until_there_is_room_and_another_quota_changes_nothing_past()
 {
    let dir = tempfile::tempdir().unwrap();
    let with = |quota_bytes| {
        let config = Config { quota_bytes: Some(quota_bytes), ..Config::new(dir.path()) };
        async { RaftStore::open(config, Arc::new(Follower::default())).await.unwrap() }
    };
    let store = with(10_000).await;
    store.write(put("a", Precondition::Absent, &[0; 6_000])).await.unwrap();
    assert_eq!(store.alarms().await, []);
    let refused = store.write(put("b", Precondition::Absent, &[0; 6_000])).await;
    assert!(matches!(refused, Err(StoreError::Refused(Refusal::NoSpace { .. }))), "{refused:?}");
    assert_eq!(store.alarms().await, [Alarm::Quota { bytes: 6_002, quota: 10_000 }]);
    let before = state(&store.snapshot());
    store.close().await;
    drop(store);
    // What was refused stays so although its entry of the log is applied again, with more room.
    let store = with(20_000).await;
    assert_eq!(state(&store.snapshot()), before);
    store.write(put("b", Precondition::Absent, &[0; 6_000])).await.unwrap();
    store.close().await;
    drop(store);
    let store = with(10_000).await;
    assert_eq!(store.alarms().await, [Alarm::Quota { bytes: 12_004, quota: 10_000 }]);
    let delete = Write { change: Change::Delete(Value::plain("x")), ..put("a", Precondition::Any, b"") };
    store.write(delete).await.unwrap();
    assert_eq!(store.alarms().await, []);
    store.write(put("c", Precondition::Absent, b"c")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_restored_has_the_same_entries_under_another_identity_and_goes_on_behind_the_old_revisions()
 {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir.path().join("old")).await;
    for number in 0..10 {
        store.write(put(&format!("k{number}"), Precondition::Absent, b"x")).await.unwrap();
    }
    let before = state(&store.snapshot());
    let file = dir.path().join("file");
    let head = archive::Head {
        cluster: store.members().cluster().map(|id| id.0),
        member: Some(store.members().me().0),
        revision: Revision::ZERO,
        taken: 0,
        version: String::new(),
    };
    archive::write(std::fs::File::create(&file).unwrap(), &head, &store.snapshot()).unwrap();
    store.write(put("later", Precondition::Absent, b"x")).await.unwrap();
    let restored =
        archive::restore(&file, &dir.path().join("new"), archive::RestoreOptions { bump_revision: 100 });
    assert_eq!(restored.unwrap().revision, Revision::new(110));
    for round in 0..3 {
        let (new, follower) = open(&dir.path().join("new")).await;
        assert_eq!(new.barrier().await.unwrap(), Revision::new(110 + round));
        assert_ne!(new.members().cluster(), store.members().cluster());
        assert_ne!(new.members().me(), store.members().me());
        if round == 0 {
            assert_eq!(state(&new.snapshot()), before);
        }
        let entry = new.write(put("k0", Precondition::Any, b"y")).await.unwrap();
        assert_eq!(entry.modified, Revision::new(111 + round));
        assert_eq!(entry.created, Revision::new(1));
        assert_eq!(*follower.0.lock().unwrap(), state(&new.snapshot()));
        if round == 1 {
            new.checkpoint().await.unwrap();
        }
        new.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_too_large_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { max_value_bytes: 10, ..Config::new(dir.path()) };
    let store = RaftStore::open(config, Arc::new(Follower::default())).await.unwrap();
    store.write(put("a", Precondition::Absent, &[0; 10])).await.unwrap();
    let refused = store.write(put("a", Precondition::Any, &[0; 11])).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_opened_by_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, follower) = open(dir.path()).await;
    let second = RaftStore::open(Config::new(dir.path()), follower).await;
    assert!(matches!(second, Err(keelson_store::OpenError::Locked { .. })));
}

const CHILD_DIR: &str = "KEELSON_STORE_TEST_CHILD";

/// Not a test of its own: what the kill test runs as another process. Without its variable it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_writes_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let (store, _) = open(Path::new(&dir)).await;
    let from = store.snapshot().len() as u64;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8u64 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for number in from.. {
                let name = format!("w{writer}-{number}");
                let entry = store.write(put(&name, Precondition::Any, &[b'x'; 500])).await.unwrap();
                println!("ACK /{name} {}", entry.modified);
                if number % 40 == 39 && writer == 0 {
                    store.checkpoint().await.unwrap();
                }
            }
        });
    }
    while writers.join_next().await.is_some() {}
}

#[test]
fn every_acknowledged_write_survives_kill_9_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 1..=6u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // The number of acknowledgements after which the blow falls differs with each round; those that are in
        // the pipe by then count too.
        let mut left = 97 * round;
        for line in lines {
            let line = line.unwrap();
            let Some(at) = line.find("ACK ") else { continue };
            let mut words = line[at + 4..].split(' ');
            let (Some(key), Some(revision)) = (words.next(), words.next()) else { continue };
            let Ok(revision) = revision.parse::<u64>() else { continue };
            acknowledged.insert(key.to_owned(), revision);
            left = left.saturating_sub(1);
            if left == 0 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (store, follower) = open(dir.path()).await;
            let held = state(&store.snapshot());
            for (key, revision) in &acknowledged {
                assert!(held.get(key) >= Some(revision), "{key} at {revision} is lost in round {round}");
            }
            assert_eq!(*follower.0.lock().unwrap(), held);
            store.close().await;
        });
    }
    assert!(acknowledged.len() > 1000, "{}", acknowledged.len());
}

/// A file system of 24 MiB that is gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where the test may not mount.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = Some("size=24m");
        nix::mount::mount(Some("none"), dir.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), options)
            .inspect_err(|error| eprintln!("skipped: a tmpfs cannot be mounted here: {error}"))
            .ok()
            .map(|()| SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_turns_writes_away_keeps_reads_and_heals_when_there_is_room() {
    let Some(disk) = SmallDisk::mount() else { return };
    let dir = disk.0.path().join("store");
    let mut config = Config::new(&dir);
    config.segment_bytes = 4 << 20;
    config.checkpoint_after_bytes = u64::MAX;
    let follower = Arc::new(Follower::default());
    let store = RaftStore::open(config.clone(), follower).await.unwrap();
    let value = vec![b'x'; 256 << 10];
    let mut made = 0;
    let refused = loop {
        match store.write(put(&format!("k{made}"), Precondition::Absent, &value)).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 200, "the disk of 24 MiB never filled");
    };
    assert!(matches!(refused, StoreError::NoSpace), "{refused}");
    assert_eq!(store.snapshot().len(), made);
    assert_eq!(store.alarms().await, [Alarm::Disk]);
    // Nor is there room to save the state, which costs the member nothing.
    assert!(matches!(store.checkpoint().await, Err(StoreError::Unavailable { .. })));
    let delete = Write {
        key: Key::new("/k0").unwrap(),
        precondition: Precondition::Any,
        change: Change::Delete(Value::plain("gone")),
    };
    store.write(delete).await.unwrap();
    assert!(matches!(store.write(put("more", Precondition::Any, &value)).await, Err(StoreError::NoSpace)));
    // Deletions may use what is kept for them, and no more: what a member needs to be one stays.
    let mut deleted = 1;
    let refused = loop {
        let key = Key::new(format!("/k{deleted}")).unwrap();
        let change = Change::Delete(Value::plain(vec![b'x'; 20 << 10]));
        match store.write(Write { key, precondition: Precondition::Any, change }).await {
            Ok(_) => deleted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::NoSpace), "{refused}");
    assert!(deleted > 2 && deleted < made, "{deleted} of {made}");
    let before = state(&store.snapshot());
    store.close().await;
    drop(store);
    let store = RaftStore::open(config, Arc::new(Follower::default())).await.unwrap();
    assert_eq!(state(&store.snapshot()), before);
    nix::mount::mount(
        Some("none"),
        disk.0.path(),
        None::<&str>,
        nix::mount::MsFlags::MS_REMOUNT,
        Some("size=64m"),
    )
    .unwrap();
    assert_eq!(store.alarms().await, []);
    store.write(put("more", Precondition::Any, &value)).await.unwrap();
    assert_eq!(store.snapshot().len(), made - deleted + 1);
    store.checkpoint().await.unwrap();
    store.close().await;
}
