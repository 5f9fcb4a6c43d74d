//! Many who write at once, barriers, history, and others who have the store open.

use std::sync::Arc;

use super::{Bench, Open, delete, key, put};
use crate::engine::HistoryError;
use crate::{Entry, Precondition, Refusal, Revision, StoreError, Value};

use Precondition::{Absent, Any, Unchanged};

/// Writers of a test.
const WRITERS: usize = 16;

async fn all<T: Send + 'static>(tasks: impl IntoIterator<Item = tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes
}

/// With many who write at once, every event comes once, in order, and before its write is answered.
pub async fn what_is_acknowledged_was_seen_and_in_order(bench: &dyn Bench) {
    let open = Arc::new(Open::on(bench).await);
    let writers = (0..WRITERS).map(|writer| {
        let open = Arc::clone(&open);
        tokio::spawn(async move {
            for round in 0..12 {
                let name = format!("{writer}/{}", round % 3);
                let made = open.write(put(&name, Any, Value::stamped("<>", 1))).await.unwrap();
                if round % 4 == 3 {
                    let last = Value::stamped("<gone >", 6);
                    open.write(delete(&name, Unchanged(made.modified), last)).await.unwrap();
                }
            }
        })
    });
    all(writers).await;
    assert_eq!(open.witness.events().len(), WRITERS * 15);
    open.witness.must_agree(&open.store.snapshot());
}

/// A counter that many raise by compare-and-swap has counted all.
pub async fn no_increment_is_lost(bench: &dyn Bench) {
    const ROUNDS: u64 = 8;
    let open = Arc::new(Open::on(bench).await);
    open.write(put("counter", Absent, "0")).await.unwrap();
    let writers = (0..WRITERS).map(|_| {
        let open = Arc::clone(&open);
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let mut base = open.store.snapshot().get(&key("counter")).cloned().unwrap();
                loop {
                    let count: u64 = std::str::from_utf8(&base.value).unwrap().parse().unwrap();
                    let next = Value::plain((count + 1).to_string());
                    match open.write(put("counter", Unchanged(base.modified), next)).await {
                        Ok(_) => break,
                        Err(StoreError::Refused(Refusal::Conflict { current })) => base = current.unwrap(),
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        })
    });
    all(writers).await;
    let counter = open.store.snapshot().get(&key("counter")).cloned().unwrap();
    assert_eq!(&counter.value[..], (WRITERS as u64 * ROUNDS).to_string().as_bytes());
    assert_eq!(open.witness.events().len() as u64, WRITERS as u64 * ROUNDS + 1);
}

