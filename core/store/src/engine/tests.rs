use std::collections::BTreeMap;

use pretty_assertions::assert_eq;
use proptest::prelude::*;

use super::*;
use crate::Value;

fn key(name: &str) -> Key {
    Key::new(format!("/{name}")).unwrap()
}

fn put(name: &str, precondition: Precondition, value: &str) -> Write {
    Write { key: key(name), precondition, change: Change::Put(Value::plain(value.to_owned())) }
}

fn delete(name: &str, precondition: Precondition) -> Write {
    Write { key: key(name), precondition, change: Change::Delete(Value::plain("last")) }
}

fn entry(value: &str, created: u64, modified: u64) -> Entry {
    Entry {
        value: value.to_owned().into(),
        created: Revision::new(created),
        modified: Revision::new(modified),
    }
}

#[test]
fn a_batch_is_applied_in_order_and_each_write_sees_the_one_before() {
    let mut engine = Engine::new(Config::default());
    let applied = engine.apply(&[
        put("a", Precondition::Absent, "1"),
        put("a", Precondition::Absent, "2"),
        put("a", Precondition::Unchanged(Revision::new(1)), "3"),
        delete("a", Precondition::Unchanged(Revision::new(2))),
        delete("a", Precondition::Any),
    ]);
    assert_eq!(
        applied.outcomes,
        vec![
            Ok(entry("1", 1, 1)),
            Err(Refusal::Conflict { current: Some(entry("1", 1, 1)) }),
            Ok(entry("3", 1, 2)),
            Ok(entry("last", 1, 3)),
            Err(Refusal::Conflict { current: None }),
        ]
    );
    let kinds: Vec<_> = applied.events.iter().map(|event| (event.revision.get(), event.kind)).collect();
    assert_eq!(kinds, vec![(1, EventKind::Created), (2, EventKind::Updated), (3, EventKind::Deleted)]);
    assert_eq!(engine.revision(), Revision::new(3));
    assert!(engine.snapshot().is_empty());
}

#[test]
fn a_refused_write_takes_no_revision() {
    let mut engine = Engine::new(Config::default());
    engine.apply(&[delete("a", Precondition::Any)]);
    assert_eq!(engine.revision(), Revision::ZERO);
}

#[test]
fn a_stamp_outside_of_the_value_is_refused() {
    let mut engine = Engine::new(Config::default());
    let write = Write {
        key: key("a"),
        precondition: Precondition::Any,
        change: Change::Put(Value::stamped("ab", 3)),
    };
    assert_eq!(engine.apply(&[write]).outcomes, vec![Err(Refusal::Malformed)]);
}

#[test]
fn an_old_state_is_readable_until_it_falls_out_of_history() {
    let mut engine = Engine::new(Config { history: 2, ..Config::default() });
    for value in ["1", "2", "3", "4"] {
        engine.apply(&[put("a", Precondition::Any, value)]);
    }
    let at = |revision| engine.snapshot_at(Revision::new(revision)).map(|s| s.get(&key("a")).cloned());
    assert_eq!(at(4), Ok(Some(entry("4", 1, 4))));
    assert_eq!(at(2), Ok(Some(entry("2", 1, 2))));
    assert_eq!(at(1).unwrap_err(), HistoryError::Compacted { oldest: Revision::new(2) });
    assert_eq!(at(5).unwrap_err(), HistoryError::Future { newest: Revision::new(4) });
}

#[test]
fn compaction_forgets_older_states_and_keeps_the_newest() {
    let mut engine = Engine::new(Config::default());
    for value in ["1", "2", "3"] {
        engine.apply(&[put("a", Precondition::Any, value)]);
    }
    assert_eq!(engine.compact(Revision::new(2)), Revision::new(2));
    assert!(engine.snapshot_at(Revision::new(1)).is_err());
    assert!(engine.snapshot_at(Revision::new(2)).is_ok());
    assert_eq!(engine.compact(Revision::new(99)), Revision::new(3));
    assert!(engine.snapshot_at(Revision::new(3)).is_ok());
}

#[test]
fn a_range_stays_within_its_prefix_and_goes_on_after_a_key() {
    let mut engine = Engine::new(Config::default());
    for name in ["pods/a/1", "pods/a/2", "pods/ab/1", "pods/b/1", "nodes/1"] {
        engine.apply(&[put(name, Precondition::Absent, "x")]);
    }
    let snapshot = engine.snapshot();
    let names = |prefix: &str, after: Option<&Key>| -> Vec<String> {
        snapshot.range(prefix, after).map(|(key, _)| key.to_string()).collect()
    };
    assert_eq!(names("/pods/a/", None), ["/pods/a/1", "/pods/a/2"]);
    assert_eq!(names("/pods/", Some(&key("pods/a/2"))), ["/pods/ab/1", "/pods/b/1"]);
    assert_eq!(names("/pods/", Some(&key("a"))).len(), 4);
    assert!(names("/pods/", Some(&key("z"))).is_empty());
}

