//! The replicated store under faults that follow from a seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use keelson_store::simulation;

/// Seeds of the usual run, over two threads.
const SEEDS: u64 = 32;
/// Seeds that have found something.
const KEPT: [u64; 6] = [12, 17, 607, 666, 3_000_448, 5_005_794];

#[test]
fn whatever_fails_nothing_acknowledged_is_lost_and_nothing_stale_is_current() {
    if let Ok(seed) = std::env::var("KEELSON_SEED") {
        // `RUST_LOG` shows what goes on.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
        println!("{:?}", simulation::run(seed.parse().unwrap()).unwrap());
        return;
    }
    let halves = [0, 1].map(|half| {
        std::thread::spawn(move || {
            let run = |seed| simulation::run(seed).unwrap_or_else(|violated| panic!("{violated}"));
            (0..SEEDS).chain(KEPT).filter(|seed| seed % 2 == half).map(run).collect::<Vec<_>>()
        })
    });
    let reports: Vec<_> = halves.into_iter().flat_map(|half| half.join().unwrap()).collect();
    // The runs are worth something.
    let sum = |of: fn(&simulation::Report) -> u64| reports.iter().map(of).sum::<u64>();
    assert!(sum(|report| report.written) > 20 * SEEDS);
    assert!(sum(|report| report.read) > 20 * SEEDS);
    assert!(sum(|report| report.starts) > 3 * SEEDS);
    assert!(sum(|report| report.changes) > SEEDS / 8);
}

#[test]
fn one_seed_is_one_run() {
    for seed in [3, 4] {
        assert_eq!(simulation::run(seed).unwrap(), simulation::run(seed).unwrap());
    }
}
