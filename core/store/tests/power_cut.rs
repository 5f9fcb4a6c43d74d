//! Loss of power: the store lies on a file system in an image, and the image is copied at moments while it is written.
//! What the kernel had not brought to the image by then is lost to the copy, as it would be to a disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keelson_store::raft_store::Config;
use keelson_store::{
    Change, Event, Key, Observer, Precondition, RaftStore, Revision, Snapshot, Store, Value, Write,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const STORE: &str = "KEELSON_POWER_CUT_STORE";
const ACKNOWLEDGED: &str = "KEELSON_POWER_CUT_ACKNOWLEDGED";
const CUTS: usize = 6;

struct Nobody;

impl Observer for Nobody {
    fn restored(&self, _: &Snapshot) {}
    fn applied(&self, _: &[Event]) {}
    fn compacted(&self, _: Revision) {}
}

async fn open(dir: &Path) -> Arc<RaftStore> {
    let config = Config {
        segment_bytes: 1 << 20,
        checkpoint_after_bytes: 1 << 20,
        snapshot_after_bytes: 3 << 20,
        ..Config::new(dir)
    };
    RaftStore::open(config, Arc::new(Nobody)).await.unwrap()
}

/// Not a test of its own: writes until it is killed, and says in another place what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_writes_until_the_power_is_cut() {
    let (Ok(dir), Ok(file)) = (std::env::var(STORE), std::env::var(ACKNOWLEDGED)) else { return };
    let store = open(&Path::new(&dir).join("store")).await;
    let acknowledged = Arc::new(OpenOptions::new().append(true).open(file).unwrap());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4u64 {
        let (store, acknowledged) = (Arc::clone(&store), Arc::clone(&acknowledged));
        let unsynced = Path::new(&dir).join("unsynced");
        let unsynced = OpenOptions::new().create(true).append(true).open(unsynced).unwrap();
        writers.spawn(async move {
            for number in 0u64.. {
                let bytes = if number % 10 == 3 { 40_000 } else { 300 };
                let write = Write {
                    key: Key::new(format!("/w{writer}-{}", number % 40)).unwrap(),
                    precondition: Precondition::Any,
                    change: Change::Put(Value::plain(vec![b'x'; bytes])),
                };
                let entry = store.write(write.clone()).await.unwrap();
                // One write, so that no line is torn.
                (&*acknowledged).write_all(format!("{} {}\n", write.key, entry.modified).as_bytes()).unwrap();
                if writer == 0 {
                    (&unsynced).write_all(format!("{number}\n").as_bytes()).unwrap();
                }
            }
        });
    }
    while writers.join_next().await.is_some() {}
}

/// An image that is mounted until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn mount(image: &Path, at: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&at)).map(|()| Mounted(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(&self.0)) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

/// Killed when it is dropped, so that what it holds can be unmounted.
struct Writer(Child);

impl Writer {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    /// Stops it, and waits until none of its threads is in the middle of a call.
    fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.0.id());
        let stands = |path: PathBuf| {
            let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        };
        while !fs::read_dir(&tasks).unwrap().flatten().all(|task| stands(task.path())) {
            std::thread::yield_now();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}

/// An image with an empty file system, mounted; or why that is not possible here.
fn disk(dir: &Path) -> Result<(PathBuf, Mounted), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("only root may mount an image".to_owned());
    }
    let image = dir.join("image");
    File::create(&image).and_then(|file| file.set_len(160 << 20)).map_err(|error| error.to_string())?;
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
    let mounted = Mounted::mount(&image, dir.join("disk"))?;
    Ok((image, mounted))
}

#[test]
fn every_acknowledged_write_survives_a_loss_of_power_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (image, disk) = match disk(dir.path()) {
        Ok(disk) => disk,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let file = dir.path().join("acknowledged");
    File::create(&file).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_writes_until_the_power_is_cut", "--nocapture"])
        .env(STORE, &disk.0)
        .env(ACKNOWLEDGED, &file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut writer = Writer(child);
    let (mut lost, mut seen) = (0, 0);
    for cut in 1..=CUTS {
        // A different number of acknowledgements before each cut; a writer that has ended has failed.
        let wanted = seen + 4_000 * cut as u64 + 137;
        let until = Instant::now() + Duration::from_secs(120);
        while fs::metadata(&file).unwrap().len() < wanted {
            assert!(writer.0.try_wait().unwrap().is_none(), "the writer has ended");
            assert!(Instant::now() < until, "too little was acknowledged before cut {cut}");
            std::thread::yield_now();
        }
        writer.stop();
        let copy = dir.path().join("copy");
        run(Command::new("cp").arg("--sparse=always").arg(&image).arg(&copy)).unwrap();
        let lines = fs::read_to_string(&file).unwrap();
        let newest = fs::read_to_string(disk.0.join("unsynced")).unwrap_or_default();
        writer.signal(Signal::SIGCONT);
        seen = lines.len() as u64;
        let mut acknowledged: BTreeMap<&str, u64> = BTreeMap::new();
        for line in lines.lines() {
            let (key, revision) = line.split_once(' ').unwrap();
            let newest = acknowledged.entry(key).or_default();
            *newest = revision.parse::<u64>().unwrap().max(*newest);
        }
        let after = Mounted::mount(&copy, dir.path().join("after")).unwrap();
        lost += usize::from(fs::read_to_string(after.0.join("unsynced")).unwrap_or_default() != newest);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = open(&after.0.join("store")).await;
            let state = store.snapshot();
            for (key, revision) in &acknowledged {
                let held = state.get(&Key::new(key).unwrap()).map(|entry| entry.modified.get());
                assert!(
                    held >= Some(*revision),
                    "{key}: {held:?} after cut {cut}, {revision} was acknowledged"
                );
            }
            store.close().await;
        });
        drop(runtime);
        drop(after);
        fs::remove_file(copy).unwrap();
    }
    drop(writer);
    println!("{CUTS} cuts, {} bytes of acknowledgements, {lost} times what was not flushed was lost", seen);
    assert!(lost > 0, "the cuts lose nothing, so that they prove nothing");
}
