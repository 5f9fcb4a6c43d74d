//! What every store promises, as tests that any of them can be put to.
//!
//! A [`Bench`] opens the store under test; [`crate::conformance!`] makes a test of each promise:
//!
//! ```ignore
//! keelson_store::conformance!(Folder::new().await);
//! ```
//!
//! | module | which promises |
//! |---|---|
//! | [`witness`] | what an observer is told: checked with every event, in all of the tests |
//! | [`writes`] | preconditions, outcomes, stamps, sizes |
//! | [`order`] | many who write at once, barriers, history, others who have the store open |
//! | [`life`] | end, and what is there afterwards |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Change, Entry, Key, Observer, Precondition, Refusal, Store, StoreError, Value, Write};

pub mod life;
pub mod order;
pub mod witness;
pub mod writes;

pub use witness::{Revisions, Witness};

/// Opens a store under test.
#[async_trait]
pub trait Bench: Send + Sync {
    /// Opens the store, for the first time or again: what was written before is there.
    async fn open(&self, observer: Arc<dyn Observer>) -> Arc<dyn Store>;

    /// Opens it once more while it is open, as another of those who share it. `None` where one has it alone.
    async fn share(&self, _observer: Arc<dyn Observer>) -> Option<Arc<dyn Store>> {
        None
    }

    /// How it counts.
    fn revisions(&self) -> Revisions {
        Revisions::Gapless
    }

    /// Whether what was written is there when it is opened again.
    fn is_durable(&self) -> bool {
        true
    }
}

/// An open store and one who follows it.
pub struct Open {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Who follows.
    pub witness: Arc<Witness>,
}

impl Open {
    /// Opens the store of a bench.
    pub async fn on(bench: &dyn Bench) -> Open {
        let witness = Witness::new(bench.revisions());
        Open { store: bench.open(witness.clone()).await, witness }
    }

    /// Opens it for another.
    pub async fn beside(bench: &dyn Bench) -> Option<Open> {
        let witness = Witness::new(bench.revisions());
        bench.share(witness.clone()).await.map(|store| Open { store, witness })
    }

    /// Writes, and makes sure that this was seen before it was answered.
    pub async fn write(&self, write: Write) -> Result<Entry, StoreError> {
        let (key, is_put) = (write.key.clone(), matches!(write.change, Change::Put(_)));
        let entry = self.store.write(write).await?;
        self.witness.must_have_seen(&key, &entry);
        if is_put {
            let found = self.store.snapshot().get(&key).cloned();
            let is_newer = found.as_ref().is_none_or(|it| it.modified > entry.modified);
            assert!(is_newer || found.as_ref() == Some(&entry), "{found:?} instead of {entry:?}");
        }
        Ok(entry)
    }

    /// Writes something that must be refused; what is there instead.
    pub async fn conflict(&self, write: Write) -> Option<Entry> {
        match self.store.write(write).await {
            Err(StoreError::Refused(Refusal::Conflict { current })) => current,
            other => panic!("{other:?} instead of a conflict"),
        }
    }
}

/// A key of the suite.
#[must_use]
pub fn key(name: &str) -> Key {
    Key::new(format!("/registry/{name}")).unwrap()
}

/// A write of a value.
#[must_use]
pub fn put(name: &str, precondition: Precondition, value: impl Into<Value>) -> Write {
    Write { key: key(name), precondition, change: Change::Put(value.into()) }
}

/// A deletion.
#[must_use]
pub fn delete(name: &str, precondition: Precondition, last: impl Into<Value>) -> Write {
    Write { key: key(name), precondition, change: Change::Delete(last.into()) }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::plain(text.to_owned())
    }
}

/// Makes a test of every promise; the expression makes a fresh [`Bench`].
#[macro_export]
macro_rules! conformance {
    ($bench:expr) => {
        $crate::conformance!($bench;
            writes: a_key_is_made_once,
            writes: an_update_needs_the_revision_that_it_names,
            writes: a_deletion_needs_something_to_delete,
            writes: a_write_without_condition_is_always_made,
            writes: a_key_is_made_beside_another_while_that_is_unchanged,
            writes: a_refused_write_changes_nothing_and_nobody_hears_of_it,
            writes: a_stamp_beyond_the_value_is_refused_where_nothing_else_is_wrong,
            writes: the_revision_stands_in_the_value_wherever_it_is_read,
            writes: a_deletion_shows_its_last_state_with_its_own_revision,
            writes: any_bytes_can_be_a_value,
            writes: a_large_value_comes_back_whole,
            writes: keys_lie_in_the_order_of_their_bytes,
            order: what_is_acknowledged_was_seen_and_in_order,
            order: no_increment_is_lost,
            order: of_many_who_make_a_key_one_is_let,
            order: a_barrier_is_not_before_what_was_acknowledged,
            order: recent_states_can_be_read_and_the_future_cannot,
            order: a_state_that_is_held_does_not_change,
            order: those_who_share_a_store_see_the_same,
            order: those_who_share_a_store_do_not_overwrite_each_other,
            life: a_closed_store_takes_no_write,
            life: what_was_written_is_there_when_it_is_opened_again,
            life: many_keys_are_there_when_it_is_opened_again,
        );
    };
    ($bench:expr; $($module:ident: $name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                $crate::conformance::$module::$name(&$bench).await;
            }
        )*
    };
}
