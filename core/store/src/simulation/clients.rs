//! Clients, who do not know what goes on.

use std::sync::Arc;
use std::time::Duration;

use super::history::Action;
use super::truth::{Truth, from_bytes, to_value};
use super::world::World;
use crate::raft::runtime::random;
use crate::{Change, Key, Precondition, RaftStore, Refusal, Store, StoreError, Write};

/// The keys that are fought over.
const KEYS: u64 = 3;

/// One client: does one thing after the other, each through any member that runs, until the world ends.
pub(super) async fn client(world: Arc<World>, number: u64) {
    let mut value = number << 32;
    while !world.ends() {
        tokio::time::sleep(Duration::from_millis(random() % 120)).await;
        let Some(store) = world.any_store() else { continue };
        let Ok(key) = Key::new(format!("/register/{}", random() % KEYS)) else { continue };
        value += 1;
        match random() % 10 {
            0..4 => read(world.truth(), &store, &key).await,
            4..6 => write(world.truth(), &store, key, Precondition::Any, Action::Write(value), value).await,
            6 => write(world.truth(), &store, key, Precondition::Any, Action::Cleared, value).await,
            one => {
                // What this member shows may be old; the swap is then refused.
                let seen = store.snapshot().get(&key).cloned();
                let precondition = match &seen {
                    Some(entry) => Precondition::Unchanged(entry.modified),
                    None => Precondition::Absent,
                };
                let old = seen.as_ref().and_then(|entry| from_bytes(&entry.value));
                let action = match old {
                    Some(old) if one == 7 => Action::Removed(old),
                    old => Action::Swap(old, value),
                };
                write(world.truth(), &store, key, precondition, action, value).await;
            }
        }
    }
}

async fn read(truth: &Truth, store: &RaftStore, key: &Key) {
    let begun = truth.moment();
    let acknowledged = truth.acknowledged();
    let Ok(revision) = store.barrier().await else { return };
    if revision.get() < acknowledged {
        truth.violate(format!("a barrier gave {revision} after {acknowledged} was acknowledged"));
    }
    let value = store.snapshot().get(key).and_then(|entry| from_bytes(&entry.value));
    truth.saw(key, begun, Action::Read(value));
    truth.count(|report| report.read += 1);
}

pub(super) async fn write(
    truth: &Truth,
    store: &RaftStore,
    key: Key,
    precondition: Precondition,
    action: Action,
    value: u64,
) {
    let begun = truth.moment();
    let deletes = matches!(action, Action::Removed(_) | Action::Cleared);
    let change = if deletes { Change::Delete(to_value(value)) } else { Change::Put(to_value(value)) };
    match store.write(Write { key: key.clone(), precondition, change }).await {
        Ok(entry) => {
            truth.saw(&key, begun, action);
            truth.acknowledge(&key, value, deletes, entry.modified);
            if store.snapshot().revision() < entry.modified {
                truth.violate(format!("{value} was acknowledged before its member showed it"));
            }
            truth.count(|report| report.written += 1);
        }
        Err(StoreError::Refused(Refusal::Conflict { current })) => {
            let current = current.and_then(|entry| from_bytes(&entry.value));
            truth.saw(&key, begun, Action::NotSwapped(current));
            truth.refuse(value);
            truth.count(|report| report.not_written += 1);
        }
        Err(
            StoreError::Unavailable { .. }
            | StoreError::NoSpace
            | StoreError::Closed
            | StoreError::Refused(Refusal::NoSpace { .. }),
        ) => {
            truth.refuse(value);
            truth.count(|report| report.not_written += 1);
        }
        Err(StoreError::OutcomeUnknown { .. }) => {
            truth.saw_nothing(&key, begun, action, value);
            truth.count(|report| report.unknown += 1);
        }
        Err(
            error @ (StoreError::Refused(Refusal::Malformed | Refusal::Outdated)
            | StoreError::TooLarge { .. }),
        ) => {
            truth.violate(error.to_string());
        }
    }
}
