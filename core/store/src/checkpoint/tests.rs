use std::collections::BTreeMap;

use pretty_assertions::assert_eq;
use proptest::prelude::*;

use super::*;
use crate::engine::Config;
use crate::{Change, Engine, Precondition, Value, Write};

fn put(engine: &mut Engine, name: &str, value: Vec<u8>) {
    let change = Change::Put(Value::plain(value));
    let write = Write { key: Key::new(format!("/{name}")).unwrap(), precondition: Precondition::Any, change };
    engine.apply(&[write]).outcomes.remove(0).unwrap();
}

fn delete(engine: &mut Engine, name: &str) {
    let change = Change::Delete(Value::plain("last"));
    let write = Write { key: Key::new(format!("/{name}")).unwrap(), precondition: Precondition::Any, change };
    engine.apply(&[write]).outcomes.remove(0).unwrap();
}

fn state(snapshot: &Snapshot) -> BTreeMap<Key, Entry> {
    snapshot.range("/", None).map(|(key, entry)| (key.clone(), entry.clone())).collect()
}

fn reopened(dir: &Path) -> (Checkpoint, BTreeMap<Key, Entry>) {
    let (checkpoint, loaded) = Checkpoint::open(dir.to_owned()).unwrap();
    (checkpoint, loaded.unwrap().entries.into_iter().collect())
}

fn keys(dir: &Path) -> Vec<sled::IVec> {
    open_database(dir, 0).unwrap().iter().keys().map(|key| key.unwrap()).collect()
}

fn save(checkpoint: &mut Checkpoint, engine: &Engine) {
    checkpoint.save(&SnapshotMeta::default(), &engine.snapshot()).unwrap();
}

#[test]
fn what_was_saved_is_read_back_and_then_only_changes_are_written() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    let mut engine = Engine::new(Config::default());
    let (mut checkpoint, nothing) = Checkpoint::open(dir.clone()).unwrap();
    assert!(nothing.is_none());
    for number in 0..20 {
        put(&mut engine, &format!("k{number}"), vec![number; 100]);
    }
    save(&mut checkpoint, &engine);
    assert_eq!(reopened(&dir).1, state(&engine.snapshot()));
    put(&mut engine, "k1", b"new".to_vec());
    put(&mut engine, "more", b"new".to_vec());
    delete(&mut engine, "k2");
    let (mut checkpoint, _) = reopened(&dir);
    save(&mut checkpoint, &engine);
    let generations: Vec<u64> = keys(&dir).iter().map(|key| Chunk::read(key).unwrap().generation).collect();
    assert_eq!(generations.len(), 20);
    assert_eq!(generations.iter().filter(|generation| **generation == 2).count(), 2);
    assert_eq!(reopened(&dir).1, state(&engine.snapshot()));
}

#[test]
fn large_entries_are_cut_into_chunks_of_which_a_page_of_sled_takes_several() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    let mut engine = Engine::new(Config::default());
    for (number, size) in [0, CHUNK_EDGE - 40, CHUNK_EDGE, CHUNK_EDGE + 1, 1_500_000].into_iter().enumerate()
    {
        put(&mut engine, &format!("k{number}"), (0..size).map(|at| at as u8).collect());
    }
    save(&mut Checkpoint::fresh(dir.clone()), &engine);
    assert_eq!(reopened(&dir).1, state(&engine.snapshot()));
    let largest = open_database(&dir, 0).unwrap().iter().map(|item| item.unwrap().1.len()).max();
    assert_eq!(largest, Some(CHUNK_EDGE));
}

const CHUNK_EDGE: usize = 8 << 10;

#[test]
fn what_an_unfinished_save_left_behind_does_not_count() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    let mut engine = Engine::new(Config::default());
    put(&mut engine, "a", b"1".to_vec());
    put(&mut engine, "b", b"1".to_vec());
    let mut checkpoint = Checkpoint::fresh(dir.clone());
    save(&mut checkpoint, &engine);
    let saved = state(&engine.snapshot());
    // Everything of the next save but the last step: a new value, a deletion, and an entry that is soon gone.
    let mut lost = engine.clone();
    put(&mut lost, "a", b"2".to_vec());
    put(&mut lost, "gone", b"2".to_vec());
    delete(&mut lost, "b");
    let (mut current, root) = checkpoint.saved.clone().unwrap();
    current.generation += 1;
    let db = open_database(&dir, 0).unwrap();
    write_changes(&db, &root, lost.snapshot().root(), &mut current).unwrap();
    db.flush().unwrap();
    drop(db);
    let (mut checkpoint, read) = reopened(&dir);
    assert_eq!(read, saved);
    assert!(checkpoint.unswept);
    put(&mut engine, "c", b"3".to_vec());
    save(&mut checkpoint, &engine);
    assert_eq!(reopened(&dir).1, state(&engine.snapshot()));
    assert_eq!(keys(&dir).len(), 3);
}

