//! The store on a real etcd, with TLS and certificates of clients.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "etcd/proxy.rs"]
mod proxy;
#[path = "etcd/server.rs"]
mod server;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keelson_etcd::{EtcdStore, OpenError};
use keelson_store::conformance::{Bench, Open, Revisions, Witness, delete, key, put};
use keelson_store::{Key, Observer, Precondition, Revision, Store, StoreError, Value};
use proxy::Proxy;
use server::Etcd;

use Precondition::{Absent, Any, Unchanged};

#[async_trait]
impl Bench for Etcd {
    async fn open(&self, observer: Arc<dyn Observer>) -> Arc<dyn Store> {
        EtcdStore::open(self.config(), observer).await.unwrap()
    }

    async fn share(&self, observer: Arc<dyn Observer>) -> Option<Arc<dyn Store>> {
        Some(EtcdStore::open(self.config(), observer).await.unwrap())
    }

    fn revisions(&self) -> Revisions {
        Revisions::Growing
    }
}

mod promises {
    keelson_store::conformance!(super::Etcd::start());
}

mod promises_of_three {
    keelson_store::conformance!(super::Etcd::start_with(3, &[]));
}

/// Waits until something holds, for as long as the store may need to notice.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never came to be that {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_passes_what_is_written_elsewhere_in_etcd() {
    let etcd = Etcd::start();
    let open = Open::on(&etcd).await;
    let made = open.write(put("a", Absent, "1")).await.unwrap();
    for _ in 0..3 {
        etcd.etcdctl(&["put", "/elsewhere", "x"]).unwrap();
    }
    let reached = open.store.barrier().await.unwrap();
    assert!(reached.get() >= made.modified.get() + 3, "{reached}");
    assert!(open.store.snapshot().revision() >= reached);
    assert_eq!(open.store.snapshot_at(Revision::new(reached.get() - 1)).unwrap().len(), 1);
    open.write(put("b", Absent, "1")).await.unwrap();
    open.witness.must_agree(&open.store.snapshot());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_delete_at_once_is_seen_with_its_last_state() {
    let etcd = Etcd::start();
    let open = Open::on(&etcd).await;
    for number in 0..20 {
        open.write(put(&format!("pods/{number:02}"), Absent, Value::stamped("<>", 1))).await.unwrap();
    }
    etcd.etcdctl(&["del", "--prefix", "/registry/pods/"]).unwrap();
    open.store.barrier().await.unwrap();
    let events = open.witness.events().split_off(20);
    let last = events.last().unwrap().revision;
    assert_eq!(events.len(), 20);
    assert!(events.iter().all(|it| it.revision == last && it.value == Value::stamped("<>", 1).finish(last)));
    assert!(open.store.snapshot().is_empty());
    open.witness.must_agree(&open.store.snapshot());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_of_etcd_everything_goes_on() {
    let mut etcd = Etcd::start();
    let open = Open::on(&etcd).await;
    let made = open.write(put("a", Absent, "1")).await.unwrap();
    for _ in 0..2 {
        etcd.kill(0);
        assert_eq!(open.store.snapshot().get(&key("a")), Some(&made));
        etcd.run(0).unwrap();
        // It waits until etcd is back. What went out on the connection that was dying is not known; nothing else is.
        while let Err(error) = open.write(put("b", Any, "2")).await {
            assert!(matches!(error, StoreError::OutcomeUnknown { .. }), "{error:?}");
        }
        open.store.barrier().await.unwrap();
    }
    assert_eq!(open.witness.restored(), 1);
    open.witness.must_agree(&open.store.snapshot());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_nothing_is_written_or_read_as_current() {
    let mut etcd = Etcd::start();
    let config = keelson_etcd::Config { request_timeout: Duration::from_secs(2), ..etcd.config() };
    let witness = Witness::new(Revisions::Growing);
    let store = EtcdStore::open(config, witness).await.unwrap();
    let made = store.write(put("a", Absent, "1")).await.unwrap();
    etcd.kill(0);
    let refused = store.write(put("a", Unchanged(made.modified), "2")).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Unavailable { .. } | StoreError::OutcomeUnknown { .. }),
        "{refused:?}"
    );
    let refused = store.barrier().await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Unavailable { reason } if reason.contains(&etcd.urls()[0])),
        "{refused:?}"
    );
    assert_eq!(store.snapshot().len(), 1);
}

