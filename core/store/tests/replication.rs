//! Three members in one process, with real folders, over loopback and mutual TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "replication/cluster.rs"]
mod cluster;
#[path = "replication/promises.rs"]
mod promises;
#[path = "replication/proxy.rs"]
mod proxy;

use std::sync::Arc;
use std::time::Duration;

use cluster::{Cluster, Life, SmallDisk, put, put_if, until};
use keelson_store::raft_store::Config;
use keelson_store::rebuild::{RebuildError, set_aside};
use keelson_store::{
    Change, MembersError, OpenError, Precondition, Refusal, Role, Store, StoreError, Value, Write,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_to_any_member_is_read_on_that_member_and_after_a_barrier_on_all() {
    let cluster = Cluster::of_three().await;
    for (number, node) in cluster.nodes().enumerate() {
        let entry = node.store().write(put(&format!("k{number}"), b"x")).await.unwrap();
        assert_eq!(node.store().snapshot().get(&cluster::key(&format!("k{number}"))), Some(&entry));
        for other in cluster.nodes() {
            assert!(other.store().barrier().await.unwrap() >= entry.modified);
            assert_eq!(other.store().snapshot().get(&cluster::key(&format!("k{number}"))), Some(&entry));
        }
    }
    let members = cluster.node("b").store().members().list().await.unwrap();
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|member| member.role == Role::Voter && member.healthy), "{members:?}");
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_all_who_write_the_same_revision_through_different_members_one_is_let() {
    let cluster = Cluster::of_three().await;
    let first = cluster.node("a").store().write(put("k", b"0")).await.unwrap();
    let writers = (0..24).map(|number| {
        let store = Arc::clone(cluster.nodes().nth(number % 3).unwrap().store());
        let write = put_if("k", Precondition::Unchanged(first.modified), b"1");
        tokio::spawn(async move { store.write(write).await })
    });
    let mut made = 0;
    for writer in futures::future::join_all(writers).await {
        match writer.unwrap() {
            Ok(_) => made += 1,
            Err(StoreError::Refused(Refusal::Conflict { current })) => {
                assert_eq!(&current.unwrap().value[..], b"1")
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_is_killed_the_others_go_on_and_it_comes_back_to_them() {
    let mut cluster = Cluster::of_three().await;
    cluster.write_everywhere("before", 10).await;
    let leader = cluster.leader().await;
    cluster.kill(&leader);
    let left = cluster.running();
    assert_eq!(left.len(), 2);
    for name in &left {
        cluster.node(name).store().write(put(&format!("without/{name}"), b"x")).await.unwrap();
    }
    cluster.start(&leader).await;
    cluster.node(&leader).store().write(put("back", b"x")).await.unwrap();
    cluster.agree().await;
    assert_eq!(cluster.node(&leader).store().snapshot().len(), 33);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_members_started_again_have_everything() {
    let mut cluster = Cluster::of_three().await;
    cluster.write_everywhere("k", 20).await;
    for name in ["a", "b", "c"] {
        cluster.kill(name);
    }
    for name in ["c", "b", "a"] {
        cluster.start(name).await;
    }
    assert_eq!(cluster.node("b").store().barrier().await.unwrap().get(), 60);
    cluster.node("a").store().write(put("new", b"x")).await.unwrap();
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_written_or_read_as_current_and_the_reason_is_told() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    for name in cluster.running() {
        if name != leader {
            cluster.kill(&name);
        }
    }
    let store = cluster.node(&leader).store();
    let refused = store.write(put("k", b"x")).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Unavailable { .. } | StoreError::OutcomeUnknown { .. }),
        "{refused}"
    );
    let refused = store.barrier().await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused}");
    let other = cluster.stopped()[0].clone();
    cluster.start(&other).await;
    cluster.node(&other).store().write(put("k2", b"x")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_shows_nothing_as_current_and_takes_up_what_it_missed() {
    let cluster = Cluster::of_three().await;
    let old = cluster.leader().await;
    cluster.isolate(&old);
    let others: Vec<String> = cluster.running().into_iter().filter(|name| *name != old).collect();
    // What became of a write may not be known, if the leader was cut off while it was under way.
    let writes = || async { cluster.node(&others[0]).store().write(put("k", b"new")).await.is_ok() };
    assert!(until(writes).await, "the others do not go on");
    let made = cluster.node(&others[0]).store().snapshot().get(&cluster::key("k")).cloned().unwrap();
    // It believes that it leads, and asks a majority before it says so.
    let refused = cluster.node(&old).store().barrier().await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    cluster.heal();
    assert!(until(|| async { cluster.node(&old).store().barrier().await.is_ok() }).await);
    assert_eq!(cluster.node(&old).store().snapshot().get(&cluster::key("k")), Some(&made));
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_members_come_and_go() {
    let mut cluster = Cluster::of_three().await;
    let writer = cluster.keep_writing("load");
    cluster.add("d").await;
    cluster.until_voter("d").await;
    let id = cluster.node("b").store().members().me();
    let store = Arc::clone(cluster.node("d").store());
    store.members().remove(id).await.unwrap();
    let refused = Arc::clone(cluster.node("b").store());
    assert!(
        until(|| async {
            let refused = refused.write(put("late", b"x")).await;
            matches!(refused, Err(StoreError::Unavailable { reason }) if reason.contains("removed"))
        })
        .await
    );
    cluster.kill("b");
    let acknowledged = writer.stop().await;
    assert!(!acknowledged.is_empty());
    store.barrier().await.unwrap();
    let held = store.snapshot();
    for key in &acknowledged {
        assert!(held.get(&cluster::key(key)).is_some(), "{key} was acknowledged and is lost");
    }
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_joins_late_is_sent_the_whole_state() {
    let mut cluster = Cluster::of_one(|config| config.catch_up_bytes = 1).await;
    cluster.write_everywhere("k", 200).await;
    cluster.node("a").store().checkpoint().await.unwrap();
    cluster.add("b").await;
    cluster.until_voter("b").await;
    assert!(cluster.node("b").dir().join("state.snapshot").exists(), "it came as a file");
    cluster.agree().await;
    // And it finds it again.
    cluster.kill("b");
    cluster.start("b").await;
    assert_eq!(cluster.node("b").store().barrier().await.unwrap().get(), 200);
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_replaced_by_a_new_one_of_the_same_name() {
    let mut cluster = Cluster::of_three().await;
    cluster.write_everywhere("k", 5).await;
    let dead = cluster.node("c").store().members().me();
    cluster.kill("c");
    cluster.wipe("c");
    let refused = cluster.try_start("c").await.err().unwrap();
    assert!(
        matches!(&refused, OpenError::Join { reason } if reason.contains("remove it first")),
        "{refused}"
    );
    cluster.node("a").store().members().remove(dead).await.unwrap();
    cluster.wipe("c");
    cluster.start("c").await;
    cluster.until_voter("c").await;
    assert_ne!(cluster.node("c").store().members().me(), dead);
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_log_is_damaged_is_made_again_from_the_others() {
    let mut cluster = Cluster::of_three().await;
    cluster.write_everywhere("k", 20).await;
    let (damaged, dir) = (cluster.node("c").store().members().me(), cluster.node("c").dir().to_owned());
    assert!(matches!(set_aside(&dir, false), Err(RebuildError::InUse(_))));
    cluster.kill("c");
    let file = std::fs::read_dir(dir.join("log")).unwrap().flatten().map(|file| file.path()).min().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[200..210].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(&file, bytes).unwrap();
    let refused = cluster.try_start("c").await.err().unwrap();
    let said = std::error::Error::source(&refused).unwrap().to_string();
    assert!(said.contains("keelson members rebuild"), "{said}");
    let aside = set_aside(&dir, false).unwrap();
    assert!(aside.path.join("log").exists());
    cluster.node("a").store().members().remove(damaged).await.unwrap();
    cluster.start("c").await;
    cluster.until_voter("c").await;
    cluster.agree().await;
    std::fs::remove_dir_all(aside.path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_other_members_is_not_set_aside() {
    let cluster = Cluster::of_one(|_| {}).await;
    let (name, dir) = (cluster.running().remove(0), tempfile::tempdir().unwrap());
    cluster.write_everywhere("k", 1).await;
    cluster.node(&name).store().checkpoint().await.unwrap();
    let to = dir.path().join("store");
    std::fs::create_dir_all(to.join("state")).unwrap();
    std::fs::copy(cluster.node(&name).dir().join("state/current"), to.join("state/current")).unwrap();
    assert!(matches!(set_aside(&to, false), Err(RebuildError::Alone)));
    std::fs::remove_file(to.join("state/current")).unwrap();
    assert!(matches!(set_aside(&to, false), Err(RebuildError::Unknown)));
    assert!(set_aside(&to, true).unwrap().path.exists());
    assert!(matches!(set_aside(&dir.path().join("none"), true), Err(RebuildError::Missing(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_not_removed_if_the_others_could_not_go_on() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let mut others = cluster.running();
    others.retain(|name| *name != leader);
    let healthy = cluster.node(&others[1]).store().members().me();
    cluster.kill(&others[0]);
    let members = cluster.node(&leader).store().members();
    let unhealthy =
        || async { members.list().await.is_ok_and(|all| all.iter().any(|member| !member.healthy)) };
    assert!(until(unhealthy).await);
    let refused = members.remove(healthy).await;
    assert!(matches!(refused, Err(MembersError::Unhealthy { healthy: 1, needed: 2 })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let to = cluster.running().into_iter().find(|name| *name != leader).unwrap();
    let id = cluster.node(&to).store().members().me();
    cluster.node(&leader).store().members().transfer_leadership(id).await.unwrap();
    assert_eq!(cluster.leader().await, to);
    cluster.node(&leader).store().write(put("k", b"x")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_a_certificate_of_another_member_or_authority_is_not_let_in() {
    let mut cluster = Cluster::of_one(|_| ()).await;
    cluster.certificate_of("b", "c");
    let refused = cluster.try_add("b").await.err().unwrap();
    assert!(matches!(&refused, OpenError::Join { reason } if reason.contains("certificate")), "{refused}");
    cluster.foreign_certificate_of("d");
    let joining = tokio::time::timeout(Duration::from_secs(2), cluster.try_add("d")).await;
    assert!(!matches!(joining, Ok(Ok(()))), "it was let in");
    assert_eq!(cluster.node("a").store().members().list().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_certificate_is_replaced_while_it_runs_shows_the_new_one() {
    let hasty = |config: &mut Config| config.timing.request_timeout = Duration::from_secs(2);
    let cluster = Cluster::of_three_with(hasty).await;
    let leader = cluster.leader().await;
    let other = if leader == "a" { "b" } else { "a" };
    // Those who speak already go on; new connections are refused to one whose certificate is over.
    cluster.show(other, Life::Over);
    cluster.node(other).store().write(put("k", b"x")).await.unwrap();
    let refused = || async { cluster.node(other).store().barrier().await.is_err() };
    cluster.isolate(other);
    assert!(until(refused).await, "it is not cut off");
    cluster.heal();
    assert!(refused().await, "one with a certificate that is over was let in");
    cluster.show(other, Life::Good);
    let read = || async { cluster.node(other).store().barrier().await.is_ok() };
    assert!(until(read).await, "the new certificate is not shown");
    cluster.node(other).store().write(put("k", b"y")).await.unwrap();
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_peers_becomes_one_with_peers() {
    let mut cluster = Cluster::of_one(|_| ()).await;
    cluster.kill("a");
    cluster.without_peers("a").await;
    let lone = Arc::clone(cluster.node("a").store());
    lone.write(put("k", b"x")).await.unwrap();
    let refused =
        lone.members().add_learner(keelson_store::MemberId(9), "z", &["127.0.0.1:1".to_owned()]).await;
    assert_eq!(refused, Err(MembersError::Alone));
    drop(lone);
    cluster.kill("a");
    cluster.start("a").await;
    cluster.add("b").await;
    cluster.until_voter("b").await;
    cluster.agree().await;
    cluster.kill("a");
    let refused = cluster.try_without_peers("a").await.err().unwrap();
    assert!(matches!(refused, OpenError::NotAlone), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_away_is_sent_what_it_missed_and_not_the_whole_state() {
    let mut cluster = Cluster::of_three().await;
    cluster.kill("c");
    cluster.write_everywhere("k", 50).await;
    for name in ["a", "b"] {
        cluster.node(name).store().checkpoint().await.unwrap();
    }
    cluster.start("c").await;
    assert_eq!(cluster.node("c").store().barrier().await.unwrap().get(), 100);
    assert!(!cluster.node("c").dir().join("state.snapshot").exists(), "it was sent the whole state");
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_ends_while_others_write() {
    let mut cluster = Cluster::of_one(|config| {
        config.catch_up_bytes = 1;
        config.checkpoint_after_bytes = 32 << 10;
    })
    .await;
    cluster.write_everywhere("k", 2_000).await;
    cluster.node("a").store().checkpoint().await.unwrap();
    let writers: Vec<_> = (0..8).map(|number| cluster.keep_writing(&format!("load{number}"))).collect();
    cluster.add("b").await;
    cluster.until_voter("b").await;
    for writer in writers {
        assert!(!writer.stop().await.is_empty());
    }
    cluster.agree().await;
}

/// Three members of which `c` has a disk of 8 MiB; `None` where none can be mounted.
async fn with_a_small_disk() -> Option<(Cluster, SmallDisk)> {
    let small = |config: &mut Config| {
        config.segment_bytes = 1 << 20;
        config.checkpoint_after_bytes = u64::MAX;
    };
    let mut cluster = Cluster::of_one(small).await;
    cluster.prepare("b").await;
    cluster.adapt("b", small);
    cluster.start("b").await;
    cluster.until_voter("b").await;
    cluster.prepare("c").await;
    cluster.adapt("c", small);
    let disk = SmallDisk::mount(cluster.node("c").dir(), "size=8m")?;
    cluster.start("c").await;
    cluster.until_voter("c").await;
    Some((cluster, disk))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_is_full_gives_the_lead_to_one_who_has_room() {
    let Some((mut cluster, disk)) = with_a_small_disk().await else { return };
    let me = cluster.node("c").store().members().me();
    if cluster.leader().await != "c" {
        cluster.node("a").store().members().transfer_leadership(me).await.unwrap();
    }
    let value = vec![b'x'; 256 << 10];
    for number in 0..64 {
        let through = ["a", "b"][number % 2];
        cluster.node(through).store().write(put(&format!("k{number}"), &value)).await.unwrap();
    }
    assert_ne!(cluster.leader().await, "c");
    // It says why it shows and takes nothing, at once and not when the time is up.
    let full = Arc::clone(cluster.node("c").store());
    let told = |refused: Result<(), StoreError>| {
        assert!(
            refused.as_ref().is_err_and(|it| it.to_string().contains("disk of this member is full")),
            "{refused:?}"
        );
    };
    told(full.write(put("more", &value)).await.map(drop));
    told(full.barrier().await.map(drop));
    assert!(full.snapshot().len() > 10, "what it has is there to be read");
    // Whoever makes it lead does not keep the others from writing.
    if cluster.node("a").store().members().transfer_leadership(me).await.is_ok() {
        cluster.node("b").store().write(put("more", &value)).await.unwrap();
        assert_ne!(cluster.leader().await, "c");
    }
    disk.resize("size=96m");
    let newest = cluster.node("a").store().barrier().await.unwrap();
    assert!(until(|| async { full.snapshot().revision() >= newest }).await, "it never went on");
    full.write(put("again", &value)).await.unwrap();
    cluster.node("a").store().members().transfer_leadership(me).await.unwrap();
    full.write(put("as leader", &value)).await.unwrap();
    assert_eq!(cluster.leader().await, "c");
    cluster.agree().await;
    drop(full);
    cluster.kill("c");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_disk_is_full_stays_a_member_and_goes_on_when_there_is_room() {
    let Some((mut cluster, disk)) = with_a_small_disk().await else { return };
    let leader = cluster.leader().await;
    if leader == "c" {
        let to = cluster.node("a").store().members().me();
        cluster.node("c").store().members().transfer_leadership(to).await.unwrap();
    }
    let full = Arc::clone(cluster.node("c").store());
    let value = vec![b'x'; 256 << 10];
    for number in 0..64 {
        cluster.node("a").store().write(put(&format!("k{number}"), &value)).await.unwrap();
    }
    let newest = cluster.node("a").store().barrier().await.unwrap();
    assert!(full.snapshot().revision() < newest, "16 MiB went into 8");
    // It hears the leader, and could elect one.
    let me = full.members().me();
    let healthy = || async {
        let all = cluster.node("a").store().members().list().await.unwrap_or_default();
        all.iter().any(|member| member.id == me && member.healthy && member.lag > 0)
    };
    assert!(until(healthy).await);
    let failed = tokio::spawn({
        let full = Arc::clone(&full);
        async move { full.failed().await }
    });
    let before = cluster.leader().await;
    assert!(until(|| async { cluster.leader().await == before }).await);
    disk.resize("size=96m");
    assert!(until(|| async { full.snapshot().revision() >= newest }).await, "it never went on");
    assert!(!failed.is_finished());
    failed.abort();
    cluster.node("c").store().write(put("more", &value)).await.unwrap();
    cluster.agree().await;
    drop(full);
    cluster.kill("c");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_room_for_what_is_written_there_is_for_what_is_deleted_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path(), "size=6m") else { return };
    let place = folder.path().join("store");
    let cluster = Cluster::of_one(|config| {
        config.dir = place.clone();
        config.segment_bytes = 1 << 20;
        config.checkpoint_after_bytes = u64::MAX;
    })
    .await;
    let store = Arc::clone(cluster.node("a").store());
    let value = vec![b'x'; 64 << 10];
    let mut made = 0;
    let refused = loop {
        match store.write(put(&format!("k{made}"), &value)).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::NoSpace), "{refused}");
    // They wait together and so become one batch.
    let writes = (0..8).map(|number| {
        let delete = Write {
            key: cluster::key(&format!("k{number}")),
            precondition: Precondition::Any,
            change: Change::Delete(Value::plain("")),
        };
        let write = if number % 2 == 0 { put(&format!("new{number}"), &value) } else { delete };
        store.write(write)
    });
    for (number, made) in futures::future::join_all(writes).await.into_iter().enumerate() {
        if number % 2 == 0 {
            assert!(matches!(made, Err(StoreError::NoSpace)), "{made:?}");
        } else {
            made.unwrap();
        }
    }
    cluster.agree().await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_is_left_when_the_leader_is_removed_leads_itself() {
    let mut cluster = Cluster::of_one(|_| ()).await;
    cluster.add("b").await;
    cluster.until_voter("b").await;
    let leader = cluster.leader().await;
    let left = if leader == "a" { "b" } else { "a" };
    let id = cluster.node(&leader).store().members().me();
    cluster.node(left).store().members().remove(id).await.unwrap();
    cluster.kill(&leader);
    let written = || async { cluster.node(left).store().write(put("k", b"x")).await.is_ok() };
    assert!(until(written).await, "nobody leads");
}