/// Of those who make the same key one is let, and the others are told of it. What they then read is there.
pub async fn of_many_who_make_a_key_one_is_let(bench: &dyn Bench) {
    let open = Arc::new(Open::on(bench).await);
    for round in 0..8 {
        let name = format!("k{round}");
        let writers = (0..WRITERS).map(|writer| {
            let (open, name) = (Arc::clone(&open), name.clone());
            tokio::spawn(async move {
                let outcome = open.write(put(&name, Absent, Value::plain(writer.to_string()))).await;
                let found = open.store.snapshot().get(&key(&name)).cloned();
                (outcome, found)
            })
        });
        let mut made: Vec<Entry> = Vec::new();
        let mut told: Vec<Entry> = Vec::new();
        for (outcome, found) in all(writers).await {
            told.push(found.unwrap());
            match outcome {
                Ok(entry) => made.push(entry),
                Err(StoreError::Refused(Refusal::Conflict { current })) => told.push(current.unwrap()),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(made.len(), 1);
        assert!(told.iter().all(|current| *current == made[0]));
    }
}

/// A barrier leads behind everything that was acknowledged, and the state is there.
pub async fn a_barrier_is_not_before_what_was_acknowledged(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    let mut last = open.store.barrier().await.unwrap();
    for number in 0..10 {
        let entry = open.write(put("a", Any, Value::plain(number.to_string()))).await.unwrap();
        let reached = open.store.barrier().await.unwrap();
        assert!(
            reached >= entry.modified && reached >= last,
            "{reached} after {} and {last}",
            entry.modified
        );
        assert!(open.store.snapshot().revision() >= reached);
        last = reached;
    }
}

/// The last states can be read by the revision of each change; earlier ones are gone at some time, later ones not there.
pub async fn recent_states_can_be_read_and_the_future_cannot(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    let mut made = Vec::new();
    for number in 0..20 {
        let name = format!("k{}", number % 4);
        made.push((name.clone(), open.write(put(&name, Any, Value::stamped("", 0))).await.unwrap()));
    }
    let mut expected = std::collections::BTreeMap::new();
    for (name, entry) in &made {
        expected.insert(key(name), entry.clone());
        let state = open.store.snapshot_at(entry.modified).unwrap();
        assert_eq!(state.revision(), entry.modified);
        let found: std::collections::BTreeMap<_, _> =
            state.range("/", None).map(|(key, entry)| (key.clone(), entry.clone())).collect();
        assert_eq!(found, expected);
    }
    let newest = open.store.snapshot().revision();
    let future = open.store.snapshot_at(Revision::new(newest.get() + 1000)).unwrap_err();
    assert!(matches!(future, HistoryError::Future { newest: told } if told >= newest), "{future}");
    if newest.get() > 0 && open.store.snapshot_at(Revision::ZERO).is_err() {
        let gone = open.store.snapshot_at(Revision::ZERO).unwrap_err();
        assert!(matches!(gone, HistoryError::Compacted { .. }), "{gone}");
    }
}

/// A state that somebody holds stays what it is.
pub async fn a_state_that_is_held_does_not_change(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    let made = open.write(put("a", Absent, "1")).await.unwrap();
    let held = open.store.snapshot();
    open.write(put("b", Absent, "1")).await.unwrap();
    open.write(delete("a", Any, "1")).await.unwrap();
    assert_eq!((held.len(), held.get(&key("a"))), (1, Some(&made)));
    assert_eq!(open.store.snapshot().len(), 1);
}

/// What one writes the others see after a barrier, and all are told the same in the same order.
pub async fn those_who_share_a_store_see_the_same(bench: &dyn Bench) {
    let one = Open::on(bench).await;
    let Some(other) = Open::beside(bench).await else { return };
    for number in 0..20 {
        let (writer, reader) = if number % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let name = format!("k{}", number % 3);
        let made = writer.write(put(&name, Any, Value::stamped("", 0))).await.unwrap();
        assert!(reader.store.barrier().await.unwrap() >= made.modified);
        assert_eq!(reader.store.snapshot().get(&key(&name)), Some(&made));
    }
    let last = one.store.snapshot().get(&key("k0")).cloned().unwrap();
    let gone = one.write(delete("k0", Unchanged(last.modified), Value::stamped("<>", 1))).await.unwrap();
    other.store.barrier().await.unwrap();
    assert_eq!(other.store.snapshot().get(&key("k0")), None);
    assert_eq!(other.witness.events().last().unwrap().value, gone.value);
    // The second may have come when something was there already.
    let (first, second) = (one.witness.events(), other.witness.events());
    let from = second.first().unwrap().revision;
    let first: Vec<_> = first.into_iter().filter(|event| event.revision >= from).collect();
    assert_eq!(first, second);
    assert_eq!(one.witness.state(), other.witness.state());
    one.witness.must_agree(&other.store.snapshot());
}

/// A counter that is raised through several has counted all, and one that is refused finds the newer state.
pub async fn those_who_share_a_store_do_not_overwrite_each_other(bench: &dyn Bench) {
    const ROUNDS: usize = 30;
    let one = Open::on(bench).await;
    let Some(other) = Open::beside(bench).await else { return };
    one.write(put("counter", Absent, "0")).await.unwrap();
    other.store.barrier().await.unwrap();
    let writers = [one, other].map(|open| {
        tokio::spawn(async move {
            let mut refused = 0;
            for _ in 0..ROUNDS {
                loop {
                    // As a server does: it goes by its own state alone.
                    let base = open.store.snapshot().get(&key("counter")).cloned().unwrap();
                    let count: usize = std::str::from_utf8(&base.value).unwrap().parse().unwrap();
                    let next = Value::plain((count + 1).to_string());
                    match open.write(put("counter", Unchanged(base.modified), next)).await {
                        Ok(_) => break,
                        Err(StoreError::Refused(Refusal::Conflict { .. })) => refused += 1,
                        Err(other) => panic!("{other}"),
                    }
                    assert!(refused < 20 * ROUNDS, "a refused writer does not get to see the newer state");
                }
            }
            open
        })
    });
    for open in all(writers).await {
        open.store.barrier().await.unwrap();
        let counter = open.store.snapshot().get(&key("counter")).cloned().unwrap();
        assert_eq!(&counter.value[..], (2 * ROUNDS).to_string().as_bytes());
        open.witness.must_agree(&open.store.snapshot());
    }
}