/// A counter is raised through two stores while members of etcd are killed, one after the other; nothing is counted twice or
/// not at all.
async fn count_exactly(etcd: &mut Etcd, stores: [Open; 2], victims: [usize; 3]) {
    const EACH: u64 = 40;
    stores[0].write(put("counter", Absent, "0")).await.unwrap();
    stores[1].store.barrier().await.unwrap();
    let progress = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let writers = stores.map(|open| {
        let progress = Arc::clone(&progress);
        tokio::spawn(async move {
            let mut unknown = 0;
            for _ in 0..EACH {
                loop {
                    let base = open.store.snapshot().get(&key("counter")).cloned().unwrap();
                    let count: u64 = std::str::from_utf8(&base.value).unwrap().parse().unwrap();
                    let next = Value::plain((count + 1).to_string());
                    match open.write(put("counter", Unchanged(base.modified), next)).await {
                        Ok(entry) => {
                            open.witness.must_have_seen(&key("counter"), &entry);
                            break;
                        }
                        Err(StoreError::Refused(_) | StoreError::Unavailable { .. }) => {}
                        Err(StoreError::OutcomeUnknown { .. }) => {
                            unknown += 1;
                            break;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                progress.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            (open, unknown)
        })
    });
    for (done, victim) in [10, 30, 50].into_iter().zip(victims) {
        let progress = Arc::clone(&progress);
        let has_come_to = move |count| progress.load(std::sync::atomic::Ordering::Relaxed) >= count;
        until("writers get on", || has_come_to(done)).await;
        etcd.kill(victim);
        if etcd.urls().len() > 1 {
            until("writers get on without a member", || has_come_to(done + 10)).await;
        }
        etcd.run(victim).unwrap();
    }
    let mut unknown = 0;
    for writer in writers {
        let (open, lost) = writer.await.unwrap();
        unknown += lost;
        open.store.barrier().await.unwrap();
        open.witness.must_agree(&open.store.snapshot());
    }
    let counted: u64 = etcd
        .etcdctl(&["get", "--print-value-only", "/registry/counter"])
        .unwrap()
        .trim_end()
        .rsplit(|letter: char| !letter.is_ascii_digit())
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((2 * EACH - unknown..=2 * EACH).contains(&counted), "{counted} with {unknown} unknown");
    // A condition that names a revision lets it be found out.
    assert_eq!(unknown, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_through_two_stores_are_exact_although_etcd_is_killed_meanwhile() {
    let mut etcd = Etcd::start();
    let stores = [Open::on(&etcd).await, Open::beside(&etcd).await.unwrap()];
    count_exactly(&mut etcd, stores, [0; 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_are_exact_although_one_member_of_three_after_the_other_is_killed() {
    let mut etcd = Etcd::start_with(3, &[]);
    let first = Open::on(&etcd).await;
    // The other one asks the members in another order.
    let witness = Witness::new(Revisions::Growing);
    let mut config = etcd.config();
    config.servers.rotate_left(1);
    let other = Open { store: EtcdStore::open(config, witness.clone()).await.unwrap(), witness };
    count_exactly(&mut etcd, [first, other], [0, 1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_of_three_may_die_or_hang_and_what_is_written_elsewhere_is_still_passed() {
    let mut etcd = Etcd::start_with(3, &[]);
    let open = Open::on(&etcd).await;
    // A write that names a revision is found out about, whoever was asked first.
    let mut last = open.write(put("a", Absent, "1")).await.unwrap().modified;
    // The one that is watched, and then the one that is watched instead.
    for victim in [0, 1] {
        etcd.kill(victim);
        // Etcd tells of a write that met the end of its leader that it failed.
        until("etcd goes on", || etcd.etcdctl(&["put", "/elsewhere", "x"]).is_ok()).await;
        last = open.write(put("a", Unchanged(last), "2")).await.unwrap().modified;
        until("etcd goes on", || etcd.etcdctl(&["put", "/elsewhere", "y"]).is_ok()).await;
        assert!(open.store.barrier().await.unwrap() > last);
        etcd.run(victim).unwrap();
    }
    etcd.suspend(2).unwrap();
    last = open.write(put("a", Unchanged(last), "3")).await.unwrap().modified;
    assert!(open.store.barrier().await.unwrap() >= last);
    etcd.resume(2).unwrap();
    // Without a majority nothing is read as current.
    (0..2).for_each(|member| etcd.kill(member));
    let refused = open.store.barrier().await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused:?}");
    etcd.run(0).unwrap();
    open.write(put("a", Unchanged(last), "4")).await.unwrap();
    assert_eq!(open.witness.restored(), 1);
    open.witness.must_agree(&open.store.snapshot());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_hangs_is_waited_for_and_loses_nothing() {
    const SIZE: usize = 20_000;
    let etcd = Etcd::start();
    let proxy = Proxy::to(etcd.address(0)).await;
    let servers = vec![format!("https://{}", proxy.address)];
    let config = keelson_etcd::Config { servers, ..etcd.config() };
    let witness = Witness::new(Revisions::Growing);
    let open = Arc::new(Open { store: EtcdStore::open(config, witness.clone()).await.unwrap(), witness });
    let made = open.write(put("a", Absent, "1")).await.unwrap();
    etcd.suspend(0).unwrap();
    let asked = proxy.asked();
    let reader = Arc::clone(&open);
    let reading = tokio::spawn(async move { reader.store.barrier().await });
    until("the question is on its way", || proxy.asked() > asked).await;
    let writer = Arc::clone(&open);
    let value = Value::plain(vec![b'x'; SIZE]);
    let waiting = tokio::spawn(async move { writer.write(put("a", Unchanged(made.modified), value)).await });
    until("the write is on its way", || proxy.asked() > asked + SIZE as u64).await;
    assert!(!waiting.is_finished() && !reading.is_finished(), "something was answered by nobody");
    etcd.resume(0).unwrap();
    waiting.await.unwrap().unwrap();
    reading.await.unwrap().unwrap();
    open.witness.must_agree(&open.store.snapshot());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compacted_away_while_the_watch_was_lost_is_read_anew() {
    let etcd = Etcd::start();
    let proxy = Proxy::to(etcd.address(0)).await;
    let witness = Witness::new(Revisions::Growing);
    let servers = vec![format!("https://{}", proxy.address)];
    let config = keelson_etcd::Config { servers, ..etcd.config() };
    let cut = Open { store: EtcdStore::open(config, witness.clone()).await.unwrap(), witness };
    cut.write(put("gone", Absent, "1")).await.unwrap();
    let other = Open::on(&etcd).await;
    proxy.cut();
    let mut last = other.write(delete("gone", Any, "1")).await.unwrap();
    for number in 0..50 {
        last = other.write(put(&format!("k{}", number % 5), Any, Value::stamped("<>", 1))).await.unwrap();
    }
    etcd.etcdctl(&["compact", &last.modified.to_string()]).unwrap();
    assert_eq!(cut.store.snapshot().len(), 1);
    proxy.open();
    assert!(cut.store.barrier().await.unwrap() >= last.modified);
    assert_eq!(cut.witness.restored(), 2);
    cut.witness.must_agree(&other.store.snapshot());
    cut.write(put("after", Absent, "1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_was_lost_goes_on_where_it_was() {
    let etcd = Etcd::start();
    let proxy = Proxy::to(etcd.address(0)).await;
    let witness = Witness::new(Revisions::Growing);
    let servers = vec![format!("https://{}", proxy.address)];
    let config = keelson_etcd::Config { servers, ..etcd.config() };
    let cut = Open { store: EtcdStore::open(config, witness.clone()).await.unwrap(), witness };
    let other = Open::on(&etcd).await;
    for round in 0..5 {
        proxy.cut();
        for number in 0..20 {
            other.write(put(&format!("{round}/{number}"), Any, Value::stamped("<>", 1))).await.unwrap();
        }
        proxy.open();
        cut.store.barrier().await.unwrap();
        cut.witness.must_agree(&other.store.snapshot());
    }
    assert_eq!((cut.witness.restored(), cut.witness.events().len()), (1, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dead_server_among_several_is_passed_over() {
    let (dead, alive) = (Etcd::start(), Etcd::start());
    let (mut config, gone) = (alive.config(), dead.urls().remove(0));
    drop(dead);
    config.servers = vec![gone.clone(), alive.urls().remove(0), gone];
    for _ in 0..3 {
        let witness = Witness::new(Revisions::Growing);
        let store = EtcdStore::open(config.clone(), witness).await.unwrap();
        store.write(put("a", Any, "1")).await.unwrap();
        store.barrier().await.unwrap();
    }
}

async fn refused(config: keelson_etcd::Config) -> OpenError {
    let config = keelson_etcd::Config { start_timeout: Duration::from_secs(1), ..config };
    let witness = Witness::new(Revisions::Growing);
    EtcdStore::open(config, witness).await.map(drop).unwrap_err()
}

fn is_not_let_in(told: &str) -> bool {
    told.contains("received fatal alert") || told.contains("may not take the certificate")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_get_in_is_told_why() {
    let etcd = Etcd::start();
    Open::on(&etcd).await;
    let told = |error: &OpenError| error.to_string();
    let mut config = etcd.config();
    config.servers = vec!["https://127.0.0.1:1".to_owned()];
    let error = refused(config).await;
    assert!(told(&error).starts_with("cannot reach etcd at https://127.0.0.1:1: "), "{error}");
    assert!(told(&error).contains("Connection refused"), "{error}");
    let mut config = etcd.config();
    config.ca_file = Some(etcd.file("other-ca.crt"));
    let error = refused(config).await;
    assert!(told(&error).contains("invalid peer certificate"), "{error}");
    let mut config = etcd.config();
    (config.cert_file, config.key_file) = (Some(etcd.file("stranger.crt")), Some(etcd.file("stranger.key")));
    let error = refused(config).await;
    assert!(is_not_let_in(&told(&error)), "{error}");
    let mut config = etcd.config();
    (config.cert_file, config.key_file) = (None, None);
    let error = refused(config).await;
    assert!(is_not_let_in(&told(&error)), "{error}");
    let mut config = etcd.config();
    config.ca_file = Some(etcd.file("missing.crt"));
    let error = refused(config).await;
    assert!(matches!(error, OpenError::File { .. }), "{error}");
    let mut config = etcd.config();
    config.key_file = None;
    assert!(matches!(refused(config).await, OpenError::Pair));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_with_other_data_is_refused_and_its_own_prefix_is_not() {
    let etcd = Etcd::start();
    etcd.etcdctl(&["put", "/registry/pods/default/a", "k8s..."]).unwrap();
    let error = refused(etcd.config()).await;
    assert!(
        error.to_string().starts_with("/registry/pods/default/a in etcd was not written by Keelson"),
        "{error}"
    );
    let config = keelson_etcd::Config { prefix: "/keelson".to_owned(), ..etcd.config() };
    let witness = Witness::new(Revisions::Growing);
    let store = EtcdStore::open(config, witness).await.unwrap();
    store.write(put("a", Absent, "1")).await.unwrap();
    // Beside it there may be what the store keeps for itself: old versions of etcd have to be written to, to be asked.
    let keys = etcd.etcdctl(&["get", "--keys-only", "--prefix", "/"]).unwrap();
    let keys = keys.lines().filter(|key| !key.is_empty() && !key.starts_with("/keelson/.keelson/"));
    assert_eq!(keys.collect::<Vec<_>>(), ["/keelson/a", "/registry/pods/default/a"]);
}

/// Several write at once until all of them are told that there is no room; what was acknowledged.
async fn fill(open: &Open) -> Vec<Key> {
    let writers = (0..8).map(|writer| async move {
        let mut made = Vec::new();
        for number in 0..64 {
            let name = format!("large/{writer}-{number}");
            let large = Value::plain(vec![b'x'; 1 << 20]);
            match open.write(put(&name, Absent, large)).await {
                Ok(_) => made.push(key(&name)),
                Err(StoreError::NoSpace) => return made,
                Err(error) => panic!("{error:?}"),
            }
        }
        panic!("it is never full");
    });
    futures::future::join_all(writers).await.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_turns_writes_away_and_is_read_and_deleted_from() {
    let etcd = Etcd::start_with(1, &["--quota-backend-bytes", "16777216"]);
    let open = Open::on(&etcd).await;
    assert!(open.store.alarms().await.is_empty());
    // A write that etcd makes before it finds that there is no room is answered by it like one that it turned away.
    let mut made = fill(&open).await;
    let alarms = open.store.alarms().await;
    assert!(alarms.len() == 1 && alarms[0].to_string().starts_with("NOSPACE: "), "{alarms:?}");
    open.store.barrier().await.unwrap();
    let snapshot = open.store.snapshot();
    let kept: Vec<Key> = snapshot.range("", None).map(|(key, _)| key.clone()).collect();
    made.sort();
    assert_eq!(kept, made);
    let last = snapshot.get(&made[0]).unwrap();
    let gone = open.store.write(delete("large/0-0", Unchanged(last.modified), "last")).await.unwrap();
    assert!(gone.modified > last.modified);
    assert_eq!(open.store.snapshot().get(&made[0]), None);
    open.witness.must_agree(&open.store.snapshot());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_etcd_does_not_take_is_refused_and_what_is_there_can_be_deleted() {
    let etcd = Etcd::start();
    let open = Open::on(&etcd).await;
    for size in [1_600_000, 3 << 20] {
        let refused = open.store.write(put("a", Absent, Value::plain(vec![b'x'; size]))).await.unwrap_err();
        assert!(matches!(refused, StoreError::TooLarge { .. }), "{refused:?}");
    }
    let made = open.write(put("a", Absent, Value::stamped("<>", 1))).await.unwrap();
    let last = Value::stamped(vec![b'x'; 1_600_000], 0);
    let gone = open.store.write(delete("a", Unchanged(made.modified), last)).await.unwrap();
    assert!(gone.modified > made.modified);
    assert_eq!(open.store.snapshot().get(&key("a")), None);
    open.witness.must_agree(&open.store.snapshot());
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_share_an_etcd_compact_it_in_turns() {
    let etcd = Etcd::start();
    let mut config = etcd.config();
    config.compaction_interval = Duration::from_millis(500);
    let mut stores = Vec::new();
    for _ in 0..2 {
        let witness = Witness::new(Revisions::Growing);
        stores.push(EtcdStore::open(config.clone(), witness).await.unwrap());
    }
    let first = stores[0].write(put("a", Absent, "1")).await.unwrap();
    let first = first.modified.to_string();
    for number in 0..200 {
        stores[number % 2].write(put("a", Any, "2")).await.unwrap();
        match etcd.etcdctl(&["get", "--rev", &first, "/registry/a"]) {
            Ok(_) => {}
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("required revision has been compacted"), "{error}");
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nothing was compacted");
}
