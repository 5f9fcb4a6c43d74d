//! Measures the store against etcd, on the same machine in the same run: durable writes, the death of a leader, a great
//! many keys. Prints a JSON line per measurement, `{"measurement":NAME,"value":NUMBER,"unit":UNIT}`, and tables on the
//! error output.
//!
//! ```text
//! cargo run --release -p keelson-e2e --bin bench_store                # as root, about a quarter of an hour
//! cargo run --release -p keelson-e2e --bin bench_store -- --short     # about a minute
//! ```
//!
//! Each server runs on a machine of its own - a network namespace with a leg on a bridge - and all keep their state on one
//! file system. Each client has a connection of its own. What is on both sides of a comparison is said in
//! `e2e/README.md`.

mod api;
mod capacity;
mod client;
mod etcd;
mod failover;
mod load;
mod system;
mod table;
mod throughput;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use keelson_e2e::binary;
use keelson_e2e::measure::tell;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::system::Kind;

#[derive(Parser)]
#[command(about = "Measures the store against etcd on this machine")]
struct Flags {
    /// The folder whose disk the servers write to; the one for temporary files otherwise.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What takes about a minute: shorter loads, 2 rounds, 20000 keys. Other flags still count.
    #[arg(long)]
    short: bool,
    /// What is measured, with commas; all of it otherwise.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PARTS")]
    only: Vec<Part>,
    /// Which systems, with commas; all otherwise.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SYSTEMS")]
    systems: Vec<Kind>,
    /// Of how many members the systems are that durable writes are made to.
    #[arg(long, value_delimiter = ',', default_value = "1,3", value_name = "NUMBERS")]
    members: Vec<usize>,
    /// How many clients make durable writes at once.
    #[arg(long, value_delimiter = ',', default_value = "1,16,128", value_name = "NUMBERS")]
    clients: Vec<usize>,
    /// For how many seconds each load is measured: 4, or 0.5.
    #[arg(long)]
    seconds: Option<f64>,
    /// How often a leader is killed: 50 times, or 2.
    #[arg(long)]
    rounds: Option<usize>,
    /// How many keys there are many of: 1000000, or 20000.
    #[arg(long)]
    keys: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Durable writes a second.
    Throughput,
    /// The death of a leader.
    Failover,
    /// A great many keys.
    Capacity,
}

/// What a key may take on the disks of three members, in bytes.
const ROOM_OF_A_KEY: u64 = 10_000;

fn room_of(folder: &Path) -> anyhow::Result<u64> {
    let file_system = statfs(folder).with_context(|| format!("look at {}", folder.display()))?;
    Ok(file_system.blocks_available() * u64::try_from(file_system.block_size())?)
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let folder = flags.dir.unwrap_or_else(std::env::temp_dir);
    let file_system = statfs(&folder).with_context(|| format!("look at {}", folder.display()))?;
    if file_system.filesystem_type() == TMPFS_MAGIC {
        eprintln!("{} is in memory: nothing there is durable; name a folder with --dir", folder.display());
    }
    tell("version of etcd", etcd::version()?, "");
    tell("binary of keelson", binary()?.display().to_string(), "");
    tell("processors", std::thread::available_parallelism()?.get(), "");
    tell("file system", format!("{:#x}", file_system.filesystem_type().0), "magic number");
    let text = client::Text::new();
    let measured = flags.seconds.unwrap_or(if flags.short { 0.5 } else { 4.0 });
    let measured = Duration::try_from_secs_f64(measured).context("--seconds")?;
    let times = load::Times { warm: measured / 4, measured };
    let systems = if flags.systems.is_empty() { Kind::value_variants().to_vec() } else { flags.systems };
    let wanted = |part| flags.only.is_empty() || flags.only.contains(&part);
    if wanted(Part::Throughput) {
        let (members, clients) = (&flags.members, &flags.clients);
        let plan = throughput::Plan { systems: &systems, members, clients, times };
        throughput::measure(&folder, &text, &plan)?;
    }
    if wanted(Part::Failover) {
        let rounds = flags.rounds.unwrap_or(if flags.short { 2 } else { 50 });
        failover::measure(&folder, &text, rounds, &systems)?;
    }
    if wanted(Part::Capacity) {
        let keys = flags.keys.unwrap_or(if flags.short { 20_000 } else { 1_000_000 });
        let (free, needed) = (room_of(&folder)?, keys * ROOM_OF_A_KEY);
        ensure!(
            free >= needed,
            "{} has {free} bytes free, and {keys} keys on three members take up to {needed}",
            folder.display()
        );
        capacity::measure(&folder, &text, keys, !flags.short, &systems)?;
    }
    Ok(())
}
