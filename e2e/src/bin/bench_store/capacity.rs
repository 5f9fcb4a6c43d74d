//! What a great many keys cost: memory, room on the disk, the time to start again and the time until others have them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use keelson_e2e::LONG;
use keelson_e2e::measure::{megabytes, memory, room, size, tell};

use crate::client::{Text, VALUE_BYTES};
use crate::load;
use crate::system::{Kind, System, on_the_network};
use crate::table::Table;

const CLIENTS: usize = 64;
/// What a server does in the background after many writes is done by then; both give memory back when they are at rest.
const REST: Duration = Duration::from_secs(35);
/// Members join until there are so many.
const MEMBERS: usize = 3;

/// What is told of one kind: names, values and units.
type Facts = Vec<(String, f64, &'static str)>;

/// Measures each kind with so many keys.
pub(crate) fn measure(
    folder: &Path,
    text: &Arc<Text>,
    keys: u64,
    rest: bool,
    systems: &[Kind],
) -> anyhow::Result<()> {
    let rest = if rest { REST } else { Duration::from_secs(1) };
    let mut columns = Vec::new();
    let mut result = Ok(());
    for kind in systems.iter().copied().filter(|kind| *kind != Kind::OnEtcd) {
        let mut facts = Facts::new();
        result = one(kind, folder, text, keys, rest, &mut facts);
        columns.push((kind, facts));
        if result.is_err() {
            break;
        }
    }
    let mut head = vec!["what", "unit"];
    head.extend(columns.iter().map(|(kind, _)| kind.title()));
    let mut table = Table::new(&head);
    for (row, (name, _, unit)) in columns.first().map(|it| &it.1).into_iter().flatten().enumerate() {
        let mut cells = vec![name.clone(), (*unit).to_owned()];
        cells.extend(
            columns.iter().map(|(_, facts)| facts.get(row).map_or("-".to_owned(), |it| it.1.to_string())),
        );
        table.row(cells);
    }
    table.print(&format!(
        "{keys} keys of 1 KiB, that is {} MB of values",
        megabytes(keys * VALUE_BYTES as u64)
    ));
    result
}

struct Telling<'a> {
    kind: Kind,
    keys: u64,
    facts: &'a mut Facts,
}

impl Telling<'_> {
    fn tell(&mut self, name: &str, value: f64, unit: &'static str) {
        tell(&format!("{} keys, {}: {name}", self.keys, self.kind.title()), value, unit);
        self.facts.push((name.to_owned(), value, unit));
    }

    fn seconds(&mut self, name: &str, time: Duration) {
        self.tell(name, (time.as_secs_f64() * 100.0).round() / 100.0, "s");
    }

    fn memory(&mut self, when: &str, system: &System, number: usize) -> anyhow::Result<()> {
        let memory = memory(system.process(number)?);
        self.tell(&format!("memory (RSS) {when}"), megabytes(memory.resident), "MB");
        self.tell(&format!("most memory ever {when}"), megabytes(memory.peak), "MB");
        Ok(())
    }
}

fn one(
    kind: Kind,
    folder: &Path,
    text: &Arc<Text>,
    keys: u64,
    rest: Duration,
    facts: &mut Facts,
) -> anyhow::Result<()> {
    let mut telling = Telling { kind, keys, facts };
    let mut system = System::start(kind, 1, folder)?;
    let target = system.target(0)?;
    telling.tell("memory (RSS) without them", megabytes(memory(system.process(0)?).resident), "MB");
    let since = Instant::now();
    on_the_network(system.network(), || load::fill(&target, text, keys, CLIENTS))
        .with_context(|| format!("write {keys} keys"))?;
    let filled = since.elapsed();
    telling.tell("written with 64 clients", (keys as f64 / filled.as_secs_f64()).round(), "1/s");
    std::thread::sleep(rest);
    telling.memory("with them", &system, 0)?;
    telling.tell("on the disk, room", megabytes(room(&system.folder(0))?), "MB");
    telling.tell("on the disk, bytes in files", megabytes(size(&system.folder(0))?), "MB");

    System::kill(system.process(0)?)?;
    system.bury(0)?;
    let since = Instant::now();
    system.start_again(0)?;
    let found = on_the_network(system.network(), || async { target.answers(keys, LONG * 5).await })?;
    ensure!(found, "the last key is missing after the restart");
    telling.seconds("start after kill -9 until a key is read", since.elapsed());
    std::thread::sleep(rest);
    telling.memory("after the start", &system, 0)?;

    for number in 1..MEMBERS {
        let mut joined = system.join().with_context(|| format!("member {} joins", number + 1))?;
        let target = system.target(number)?;
        let since = Instant::now();
        let found = on_the_network(system.network(), || async { target.answers(keys, LONG * 5).await })?;
        ensure!(found, "the last key is missing on a member that votes");
        joined += since.elapsed();
        telling
            .seconds(&format!("member {} joins until it votes and a key is read there", number + 1), joined);
    }
    telling.memory("of member 1 after the others have joined", &system, 0)?;
    telling.memory("of member 3", &system, MEMBERS - 1)?;
    telling.tell("on the disk of member 3, room", megabytes(room(&system.folder(MEMBERS - 1))?), "MB");
    Ok(())
}
