//! How many durable writes a second there are, and how long one takes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use keelson_e2e::measure::tell;
use keelson_store::raft_store::Config;
use keelson_store::{RaftStore, Store};

use crate::client::{Client, Nobody, Target, Text};
use crate::load::{self, Outcome, Shared, Times};
use crate::system::{Kind, System, on_the_network};
use crate::table::Table;

/// What is measured: each system with each number of members and of clients.
pub(crate) struct Plan<'a> {
    pub(crate) systems: &'a [Kind],
    pub(crate) members: &'a [usize],
    pub(crate) clients: &'a [usize],
    pub(crate) times: Times,
}

/// Measures all of a plan, one after the other.
pub(crate) fn measure(folder: &Path, text: &Arc<Text>, plan: &Plan<'_>) -> anyhow::Result<()> {
    let head =
        ["members", "system", "asked", "clients", "writes/s", "p50 ms", "p99 ms", "worst ms", "CPU µs/write"];
    let mut table = Table::new(&head);
    let result = plan.all(folder, text, &mut table);
    table.print("Durable writes of 1 KiB");
    result
}

impl Plan<'_> {
    fn all(&self, folder: &Path, text: &Arc<Text>, table: &mut Table) -> anyhow::Result<()> {
        if self.systems.contains(&Kind::Keelson) && self.members.contains(&1) {
            self.store_alone(folder, text, table)?;
        }
        for members in self.members {
            for kind in self.systems {
                self.one(*kind, *members, folder, text, table)
                    .with_context(|| format!("measure {} with {members} members", kind.title()))?;
            }
        }
        Ok(())
    }

    /// The store in this process, with nothing around it.
    fn store_alone(&self, folder: &Path, text: &Arc<Text>, table: &mut Table) -> anyhow::Result<()> {
        let dir = tempfile::Builder::new().prefix("keelson-e2e-").tempdir_in(folder)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let store = RaftStore::open(Config::new(dir.path()), Arc::new(Nobody)).await?;
            let shared = Shared::new(text);
            for clients in self.clients.iter().copied() {
                let connections = (0..clients).map(|_| vec![Client::Store(Arc::clone(&store))]).collect();
                let outcome = load::run(connections, &shared, self.times).await?;
                Row { members: 1, system: "Keelson's store alone", asked: "in process", clients }
                    .tell(&outcome, None, table);
            }
            store.close().await;
            Ok(())
        })
    }

    fn one(
        &self,
        kind: Kind,
        members: usize,
        folder: &Path,
        text: &Arc<Text>,
        table: &mut Table,
    ) -> anyhow::Result<()> {
        let system = System::start(kind, members, folder)?;
        let shared = Shared::new(text);
        let all = system.targets()?;
        let mut asked: Vec<(&str, Vec<Target>)> = vec![("leader", vec![all[system.leader()?].clone()])];
        if members > 1 {
            asked.push(("all", all));
        }
        for (asked, targets) in asked {
            for clients in self.clients.iter().copied() {
                let before = system.processor_time()?;
                let outcome = on_the_network(system.network(), || async {
                    let connections = load::connect(&targets, clients).await?;
                    load::run(connections, &shared, self.times).await
                })?;
                let used = system.processor_time()?.saturating_sub(before);
                Row { members, system: kind.title(), asked, clients }.tell(&outcome, Some(used), table);
            }
        }
        Ok(())
    }
}

struct Row<'a> {
    members: usize,
    system: &'a str,
    asked: &'a str,
    clients: usize,
}

impl Row<'_> {
    /// Says what came of a load for which the servers used so much processor time.
    fn tell(&self, outcome: &Outcome, used: Option<Duration>, table: &mut Table) {
        let Row { members, system, asked, clients } = self;
        let name = format!("put: {members} members, {system}, asked {asked}, {clients} clients");
        tell(&name, outcome.per_second(), "1/s");
        let mut cells =
            vec![members.to_string(), (*system).to_owned(), (*asked).to_owned(), clients.to_string()];
        cells.push(outcome.per_second().to_string());
        for (title, share) in [("p50", 0.5), ("p99", 0.99), ("worst", 1.0)] {
            let time = (outcome.percentile(share).as_secs_f64() * 1e5).round() / 100.0;
            // Where the measured time was too short for a single write, nothing is known.
            let known = (!outcome.times.is_empty()).then_some(time);
            tell(&format!("{name}, {title}"), known, "ms");
            cells.push(known.map_or_else(|| "-".to_owned(), |time| format!("{time:.2}")));
        }
        if let Some(used) = used {
            let each = (used.as_secs_f64() * 1e6 / outcome.all.max(1) as f64).round();
            tell(&format!("{name}, processor time of all servers per write"), each, "us");
            cells.push(each.to_string());
        } else {
            cells.push("-".to_owned());
        }
        if outcome.failed > 0 {
            tell(&format!("{name}, failed"), outcome.failed, "writes");
        }
        table.row(cells);
    }
}
