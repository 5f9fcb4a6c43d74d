use super::*;

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Observer for Told {
    fn restored(&self, snapshot: &Snapshot) {
        self.0.lock().push(format!("{} restored {}", snapshot.revision(), snapshot.len()));
    }

    fn applied(&self, events: &[Event]) {
        let text = |it: &Event| {
            format!("{} {:?} {} {:?}", it.revision, it.kind, it.key, String::from_utf8_lossy(&it.value))
        };
        self.0.lock().push(events.iter().map(text).collect::<Vec<_>>().join(", "));
    }

    fn progressed(&self, revision: Revision) {
        self.0.lock().push(format!("{revision} progressed"));
    }

    fn compacted(&self, _: Revision) {}
}

fn copy() -> (Copy, Arc<Told>) {
    let told = Arc::new(Told::default());
    let copy = Copy::new(Keys::new("/p", "/registry"), engine::Config::default(), told.clone());
    copy.restore(Listed { revision: Revision::new(10), ..Listed::default() });
    told.0.lock().clear();
    (copy, told)
}

fn pair(key: &str, value: Bytes, created: i64, modified: i64) -> proto::KeyValue {
    let key = Bytes::copy_from_slice(key.as_bytes());
    proto::KeyValue { key, value, create_revision: created, mod_revision: modified, version: 1 }
}

fn put(key: &str, value: Value, created: i64, modified: i64) -> proto::Event {
    let id = WriteId { writer: 1, sequence: 1 };
    raw(key, Stored { id, value }.encode(), created, modified)
}

fn raw(key: &str, value: Bytes, created: i64, modified: i64) -> proto::Event {
    proto::Event { r#type: EventType::Put.into(), kv: Some(pair(key, value, created, modified)) }
}

fn delete(key: &str, modified: i64) -> proto::Event {
    proto::Event { r#type: EventType::Delete.into(), kv: Some(pair(key, Bytes::new(), 0, modified)) }
}

fn last(key: &str, last: Option<Value>, modified: i64) -> proto::Event {
    let id = WriteId { writer: 1, sequence: 2 };
    let deleted = Deleted { id, key: Bytes::copy_from_slice(key.as_bytes()), last };
    raw("/p/.keelson/deleted", deleted.encode(), 1, modified)
}

#[test]
fn a_deletion_is_told_with_the_last_state_that_was_written_beside_it() {
    let (copy, told) = copy();
    copy.take(&[put("/p/a", Value::stamped("<>", 1), 12, 12)]);
    copy.take(&[last("/p/a", Some(Value::stamped("<last >", 6)), 15), delete("/p/a", 15)]);
    assert_eq!(*told.0.lock(), ["12 Created /registry/a \"<12>\"", "15 Deleted /registry/a \"<last 15>\""]);
}

#[test]
fn a_deletion_of_what_was_stored_or_by_others_is_told_with_what_was_there() {
    let (copy, told) = copy();
    copy.take(&[put("/p/a", Value::stamped("<>", 1), 12, 12), put("/p/b", Value::stamped("{}", 1), 13, 13)]);
    copy.take(&[last("/p/a", None, 15), delete("/p/a", 15)]);
    // Two at once, of which one is unknown.
    copy.take(&[delete("/p/b", 20), delete("/p/c", 20)]);
    assert_eq!(
        told.0.lock()[1..],
        ["15 Deleted /registry/a \"<15>\"".to_owned(), "20 Deleted /registry/b \"{20}\"".to_owned()]
    );
    assert_eq!(copy.snapshot().len(), 0);
}

#[test]
fn what_comes_again_is_not_told_again() {
    let (copy, told) = copy();
    let events = [put("/p/a", Value::plain("1"), 12, 12), put("/p/a", Value::plain("2"), 12, 14)];
    copy.take(&events);
    copy.take(&events);
    copy.take(&[put("/p/a", Value::plain("0"), 9, 9)]);
    assert_eq!(*told.0.lock(), ["12 Created /registry/a \"1\", 14 Updated /registry/a \"2\""]);
    assert_eq!(copy.seen(), Revision::new(14));
}

#[test]
fn keys_of_its_own_and_notices_are_progress() {
    let (copy, told) = copy();
    copy.take(&[raw("/p/.keelson/progress", Bytes::new(), 1, 20)]);
    copy.progress(Revision::new(18));
    copy.progress(Revision::new(25));
    copy.take(&[put("/p/a", Value::plain("1"), 26, 26), raw("/p/.keelson/progress", Bytes::new(), 1, 27)]);
    assert_eq!(
        *told.0.lock(),
        ["20 progressed", "25 progressed", "26 Created /registry/a \"1\"", "27 progressed"]
    );
    assert_eq!(copy.seen(), Revision::new(27));
}

#[test]
fn what_others_write_is_taken_as_not_there() {
    let (copy, told) = copy();
    copy.take(&[raw("/p/x", "k8s".into(), 11, 11)]);
    copy.take(&[put("/p/a", Value::stamped("<>", 1), 12, 12)]);
    copy.take(&[raw("/p/a", "k8s".into(), 12, 13)]);
    assert_eq!(
        *told.0.lock(),
        ["11 progressed", "12 Created /registry/a \"<12>\"", "13 Deleted /registry/a \"<13>\""]
    );
}

#[test]
fn a_write_whose_answer_is_lost_is_found_by_its_number() {
    let (copy, _) = copy();
    let (mut first, mut second, mut third) = (copy.begin(), copy.begin(), copy.begin());
    let stored = |id, text: &str| Stored { id, value: Value::plain(text.to_owned()) }.encode();
    copy.take(&[raw("/p/a", stored(first.id, "1"), 12, 12)]);
    assert_eq!(first.made().map(|entry| entry.modified), Some(Revision::new(12)));
    assert!(second.made().is_none());
    // It was made while nothing was heard of etcd.
    let mut listed = Listed { revision: Revision::new(30), ..Listed::default() };
    listed.add(&copy, vec![pair("/p/b", stored(second.id, "2"), 20, 20)]);
    copy.restore(listed);
    let made = second.made().map(|entry| (entry.created, entry.modified));
    assert_eq!(made, Some((Revision::new(20), Revision::new(20))));
    assert!(third.made().is_none());
    drop((first, second, third));
    assert!(copy.waiting.lock().is_empty());
}

#[test]
fn a_list_tells_of_what_is_not_ours() {
    let (copy, _) = copy();
    let mut listed = Listed::default();
    listed.add(&copy, vec![pair("/p/pods/x", "k8s\0".into(), 1, 1), pair("/p/.keelson/x", "".into(), 1, 1)]);
    assert_eq!((listed.foreign.as_deref(), listed.entries.len()), (Some("/p/pods/x"), 0));
}
