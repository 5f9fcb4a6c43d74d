//! End, and what is there afterwards.

use std::sync::Arc;

use super::{Bench, Open, delete, key, put};
use crate::{Precondition, StoreError, Value};

use Precondition::{Absent, Any};

/// After its end a store takes nothing more, and what it held can still be read.
pub async fn a_closed_store_takes_no_write(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    let made = open.write(put("a", Absent, "1")).await.unwrap();
    open.store.close().await;
    for write in [put("a", Any, "2"), put("b", Absent, "2"), delete("a", Any, "2")] {
        let refused = open.store.write(write).await;
        assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
    }
    assert!(open.store.barrier().await.is_err());
    assert_eq!(open.store.snapshot().get(&key("a")), Some(&made));
    open.store.close().await;
}

/// A store that is opened again has what was acknowledged, shows it to who follows, and goes on from there.
pub async fn what_was_written_is_there_when_it_is_opened_again(bench: &dyn Bench) {
    if !bench.is_durable() {
        return;
    }
    let open = Open::on(bench).await;
    let kept = open.write(put("kept", Absent, Value::stamped("<>", 1))).await.unwrap();
    open.write(put("gone", Absent, "1")).await.unwrap();
    let gone = open.write(delete("gone", Any, "1")).await.unwrap();
    open.store.close().await;
    drop(open);
    let open = Open::on(bench).await;
    open.store.barrier().await.unwrap();
    assert_eq!(open.witness.state().into_iter().collect::<Vec<_>>(), [(key("kept"), kept.clone())]);
    assert_eq!(open.store.snapshot().get(&key("kept")), Some(&kept));
    assert!(open.store.snapshot().revision() >= gone.modified);
    let next = open.write(put("kept", Precondition::Unchanged(kept.modified), "2")).await.unwrap();
    assert!(next.modified > gone.modified);
    assert_eq!(next.created, kept.created);
    open.witness.must_agree(&open.store.snapshot());
}

/// As above, with more than is read at once.
pub async fn many_keys_are_there_when_it_is_opened_again(bench: &dyn Bench) {
    const KEYS: usize = 2500;
    if !bench.is_durable() {
        return;
    }
    let open = Arc::new(Open::on(bench).await);
    let writers = (0..50).map(|writer| {
        let open = Arc::clone(&open);
        tokio::spawn(async move {
            for number in 0..KEYS / 50 {
                let name = format!("{writer}/{number}");
                open.store.write(put(&name, Absent, Value::stamped("<>", 1))).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    open.store.close().await;
    let before = open.witness.state();
    assert_eq!(before.len(), KEYS);
    drop(open);
    let open = Open::on(bench).await;
    open.store.barrier().await.unwrap();
    assert!(open.witness.state() == before, "the state is another one than before");
    open.witness.must_agree(&open.store.snapshot());
}
