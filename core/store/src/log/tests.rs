use std::fs;
use std::os::unix::fs::FileExt;

use pretty_assertions::assert_eq;

use super::*;

fn small(dir: &Path) -> Config {
    Config { dir: dir.to_owned(), segment_bytes: 4096 }
}

fn entry(index: u64) -> Record {
    Record::Append { first: index, entries: vec![Bytes::from(format!("entry {index}"))] }
}

fn indexes(contents: &Contents) -> Vec<u64> {
    contents.entries.keys().copied().collect()
}

fn only_segment(dir: &Path) -> PathBuf {
    let mut paths = segment::list(&crate::disk::RealDisk, dir).unwrap();
    assert_eq!(paths.len(), 1);
    paths.remove(0)
}

#[test]
fn what_was_appended_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, empty) = Log::open(small(dir.path())).unwrap();
    assert_eq!(empty, Contents::default());
    log.append(&[entry(0), entry(1)]).unwrap();
    log.append(&[Record::Set { slot: Slot::Vote, value: Bytes::from("me") }]).unwrap();
    log.append(&[entry(2), Record::Truncate { from: 1 }, entry(1)]).unwrap();
    drop(log);
    let (_, contents) = Log::open(small(dir.path())).unwrap();
    assert_eq!(indexes(&contents), [0, 1]);
    assert_eq!(contents.slots[&Slot::Vote], "me");
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(small(dir.path())).unwrap();
    log.append(&[entry(0)]).unwrap();
    let before = log.active.offset;
    log.append(&[entry(1)]).unwrap();
    let after = log.active.offset;
    drop(log);
    let whole = fs::read(only_segment(dir.path())).unwrap();
    // The last eight bytes may be padding alone, without which the frame is still whole.
    for torn_at in before..after - 8 {
        let copy = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[torn_at as usize..].fill(0);
        fs::write(copy.path().join("00000000000000000001.log"), &bytes).unwrap();
        let (mut log, contents) = Log::open(small(copy.path())).unwrap();
        assert_eq!(indexes(&contents), [0], "torn at {torn_at}");
        log.append(&[entry(7)]).unwrap();
        drop(log);
        let (_, contents) = Log::open(small(copy.path())).unwrap();
        assert_eq!(indexes(&contents), [0, 7], "torn at {torn_at}");
    }
}

#[test]
fn damage_before_acknowledged_records_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(small(dir.path())).unwrap();
    log.append(&[entry(0)]).unwrap();
    let place = log.active.offset;
    log.append(&[entry(1)]).unwrap();
    log.append(&[entry(2)]).unwrap();
    drop(log);
    let path = only_segment(dir.path());
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"X", place + 18).unwrap();
    let error = Log::open(small(dir.path())).unwrap_err();
    assert!(
        matches!(&error, LogError::Damaged { path: p, offset, .. } if *p == path && *offset == place),
        "{error}"
    );
}

#[test]
fn segments_rotate_and_purged_ones_are_removed_without_losing_the_slots() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(small(dir.path())).unwrap();
    log.append(&[Record::Set { slot: Slot::Vote, value: Bytes::from("me") }]).unwrap();
    let large = |index| Record::Append { first: index, entries: vec![Bytes::from(vec![b'x'; 1000])] };
    for index in 0..20 {
        log.append(&[large(index)]).unwrap();
    }
    let many = segment::list(&crate::disk::RealDisk, dir.path()).unwrap().len();
    assert!(many > 4, "{many}");
    log.append(&[Record::Purge { upto: 17 }]).unwrap();
    assert_eq!(
        segment::list(&crate::disk::RealDisk, dir.path()).unwrap().len(),
        many,
        "what is purged stays until it is released"
    );
    drop(log);
    let (mut log, contents) = Log::open(small(dir.path())).unwrap();
    assert_eq!(indexes(&contents), [18, 19]);
    assert_eq!(log.retained().unwrap().into_keys().collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    log.release(10);
    let kept: Vec<u64> = log.retained().unwrap().into_keys().collect();
    assert!(kept[0] > 5 && kept.contains(&11), "{kept:?}");
    log.release(100);
    assert!(segment::list(&crate::disk::RealDisk, dir.path()).unwrap().len() < 4);
    drop(log);
    let (_, contents) = Log::open(small(dir.path())).unwrap();
    assert_eq!(indexes(&contents), [18, 19]);
    assert_eq!(contents.slots[&Slot::Vote], "me");
}

