//! Preconditions, outcomes, stamps, sizes.

use bytes::Bytes;

use super::{Bench, Open, delete, key, put};
use crate::{EventKind, Precondition, Refusal, Revision, StoreError, Value};

use Precondition::{Absent, AbsentBeside, Any, Unchanged};

/// A key that is there is not made again, and whoever tries is told what is there.
pub async fn a_key_is_made_once(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    let made = open.write(put("a", Absent, "1")).await.unwrap();
    assert_eq!((made.created, &made.value[..]), (made.modified, &b"1"[..]));
    assert_eq!(open.conflict(put("a", Absent, "2")).await, Some(made));
    assert_eq!(open.witness.events().len(), 1);
}

/// An update is made at the revision that it names and at no other, and the key keeps its beginning.
pub async fn an_update_needs_the_revision_that_it_names(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    let first = open.write(put("a", Absent, "1")).await.unwrap();
    let second = open.write(put("a", Unchanged(first.modified), "2")).await.unwrap();
    assert!(second.modified > first.modified);
    assert_eq!(second.created, first.created);
    for named in [first.modified, Revision::ZERO, second.modified.next()] {
        assert_eq!(open.conflict(put("a", Unchanged(named), "3")).await.as_ref(), Some(&second));
    }
    for named in [Revision::ZERO, first.modified] {
        assert_eq!(open.conflict(put("nothing", Unchanged(named), "3")).await, None);
    }
}

/// A deletion is refused where there is nothing, or something else than it names. A key that comes again begins anew.
pub async fn a_deletion_needs_something_to_delete(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    for precondition in [Absent, Any, Unchanged(Revision::ZERO), Unchanged(Revision::new(1))] {
        assert_eq!(open.conflict(delete("a", precondition, "x")).await, None);
    }
    let made = open.write(put("a", Absent, "1")).await.unwrap();
    assert_eq!(open.conflict(delete("a", Absent, "x")).await.as_ref(), Some(&made));
    let other = Unchanged(made.modified.next());
    assert_eq!(open.conflict(delete("a", other, "x")).await.as_ref(), Some(&made));
    let gone = open.write(delete("a", Unchanged(made.modified), "x")).await.unwrap();
    assert!(gone.modified > made.modified);
    assert_eq!((gone.created, open.store.snapshot().get(&key("a"))), (made.created, None));
    assert_eq!(open.conflict(delete("a", Any, "x")).await, None);
    let again = open.write(put("a", Absent, "2")).await.unwrap();
    assert_eq!(again.created, again.modified);
    let gone = open.write(delete("a", Any, "y")).await.unwrap();
    assert_eq!((gone.created, &gone.value[..]), (again.created, &b"y"[..]));
}

/// Where nothing is asked, what is there is replaced.
pub async fn a_write_without_condition_is_always_made(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    let first = open.write(put("a", Any, "1")).await.unwrap();
    let second = open.write(put("a", Any, "2")).await.unwrap();
    assert_eq!((first.created, second.created), (first.modified, first.modified));
    let kinds: Vec<EventKind> = open.witness.events().iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Created, EventKind::Updated]);
}

/// What belongs to another key is made while that is as it was seen, and not afterwards.
pub async fn a_key_is_made_beside_another_while_that_is_unchanged(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    let beside = |at: Revision| AbsentBeside { other: key("owner"), at };
    let outdated = async |write| match open.store.write(write).await {
        Err(StoreError::Refused(Refusal::Outdated)) => {}
        other => panic!("{other:?} instead of a refusal"),
    };
    outdated(put("a", beside(Revision::new(1)), "1")).await;
    let owner = open.write(put("owner", Absent, "1")).await.unwrap();
    outdated(put("a", beside(owner.modified.next()), "1")).await;
    let made = open.write(put("a", beside(owner.modified), "1")).await.unwrap();
    assert_eq!((made.created, &made.value[..]), (made.modified, &b"1"[..]));
    assert_eq!(open.conflict(put("a", beside(owner.modified), "2")).await.as_ref(), Some(&made));
    assert_eq!(open.conflict(delete("a", beside(owner.modified), "2")).await.as_ref(), Some(&made));
    let changed = open.write(put("owner", Any, "2")).await.unwrap();
    outdated(put("b", beside(owner.modified), "1")).await;
    // Who is refused finds what has changed.
    assert_eq!(open.store.snapshot().get(&key("owner")), Some(&changed));
    open.write(put("b", beside(changed.modified), "1")).await.unwrap();
    open.write(delete("owner", Any, "")).await.unwrap();
    outdated(put("c", beside(changed.modified), "1")).await;
    open.witness.must_agree(&open.store.snapshot());
}

/// After a refusal, everything is as it was.
pub async fn a_refused_write_changes_nothing_and_nobody_hears_of_it(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    let made = open.write(put("a", Absent, "1")).await.unwrap();
    for write in [put("a", Absent, "2"), put("b", Unchanged(made.modified), "2"), delete("b", Any, "2")] {
        open.conflict(write).await;
    }
    let next = open.write(put("b", Absent, "1")).await.unwrap();
    let told: Vec<Revision> = open.witness.events().iter().map(|event| event.revision).collect();
    assert_eq!(told, [made.modified, next.modified]);
    if bench.revisions() == super::Revisions::Gapless {
        assert_eq!(next.modified, made.modified.next());
    }
    open.witness.must_agree(&open.store.snapshot());
}

