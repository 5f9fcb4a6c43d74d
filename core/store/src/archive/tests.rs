use std::fs;

use super::*;
use crate::engine::Config;
use crate::{Change, Engine, Precondition, Value, Write as Change_};

fn head() -> Head {
    Head { cluster: Some(7), member: Some(8), revision: Revision::ZERO, taken: 1, version: "v1".to_owned() }
}

fn state() -> Snapshot {
    let mut engine = Engine::new(Config::default());
    for name in ["/b", "/a", "/c", "/a"] {
        engine.apply(&[Change_ {
            key: Key::new(name).unwrap(),
            precondition: Precondition::Any,
            change: Change::Put(Value::plain("some value")),
        }]);
    }
    engine.snapshot()
}

fn archive() -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, &head(), &state()).unwrap();
    bytes
}

#[test]
fn an_archive_is_read_back_as_the_state_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, archive()).unwrap();
    let mut entries = Vec::new();
    let summary = read(&path, |key, entry| entries.push((key, entry))).unwrap();
    let state = state();
    assert_eq!(entries, state.range("/", None).map(|(k, e)| (k.clone(), e.clone())).collect::<Vec<_>>());
    assert_eq!((summary.keys, summary.bytes), (3, state.bytes()));
    assert_eq!(summary.head, Head { revision: Revision::new(4), ..head() });
}

#[test]
fn an_archive_with_any_byte_changed_missing_or_added_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let whole = archive();
    let is_refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        matches!(check(&path), Err(ArchiveError::Damaged { .. }))
    };
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        assert!(is_refused(&bytes), "byte {at} changed");
        assert!(is_refused(&whole[..at]), "cut at {at}");
    }
    assert!(is_refused(&[&whole[..], b"x"].concat()));
}

#[test]
fn nothing_is_restored_of_a_damaged_archive_or_over_another_store() {
    let dir = tempfile::tempdir().unwrap();
    let (file, to) = (dir.path().join("file"), dir.path().join("store"));
    let mut bytes = archive();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, &bytes).unwrap();
    let restored = || restore(&file, &to, RestoreOptions::default());
    assert!(matches!(restored(), Err(RestoreError::Archive(_))));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    fs::write(&file, archive()).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(to.join("lock"), "").unwrap();
    assert!(matches!(restored(), Err(RestoreError::NotEmpty(_))));
    fs::remove_file(to.join("lock")).unwrap();
    assert_eq!(restored().unwrap().revision, Revision::new(1_000_000_004));
    assert!(!dir.path().join("store.restoring").exists());
}
