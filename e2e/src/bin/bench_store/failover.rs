//! How long nothing is written when the leader of three is killed.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use keelson_e2e::LONG;
use keelson_e2e::measure::{milliseconds, percentile, tell};
use keelson_store::raft_store::Timing;
use nix::unistd::Pid;

use crate::client::{Client, Target, Text};
use crate::etcd;
use crate::load::Shared;
use crate::system::{Kind, System, on_the_network};
use crate::table::Table;

const MEMBERS: usize = 3;
/// A new write is sent so often, to the remaining servers in turn, whatever becomes of those before it.
const BETWEEN_WRITES: Duration = Duration::from_millis(10);
/// After which time a write is given up, and after which all are.
const ONE: Duration = Duration::from_secs(2);
const ALL: Duration = Duration::from_secs(60);

/// Measures so many rounds of each kind.
pub(crate) fn measure(
    folder: &Path,
    text: &Arc<Text>,
    rounds: usize,
    systems: &[Kind],
) -> anyhow::Result<()> {
    let head = ["system", "heartbeat ms", "election timeout ms", "rounds", "median ms", "p90 ms", "worst ms"];
    let mut table = Table::new(&head);
    let mut result = Ok(());
    for kind in systems.iter().copied().filter(|kind| *kind != Kind::OnEtcd) {
        result = one(kind, folder, text, rounds, &mut table);
        if result.is_err() {
            break;
        }
    }
    table.print("Leader of 3 killed with kill -9, to the next acknowledged write");
    result
}

fn one(kind: Kind, folder: &Path, text: &Arc<Text>, rounds: usize, table: &mut Table) -> anyhow::Result<()> {
    let mut system = System::start(kind, MEMBERS, folder)?;
    let targets = system.targets()?;
    let shared = Shared::new(text);
    let mut times = Vec::new();
    for round in 0..rounds {
        let leader = system.leader()?;
        let time = round_of(&mut system, &targets, leader, &shared)
            .with_context(|| format!("round {round} of {}", kind.title()))?;
        times.push(time);
    }
    times.sort_unstable();
    let timing = Timing::default();
    let (heartbeat, election) = match kind {
        Kind::Keelson | Kind::OnEtcd => (timing.heartbeat, timing.election_timeout),
        Kind::Etcd => (etcd::HEARTBEAT, etcd::ELECTION_TIMEOUT),
    };
    let name = format!("leader of 3 killed to next write, {}", kind.title());
    tell(&format!("{name}: heartbeat"), milliseconds(heartbeat), "ms");
    tell(&format!("{name}: election timeout"), milliseconds(election), "ms");
    let mut cells = vec![kind.title().to_owned()];
    cells.extend([heartbeat, election].map(|time| time.as_millis().to_string()));
    cells.push(times.len().to_string());
    for (title, share) in [("median", 0.5), ("p90", 0.9), ("worst", 1.0)] {
        let time = percentile(&times, share);
        tell(&format!("{name}: {title} of {}", times.len()), milliseconds(time), "ms");
        cells.push(time.as_millis().to_string());
    }
    table.row(cells);
    Ok(())
}

/// Kills the leader, waits for a write, and brings the killed one back.
fn round_of(
    system: &mut System,
    targets: &[Target],
    leader: usize,
    shared: &Shared,
) -> anyhow::Result<Duration> {
    let process = system.process(leader)?;
    let remaining: Vec<&Target> =
        targets.iter().enumerate().filter(|(number, _)| *number != leader).map(|(_, it)| it).collect();
    let time = on_the_network(system.network(), || async {
        let mut clients = Vec::new();
        for target in remaining {
            let mut client = target.connect().await?;
            shared.put(&mut client).await.context("write before the leader is killed")?;
            clients.push(client);
        }
        until_acknowledged(process, clients, shared).await
    })?;
    system.bury(leader)?;
    system.start_again(leader)?;
    on_the_network(system.network(), || async {
        targets[leader].answers(0, LONG).await?;
        // A member answers a write when it has applied it itself, with all that was before it.
        let mut client = targets[leader].connect().await?;
        shared.put(&mut client).await.context("write through the server that is back")
    })?;
    Ok(time)
}

async fn until_acknowledged(process: Pid, clients: Vec<Client>, shared: &Shared) -> anyhow::Result<Duration> {
    let mut writes = FuturesUnordered::new();
    let mut ticks = tokio::time::interval(BETWEEN_WRITES);
    let mut last = None;
    let mut turn = 0;
    let since = Instant::now();
    System::kill(process)?;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                turn += 1;
                let mut client = clients[turn % clients.len()].clone();
                writes.push(async move { tokio::time::timeout(ONE, shared.put(&mut client)).await });
            }
            Some(outcome) = writes.next() => match outcome {
                Ok(Ok(())) => return Ok(since.elapsed()),
                Ok(Err(error)) => last = Some(error),
                Err(_) => {}
            },
        }
        if since.elapsed() > ALL {
            let said = last.unwrap_or_else(|| anyhow::anyhow!("no server answers"));
            return Err(said.context(format!("nothing was written for {ALL:?}")));
        }
    }
}