/// A malformed value is refused, but first of all the precondition counts.
pub async fn a_stamp_beyond_the_value_is_refused_where_nothing_else_is_wrong(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    let bad = || Value::stamped("abc", 4);
    let refused = open.store.write(put("a", Absent, bad())).await;
    assert!(matches!(refused, Err(StoreError::Refused(Refusal::Malformed))), "{refused:?}");
    let made = open.write(put("a", Absent, Value::stamped("abc", 3))).await.unwrap();
    assert_eq!(open.conflict(put("a", Absent, bad())).await, Some(made.clone()));
    let refused = open.store.write(delete("a", Unchanged(made.modified), bad())).await;
    assert!(matches!(refused, Err(StoreError::Refused(Refusal::Malformed))), "{refused:?}");
    assert_eq!(open.store.snapshot().get(&key("a")), Some(&made));
}

/// The answer, the state and the event show the same bytes, with the revision in its place.
pub async fn the_revision_stands_in_the_value_wherever_it_is_read(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    for (name, text, at) in [("begin", "-tail", 0), ("middle", r#"{"v":""}"#, 6), ("end", "head-", 5)] {
        for precondition in [Absent, Any] {
            let entry = open.write(put(name, precondition, Value::stamped(text, at))).await.unwrap();
            let (head, tail) = text.split_at(at as usize);
            let wanted = format!("{head}{}{tail}", entry.modified);
            assert_eq!(std::str::from_utf8(&entry.value), Ok(wanted.as_str()));
            assert_eq!(open.store.snapshot().get(&key(name)), Some(&entry));
        }
    }
    open.witness.must_agree(&open.store.snapshot());
}

/// The event and the answer of a deletion carry the state that the deletion names, stamped with its revision.
pub async fn a_deletion_shows_its_last_state_with_its_own_revision(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    // The same as before, another one, one without a stamp, and one that gets a stamp.
    let states = [
        (Value::stamped("<>", 1), Value::stamped("<>", 1)),
        (Value::stamped("<>", 1), Value::stamped("<last >", 6)),
        (Value::stamped("<>", 1), Value::plain("<>")),
        (Value::plain("<>"), Value::stamped("<>", 1)),
        (Value::plain("<>"), Value::plain("")),
    ];
    for (number, (value, last)) in states.into_iter().enumerate() {
        let name = format!("k{number}");
        let made = open.write(put(&name, Absent, value)).await.unwrap();
        // Something else comes between.
        open.write(put("other", Any, "x")).await.unwrap();
        let gone = open.write(delete(&name, Unchanged(made.modified), last.clone())).await.unwrap();
        assert_eq!(gone.value, last.finish(gone.modified));
        let event = open.witness.events().pop().unwrap();
        assert_eq!(
            (event.kind, event.revision, &event.value),
            (EventKind::Deleted, gone.modified, &gone.value)
        );
        assert_eq!(event.previous, Some(made));
    }
}

/// Values are bytes, and may be none.
pub async fn any_bytes_can_be_a_value(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    let all: Vec<u8> = (0..=255).collect();
    for (name, bytes) in [("empty", Vec::new()), ("all", all), ("zeros", vec![0; 64])] {
        let entry = open.write(put(name, Absent, Value::plain(bytes.clone()))).await.unwrap();
        assert_eq!(entry.value, Bytes::from(bytes));
    }
    open.witness.must_agree(&open.store.snapshot());
}

/// A mebibyte is not too large.
pub async fn a_large_value_comes_back_whole(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    let large: Vec<u8> = (0..1_u32 << 20).map(|number| (number % 251) as u8).collect();
    let mut entry = open.write(put("large", Absent, Value::stamped(large.clone(), 1000))).await.unwrap();
    for _ in 0..4 {
        let at = Unchanged(entry.modified);
        entry = open.write(put("large", at, Value::stamped(large.clone(), 1000))).await.unwrap();
    }
    assert_eq!(entry.value, Value::stamped(large.clone(), 1000).finish(entry.modified));
    let gone =
        open.write(delete("large", Unchanged(entry.modified), Value::stamped(large, 7))).await.unwrap();
    assert_eq!(gone.created, entry.created);
}

/// A range of keys is told by their bytes, with any letters.
pub async fn keys_lie_in_the_order_of_their_bytes(bench: &dyn Bench) {
    let open = Open::on(bench).await;
    let long = "l".repeat(1500);
    let names = ["a/b", "a", "ab", "a b", "A", "\u{e9}t\u{e9}", "a/b/c", "z\u{10ffff}", "a//", long.as_str()];
    for name in names {
        open.write(put(name, Absent, name)).await.unwrap();
    }
    let snapshot = open.store.snapshot();
    let found: Vec<&str> = snapshot.range("/registry/", None).map(|(key, _)| &key.as_str()[10..]).collect();
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(found, sorted);
    let below: Vec<&str> = snapshot.range("/registry/a/", None).map(|(key, _)| &key.as_str()[10..]).collect();
    assert_eq!(below, ["a//", "a/b", "a/b/c"]);
    open.witness.must_agree(&snapshot);
}
