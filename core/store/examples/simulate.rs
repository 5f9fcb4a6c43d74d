//! Runs seeds of the simulation until one fails: `cargo run --release -p keelson-store --example simulate -- --seeds N
//! [--from SEED] [--threads N]`. Says how far it is, and what failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keelson_store::simulation;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `RUST_LOG` shows what goes on.
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(Ok(default), |value| value.parse())
    };
    let (seeds, from) = (option("--seeds", 1_000)?, option("--from", 0)?);
    let threads = option("--threads", std::thread::available_parallelism()?.get() as u64)?;
    let next = Arc::new(AtomicU64::new(0));
    let workers = (0..threads).map(|_| {
        let next = Arc::clone(&next);
        std::thread::spawn(move || {
            let mut failed = 0;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= seeds {
                    return failed;
                }
                if let Err(violated) = simulation::run(from + number) {
                    println!("{violated}");
                    failed += 1;
                }
                if number % 1_000 == 999 {
                    println!("{} seeds", number + 1);
                }
            }
        })
    });
    let workers: Vec<_> = workers.collect();
    let mut failed: u64 = 0;
    for worker in workers {
        failed += worker.join().map_err(|_| "a thread has panicked")?;
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} of {seeds} seeds failed").into()) }
}