#[test]
fn a_group_larger_than_a_segment_gets_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(small(dir.path())).unwrap();
    log.append(&[Record::Append { first: 0, entries: vec![Bytes::from(vec![1; 10_000])] }]).unwrap();
    log.append(&[entry(1)]).unwrap();
    drop(log);
    let (_, contents) = Log::open(small(dir.path())).unwrap();
    assert_eq!(indexes(&contents), [0, 1]);
    assert_eq!(contents.entries[&0].len(), 10_000);
}

#[test]
fn a_missing_segment_in_the_middle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(small(dir.path())).unwrap();
    for index in 0..20 {
        log.append(&[Record::Append { first: index, entries: vec![Bytes::from(vec![b'x'; 1000])] }]).unwrap();
    }
    drop(log);
    fs::remove_file(&segment::list(&crate::disk::RealDisk, dir.path()).unwrap()[1]).unwrap();
    assert!(matches!(Log::open(small(dir.path())), Err(LogError::Damaged { .. })));
}

#[test]
fn a_half_made_segment_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(small(dir.path())).unwrap();
    log.append(&[entry(0)]).unwrap();
    drop(log);
    fs::write(dir.path().join("prepared.tmp"), b"half").unwrap();
    let (_, contents) = Log::open(small(dir.path())).unwrap();
    assert_eq!(indexes(&contents), [0]);
    assert!(!dir.path().join("prepared.tmp").exists());
}

#[test]
fn what_only_an_older_segment_says_outlives_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(small(dir.path())).unwrap();
    log.append(&[Record::Set { slot: Slot::Vote, value: Bytes::from("me") }]).unwrap();
    let large = |index| Record::Append { first: index, entries: vec![Bytes::from(vec![b'x'; 3000])] };
    log.append(&[large(0)]).unwrap();
    log.append(&[large(1)]).unwrap();
    drop(log);
    // A segment that has its name and nothing else, as a crash could once leave it.
    let newest = segment::list(&crate::disk::RealDisk, dir.path()).unwrap().pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    bytes[segment::HEADER_BYTES as usize..].fill(0);
    fs::write(&newest, bytes).unwrap();
    let (mut log, contents) = Log::open(small(dir.path())).unwrap();
    assert_eq!(indexes(&contents), [0]);
    log.append(&[Record::Purge { upto: 0 }]).unwrap();
    log.release(0);
    assert_eq!(segment::list(&crate::disk::RealDisk, dir.path()).unwrap(), [newest]);
    drop(log);
    let (_, contents) = Log::open(small(dir.path())).unwrap();
    assert_eq!(contents.slots[&Slot::Vote], "me");
}

#[test]
fn a_segment_has_its_head_when_it_has_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let config = small(dir.path());
    let prepared = Segment::prepare(&crate::disk::RealDisk, dir.path(), 4096).unwrap();
    let segment = prepared.start(&crate::disk::RealDisk, dir.path(), 1, Some(b"\0")).unwrap();
    drop(segment);
    let (log, _) = Log::open(config).unwrap();
    assert_eq!(log.active.next_sequence(), 2, "the head is the first frame");
}

#[test]
fn room_that_is_there_is_kept_when_more_cannot_be_had() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(small(dir.path())).unwrap();
    log.reserve(8_000).unwrap();
    let room = log.room();
    assert!(room >= 8_000, "{room}");
    log.reserve(20_000).unwrap();
    assert!(log.room() >= 20_000);
    // More than any disk has.
    assert!(log.reserve(1 << 60).is_err());
    assert!(log.room() >= 20_000);
    log.append(&[Record::Append { first: 0, entries: vec![Bytes::from(vec![b'x'; 19_000])] }]).unwrap();
}
