use std::fs;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

struct Log {
    path: PathBuf,
    running: Arc<AtomicBool>,
}

impl Log {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("keelson-logs-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Log { path: folder.join("0.log"), running: Arc::new(AtomicBool::new(true)) }
    }

    fn append(&self, text: &str) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn read(&self, parameters: &[(&str, &str)]) -> mpsc::Receiver<Result<Bytes, io::Error>> {
        let options = Options::parse(parameters.iter().copied()).unwrap();
        let running = Arc::clone(&self.running);
        let is_running: IsRunning = Box::new(move || {
            let running = running.load(Ordering::SeqCst);
            Box::pin(async move { running })
        });
        stream(self.path.clone(), options, is_running)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.path.parent().unwrap());
    }
}

/// Reads until the text has come, or the log's end.
async fn until(stream: &mut mpsc::Receiver<Result<Bytes, io::Error>>, expected: &str) {
    let mut found = String::new();
    while found.len() < expected.len() {
        let piece = stream.recv().await.expect("more of the log").unwrap();
        found.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_log_is_read_to_its_last_complete_line() {
    let log = Log::new("whole");
    log.append("T stdout F one\nT stdout F two\nT stdout F thr");
    let mut stream = log.read(&[]);
    until(&mut stream, "one\ntwo\n").await;
    assert!(stream.recv().await.is_none());
    let mut stream = log.read(&[("tailLines", "1")]);
    until(&mut stream, "two\n").await;
    assert!(stream.recv().await.is_none());
}

#[tokio::test]
async fn a_followed_log_goes_on_over_a_rotation_and_ends_with_its_container() {
    let log = Log::new("follow");
    log.append("T stdout F one\n");
    let mut stream = log.read(&[("follow", "true")]);
    until(&mut stream, "one\n").await;
    log.append("T stdout F tw");
    log.append("o\n");
    until(&mut stream, "two\n").await;
    let rotated = log.path.with_file_name("0.log.20260101-000000");
    fs::rename(&log.path, &rotated).unwrap();
    fs::OpenOptions::new().append(true).open(rotated).unwrap().write_all(b"T stdout F three\n").unwrap();
    log.append("T stdout F four\n");
    until(&mut stream, "three\nfour\n").await;
    log.running.store(false, Ordering::SeqCst);
    assert!(stream.recv().await.is_none());
}

#[tokio::test]
async fn a_log_that_is_not_there_yet_can_be_followed() {
    let log = Log::new("early");
    let mut stream = log.read(&[("follow", "true")]);
    log.append("T stderr F one\n");
    until(&mut stream, "one\n").await;
}
