//! The whole replicated store - openraft, log, state machine, sequencer, forwarding, changes of members - in one
//! thread, under a clock, a network and disks that follow from a seed.
//!
//! A run starts a member - alone and without peers for a while, or not - lets others join, lets clients write, delete and
//! read through all of them, and meanwhile lets messages be lost, doubled, delayed and overtaken, links be cut in one or
//! both directions, processes be killed, power fail at any write (what was not synced is there, not there, or there in
//! part), disks fill up and have room again, writes and flushes fail, states be saved at the same time, and members be
//! added, removed, replaced and handed the lead. Messages and entries cross the network as bytes, and whole states in
//! pieces. Each member's clock beats at a pace of its own, except in the runs in which leases are what reads rely on.
//! Whoever watches over the members starts those again that say that they have failed; if their disk has not, that is
//! a violation. After every step it holds:
//!
//! - all members show the same changes in the same order, without a gap, to those who follow them, and who puts a state
//!   together of what it was told has that of the member;
//! - what was acknowledged is at the revision that was told, and what was refused is nowhere;
//! - a read after a barrier shows all that was acknowledged before;
//! - each key behaves as a single register ([`history`]).
//!
//! Then the faults stop, and within a minute every member must write, and all must agree.
//!
//! `KEELSON_SEED=7 cargo test -p keelson-store --test simulation` runs one seed again;
//! `cargo run --release -p keelson-store --example simulate -- --seeds 1000000` runs many.

use std::time::Duration;

mod clients;
mod disk;
mod faults;
pub mod history;
mod network;
mod truth;
pub(crate) mod watch;
mod world;

/// No run takes as long, in the time of its world.
const LONGEST: Duration = Duration::from_secs(3_600);

/// What happened in a run that went well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Writes that were acknowledged.
    pub written: u64,
    /// Writes that were refused, or could not be made.
    pub not_written: u64,
    /// Writes of which the clients were told that nothing is known.
    pub unknown: u64,
    /// Reads of what was current.
    pub read: u64,
    /// How often a member was started.
    pub starts: u64,
    /// Members that were added and removed.
    pub changes: u64,
    /// Stands for all that happened: two runs of one seed have the same.
    pub digest: u64,
}

/// Runs one seed.
///
/// # Errors
/// What was violated, in words.
pub fn run(seed: u64) -> Result<Report, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    crate::raft::runtime::seed(seed);
    let outcome = runtime.block_on(async { tokio::time::timeout(LONGEST, world::run()).await });
    let outcome =
        outcome.unwrap_or_else(|_elapsed| Err("something is waited for that never comes".to_owned()));
    outcome.map_err(|violated| {
        format!("seed {seed}: {violated}\nrun it again: KEELSON_SEED={seed} cargo test -p keelson-store --test simulation")
    })
}