#[test]
fn a_crash_before_old_versions_were_removed_leaves_the_new_state() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    let mut engine = Engine::new(Config::default());
    put(&mut engine, "a", b"1".to_vec());
    put(&mut engine, "b", b"1".to_vec());
    let mut checkpoint = Checkpoint::fresh(dir.clone());
    save(&mut checkpoint, &engine);
    put(&mut engine, "a", b"2".to_vec());
    delete(&mut engine, "b");
    let (mut current, root) = checkpoint.saved.clone().unwrap();
    current.generation += 1;
    let db = open_database(&dir, 0).unwrap();
    write_changes(&db, &root, engine.snapshot().root(), &mut current).unwrap();
    db.flush().unwrap();
    drop(db);
    current.write(&dir).unwrap();
    let (mut checkpoint, read) = reopened(&dir);
    assert_eq!(read, state(&engine.snapshot()));
    save(&mut checkpoint, &engine);
    assert_eq!(reopened(&dir).1, state(&engine.snapshot()));
}

#[test]
fn a_database_that_has_grown_far_beyond_its_contents_is_written_anew_and_the_old_one_is_removed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    let mut engine = Engine::new(Config::default());
    let mut checkpoint = Checkpoint::fresh(dir.clone());
    for number in 0..3000 {
        put(&mut engine, &format!("k{number}"), vec![7; 4000]);
    }
    save(&mut checkpoint, &engine);
    for number in 1..3000 {
        delete(&mut engine, &format!("k{number}"));
    }
    save(&mut checkpoint, &engine);
    let (deleted, meta) = (checkpoint.allocated(), SnapshotMeta::default());
    checkpoint.rebuild(&meta, &engine.snapshot()).unwrap();
    assert!(checkpoint.allocated() < (2 << 20), "{} bytes, {deleted} before", checkpoint.allocated());
    assert!(!dir.join("sled").exists());
    let (mut checkpoint, read) = reopened(&dir);
    assert_eq!(read, state(&engine.snapshot()));
    // It goes on from there, and can be written anew again; what a crash leaves of another attempt goes.
    put(&mut engine, "more", b"x".to_vec());
    save(&mut checkpoint, &engine);
    fs::create_dir(dir.join("sled-2")).unwrap();
    fs::write(dir.join("sled-2").join("db"), "half").unwrap();
    let (mut checkpoint, read) = reopened(&dir);
    assert_eq!(read, state(&engine.snapshot()));
    assert!(!dir.join("sled-2").exists());
    checkpoint.rebuild(&meta, &engine.snapshot()).unwrap();
    assert_eq!(reopened(&dir).1, state(&engine.snapshot()));
}

#[test]
fn a_lost_entry_is_noticed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    let mut engine = Engine::new(Config::default());
    for number in 0..5 {
        put(&mut engine, &format!("k{number}"), vec![number; 100]);
    }
    save(&mut Checkpoint::fresh(dir.clone()), &engine);
    let lost = keys(&dir).remove(2);
    let db = open_database(&dir, 0).unwrap();
    db.remove(lost).unwrap();
    db.flush().unwrap();
    drop(db);
    let error = Checkpoint::open(dir).unwrap_err();
    assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");
}

#[test]
fn damaged_files_are_an_error_and_never_a_wrong_state() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    let mut engine = Engine::new(Config::default());
    for number in 0..50 {
        put(&mut engine, &format!("k{number}"), vec![number; 3000]);
    }
    save(&mut Checkpoint::fresh(dir.clone()), &engine);
    let saved = state(&engine.snapshot());
    for name in ["current", "sled/db", "sled/conf"] {
        let path = dir.join(name);
        let whole = fs::read(&path).unwrap();
        for part in 1..8 {
            let mut bytes = whole.clone();
            let at = whole.len() * part / 8;
            let end = (at + 64).min(bytes.len());
            bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0xa5);
            fs::write(&path, &bytes).unwrap();
            if let Ok((_, loaded)) = Checkpoint::open(dir.clone()) {
                let read: BTreeMap<Key, Entry> = loaded.unwrap().entries.into_iter().collect();
                assert_eq!(read, saved, "{name} damaged at {at}");
            }
            fs::write(&path, &whole).unwrap();
        }
    }
    Checkpoint::set_aside(&dir).unwrap();
    assert!(!dir.exists() && temp.path().join("state.damaged").exists());
    assert!(Checkpoint::open(dir).unwrap().1.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn after_any_changes_the_saved_state_is_the_state(
        rounds in proptest::collection::vec(proptest::collection::vec((0u8..30, 0usize..4), 0..20), 1..6),
    ) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("state");
        let mut engine = Engine::new(Config::default());
        let mut checkpoint = Checkpoint::fresh(dir.clone());
        for changes in rounds {
            for (name, action) in changes {
                let name = format!("k{name}");
                let there = engine.snapshot().get(&Key::new(format!("/{name}")).unwrap()).is_some();
                match action {
                    0 if there => delete(&mut engine, &name),
                    size => put(&mut engine, &name, vec![7; size * 6000]),
                }
            }
            checkpoint.save(&SnapshotMeta::default(), &engine.snapshot()).unwrap();
            let (again, read) = reopened(&dir);
            prop_assert_eq!(&read, &state(&engine.snapshot()));
            checkpoint = again;
            checkpoint.adopt(&engine.snapshot());
        }
    }
}
