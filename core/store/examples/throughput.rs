//! How many durable writes a second the store makes, and how long one takes: `cargo run --release -p keelson-store
//! --example throughput -- DIR [SECONDS]`. Prints a line of JSON for each number of clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keelson_store::raft_store::Config;
use keelson_store::{
    Change, Event, Key, Observer, Precondition, RaftStore, Revision, Snapshot, Store, Value, Write,
};

struct Nobody;

impl Observer for Nobody {
    fn restored(&self, _: &Snapshot) {}
    fn applied(&self, _: &[Event]) {}
    fn compacted(&self, _: Revision) {}
}

/// Writes values of 1 KiB for a while; says how long each took.
async fn client(store: Arc<RaftStore>, name: usize, until: Instant) -> Result<Vec<Duration>, String> {
    let mut times = Vec::new();
    let mut number = 0;
    while Instant::now() < until {
        number += 1;
        let key = Key::new(format!("/bench/{name}/{}", number % 1000)).map_err(|error| error.to_string())?;
        let change = Change::Put(Value::plain(vec![b'x'; 1024]));
        let began = Instant::now();
        let write = Write { key, precondition: Precondition::Any, change };
        store.write(write).await.map_err(|error| error.to_string())?;
        times.push(began.elapsed());
    }
    Ok(times)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("name a folder for the store")?;
    let seconds: u64 = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let store = RaftStore::open(Config::new(dir), Arc::new(Nobody)).await?;
    for clients in [1, 16, 64] {
        let until = Instant::now() + Duration::from_secs(seconds);
        let tasks = (0..clients).map(|name| tokio::spawn(client(Arc::clone(&store), name, until)));
        let mut times = Vec::new();
        for task in futures::future::join_all(tasks).await {
            times.extend(task??);
        }
        times.sort_unstable();
        let micros = |share: usize| times.get(times.len() * share / 1000).map_or(0, Duration::as_micros);
        println!(
            "{{\"clients\":{clients},\"writes_per_second\":{},\"p50_us\":{},\"p99_us\":{}}}",
            times.len() as u64 / seconds.max(1),
            micros(500),
            micros(990),
        );
    }
    store.close().await;
    Ok(())
}