proptest! {
    #[test]
    fn the_engine_equals_a_plain_map(steps in proptest::collection::vec((0u8..4, 0u8..4, 0u64..12), 0..60)) {
        let mut engine = Engine::new(Config { history: 1000, ..Config::default() });
        let mut model: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut states = vec![model.clone()];
        for (name, action, at) in steps {
            let name = format!("k{name}");
            let current = model.get(&name).copied();
            let next = states.len() as u64;
            let (write, made) = match action {
                0 => (put(&name, Precondition::Absent, "v"), current.is_none()),
                1 => (put(&name, Precondition::Any, "v"), true),
                2 => (put(&name, Precondition::Unchanged(Revision::new(at)), "v"),
                      current.is_some_and(|(_, modified)| modified == at)),
                _ => (delete(&name, Precondition::Any), current.is_some()),
            };
            let outcome = engine.apply(&[write]).outcomes.remove(0);
            prop_assert_eq!(outcome.is_ok(), made);
            if made {
                if action == 3 {
                    model.remove(&name);
                } else {
                    model.insert(name, (current.map_or(next, |(created, _)| created), next));
                }
                states.push(model.clone());
            }
        }
        let counted = |state: &Snapshot| {
            state.range("/", None).map(|(key, entry)| entry.counts(key)).sum::<u64>()
        };
        prop_assert_eq!(engine.bytes(), counted(&engine.snapshot()));
        for (revision, state) in states.iter().enumerate() {
            let snapshot = engine.snapshot_at(Revision::new(revision as u64)).unwrap();
            let seen: BTreeMap<String, (u64, u64)> = snapshot
                .range("/", None)
                .map(|(key, entry)| (key.as_str()[1..].to_owned(), (entry.created.get(), entry.modified.get())))
                .collect();
            prop_assert_eq!(&seen, state);
        }
    }
}

fn sized(name: &str, bytes: usize) -> Write {
    put(name, Precondition::Any, &"x".repeat(bytes))
}

#[test]
fn beyond_its_quota_the_state_does_not_grow_and_what_is_deleted_makes_room_again() {
    let quota = Some(Quota(10_000));
    let mut engine = Engine::new(Config::default());
    let mut apply = |write: Write| {
        let outcome = engine.apply_within(quota, &[write]).outcomes.remove(0).map(drop);
        (outcome, engine.bytes(), engine.lacks_space())
    };
    assert_eq!(apply(sized("a", 5_998)), (Ok(()), 6_000, false));
    let refused = Err(Refusal::NoSpace { bytes: 6_000, quota: 10_000 });
    assert_eq!(apply(sized("b", 4_000)), (refused, 6_000, true));
    // Smaller ones find room, but the one that was refused would not.
    assert_eq!(apply(sized("c", 1_998)), (Ok(()), 8_000, true));
    assert_eq!(apply(sized("a", 3_998)), (Ok(()), 6_000, true));
    assert_eq!(apply(delete("c", Precondition::Any)), (Ok(()), 4_000, false));
    assert_eq!(apply(sized("b", 4_000)), (Ok(()), 8_002, false));
}

#[test]
fn small_changes_of_what_is_there_have_a_reserve() {
    let quota = Some(Quota(16_000));
    let mut engine = Engine::new(Config::default());
    let mut is_let = |write: Write| engine.apply_within(quota, &[write]).outcomes.remove(0).is_ok();
    assert!(is_let(sized("a", 15_998)));
    assert!(is_let(sized("a", 16_500)));
    assert!(!is_let(sized("b", 1)));
    assert!(!is_let(sized("a", 17_000)));
    assert!(is_let(sized("a", 16_400)));
    assert!(is_let(delete("a", Precondition::Any)));
}

#[test]
fn a_write_is_judged_by_the_quota_that_it_came_with() {
    let writes =
        [(Some(Quota(10)), sized("a", 20)), (None, sized("b", 20)), (Some(Quota(50)), sized("c", 20))];
    let outcomes = || {
        let mut engine = Engine::new(Config::default());
        writes.clone().map(|(quota, write)| engine.apply_within(quota, &[write]).outcomes.remove(0).is_ok())
    };
    assert_eq!(outcomes(), [false, true, true]);
    assert_eq!(outcomes(), outcomes());
}

#[test]
fn past_states_are_dropped_when_they_cost_too_many_bytes() {
    let config = Config { history: 100, history_bytes: 3 * (NODES + 10_002) };
    let mut engine = Engine::new(config);
    for _ in 0..10 {
        engine.apply(&[sized("a", 10_000)]);
    }
    assert_eq!(engine.compacted(), Revision::new(7));
    assert_eq!(engine.snapshot_at(Revision::new(7)).unwrap().len(), 1);
    assert!(engine.snapshot_at(Revision::new(6)).is_err());
}
