use pretty_assertions::assert_eq;

use super::*;

fn rotation(max_bytes: u64) -> Rotation {
    Rotation { max_bytes, ..Rotation::default() }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_full_file_is_put_aside_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/audit.log");
    let mut file = RotatingFile::open(path.clone(), rotation(20)).unwrap();
    for number in 0..10 {
        file.write(format!("line {number}\n").as_bytes()).unwrap();
    }
    assert!(file.write(&[b'x'; 21]).is_err());
    let names = files(path.parent().unwrap());
    assert_eq!(names.len(), 5, "{names:?}");
    let mut all: Vec<String> = Vec::new();
    for name in &names {
        let text = fs::read_to_string(path.with_file_name(name)).unwrap();
        assert!(text.len() <= 20);
        all.extend(text.lines().map(str::to_owned));
    }
    all.sort();
    assert_eq!(all, (0..10).map(|number| format!("line {number}")).collect::<Vec<_>>());
}

#[test]
fn a_start_goes_on_where_the_last_one_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    fs::write(&path, "whole\ntorn").unwrap();
    let mut file = RotatingFile::open(path.clone(), rotation(20)).unwrap();
    file.write(b"next\n").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "whole\ntorn\nnext\n");
    // What is there already counts.
    file.write(b"other\n").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "other\n");
}

#[test]
fn a_write_that_fails_leaves_no_part_of_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut file = RotatingFile::open(path.clone(), rotation(1 << 20)).unwrap();
    file.write(b"one\n").unwrap();
    // A handle that cannot write stands for a disk that is full.
    file.file = Some(File::open(&path).unwrap());
    assert!(file.write(b"two\n").is_err());
    assert!(file.file.is_none());
    file.write(b"three\n").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "one\nthree\n");
}

#[test]
fn old_files_go_by_number_and_by_age_and_the_others_are_compressed() {
    let name = Name::of(Path::new("/var/log/audit.log"));
    let now = at("2026-11-21T10:00:00Z");
    let list = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let names = list(&[
        "audit.log",
        "audit-2026-11-21T09-00-00.000.log",
        "audit-2026-11-20T09-00-00.500.log.gz",
        "audit-2026-11-19T09-00-00.000.log",
        "audit-2026-11-19T09-00-00.000.log.gz",
        "audit-2026-11-18T09-00-00.000.log.gz",
        "audit-2026-11-17T09-00-00.000.log.gz.tmp",
        "audit-other.log",
        "audit-2026-11-01.log",
    ]);
    let plan = |max_backups, max_age_days, compress| {
        name.plan(&names, &Rotation { max_backups, max_age_days, compress, max_bytes: 1 }, now)
    };
    let always = ["audit-2026-11-17T09-00-00.000.log.gz.tmp", "audit-2026-11-19T09-00-00.000.log"];
    assert_eq!(plan(0, 0, false), Plan { remove: list(&always), compress: Vec::new() });
    let compressed = plan(0, 0, true);
    assert_eq!(compressed.compress, ["audit-2026-11-21T09-00-00.000.log"]);
    assert_eq!(
        plan(1, 0, false).remove[2..],
        list(&[
            "audit-2026-11-20T09-00-00.500.log.gz",
            "audit-2026-11-19T09-00-00.000.log.gz",
            "audit-2026-11-18T09-00-00.000.log.gz"
        ])
    );
    assert_eq!(plan(0, 3, false).remove[2..], list(&["audit-2026-11-18T09-00-00.000.log.gz"]));
}

#[test]
fn a_file_that_was_put_aside_is_compressed_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let plain = "audit-2026-11-21T09-00-00.000.log";
    fs::write(dir.path().join(plain), "a\nb\n").unwrap();
    let rotation = Rotation { compress: true, ..Rotation::default() };
    tidy(&path, &rotation, at("2026-11-21T10:00:00Z")).unwrap();
    assert_eq!(files(dir.path()), [format!("{plain}.gz")]);
    let mut text = String::new();
    let file = File::open(dir.path().join(format!("{plain}.gz"))).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    assert_eq!(text, "a\nb\n");
}

#[test]
fn a_name_tells_when_its_file_was_put_aside() {
    let name = Name::of(Path::new("audit"));
    assert_eq!(name.aside(at("2026-11-21T10:00:00.0419Z")), "audit-2026-11-21T10-00-00.041");
    let planned = name.plan(
        &["audit-2026-11-21T10-00-00.041".to_owned()],
        &Rotation { max_age_days: 1, ..Rotation::default() },
        at("2026-12-21T10:00:00Z"),
    );
    assert_eq!(planned.remove, ["audit-2026-11-21T10-00-00.041"]);
}
