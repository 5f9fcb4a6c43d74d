use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::volume::payload;

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("keelson-writer-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn payload(files: &[(&str, &str)]) -> Payload {
    let mut out = Payload::default();
    for (path, text) in files {
        let file = payload::File { content: text.as_bytes().to_vec(), mode: 0o640, user: None };
        out.put(path, file).unwrap();
    }
    out
}

fn names(folder: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<String> = entries.filter(|name| !name.starts_with("..2")).collect();
    found.sort();
    found
}

#[test]
fn files_are_seen_through_one_link_that_is_exchanged() {
    let folder = folder("exchange");
    assert!(write(&folder, &payload(&[("a", "1"), ("deep/b", "2")]), None).unwrap());
    assert_eq!(names(&folder), ["..data", "a", "deep"]);
    assert_eq!(fs::read_to_string(folder.join("deep/b")).unwrap(), "2");
    assert_eq!(fs::read_link(folder.join("a")).unwrap(), Path::new("..data/a"));
    assert_eq!(fs::metadata(folder.join("a")).unwrap().mode() & 0o777, 0o640);
    let first = fs::read_link(folder.join("..data")).unwrap();

    assert!(write(&folder, &payload(&[("a", "3"), ("c", "4")]), None).unwrap());
    assert_eq!(names(&folder), ["..data", "a", "c"]);
    assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "3");
    assert!(!folder.join(first).exists());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_same_files_are_not_written_again() {
    let folder = folder("same");
    let files = payload(&[("a", "1")]);
    assert!(write(&folder, &files, None).unwrap());
    let first = fs::read_link(folder.join("..data")).unwrap();
    assert!(!write(&folder, &files, None).unwrap());
    assert_eq!(fs::read_link(folder.join("..data")).unwrap(), first);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_a_crash_left_is_made_good() {
    let folder = folder("crash");
    let files = payload(&[("a", "1")]);
    symlink("..2020_gone", folder.join("..data")).unwrap();
    symlink("..2020_gone", folder.join("..data_tmp")).unwrap();
    fs::create_dir(folder.join("..2020_left")).unwrap();
    assert!(write(&folder, &files, None).unwrap());
    fs::remove_file(folder.join("a")).unwrap();
    assert!(!write(&folder, &files, None).unwrap());
    assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "1");
    assert_eq!(names(&folder), ["..data", "a"]);
    assert!(!folder.join("..2020_left").exists());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_empty_payload_is_an_empty_volume() {
    let folder = folder("empty");
    write(&folder, &payload(&[("a", "1")]), None).unwrap();
    assert!(write(&folder, &Payload::default(), None).unwrap());
    assert_eq!(names(&folder), ["..data"]);
    assert!(!write(&folder, &Payload::default(), None).unwrap());
    fs::remove_dir_all(folder).unwrap();
}
