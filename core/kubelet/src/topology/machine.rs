//! The memory nodes of the machine, as the kernel has them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::mask::Mask;
use crate::exclusive_cpus::{Cpus, parse};

/// How many nodes a machine may have unless its owner says otherwise.
pub(crate) const USUAL_NODES: usize = 8;
/// How many it may have at all: sets of more are too many to look at.
pub(crate) const MOST_NODES: u32 = 16;

const NODES: &str = "/sys/devices/system/node";

/// One memory node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) cpus: Cpus,
    /// Main memory, in bytes.
    pub(crate) memory: u64,
    /// Bytes in huge pages, by the resource's name.
    pub(crate) huge_pages: BTreeMap<String, u64>,
    /// To each node, itself too.
    pub(crate) distances: BTreeMap<u32, u32>,
}

/// All of them, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NumaMachine(pub(crate) BTreeMap<u32, Node>);

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn huge_pages(folder: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(folder.join("hugepages")).into_iter().flatten().flatten();
    let one = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let kibibytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = number(&entry.path().join("nr_hugepages"))?;
        Some((crate::node::machine::huge_page_name(kibibytes), count * (kibibytes << 10)))
    };
    entries.filter_map(one).collect()
}

fn node(folder: &Path, numbers: &[u32]) -> Option<Node> {
    let text = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let memory = text("meminfo")?;
    let memory = memory.lines().find_map(|line| line.split_once("MemTotal:"))?.1;
    let kibibytes: u64 = memory.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let distances = text("distance").unwrap_or_default();
    let distances = distances.split_whitespace().filter_map(|one| one.parse().ok());
    Some(Node {
        cpus: parse(&text("cpulist")?)?,
        memory: kibibytes << 10,
        huge_pages: huge_pages(folder),
        distances: numbers.iter().copied().zip(distances).collect(),
    })
}

impl NumaMachine {
    /// Reads them. A kernel that knows of none has one.
    pub(crate) fn read() -> Self {
        let online = fs::read_to_string(Path::new(NODES).join("online")).unwrap_or_default();
        let numbers: Vec<u32> = parse(&online).unwrap_or_default().into_iter().collect();
        let one =
            |number: u32| Some((number, node(&Path::new(NODES).join(format!("node{number}")), &numbers)?));
        let found: BTreeMap<u32, Node> = numbers.iter().filter_map(|number| one(*number)).collect();
        if !found.is_empty() {
            return NumaMachine(found);
        }
        let memory = crate::node::machine::memory().map_or(0, |memory| memory.total);
        let huge_pages = crate::node::machine::huge_pages().into_iter().collect();
        NumaMachine(BTreeMap::from([(0, Node { memory, huge_pages, ..Node::default() })]))
    }

    /// Their numbers.
    pub(crate) fn nodes(&self) -> Vec<u32> {
        self.0.keys().copied().collect()
    }

    /// The node of a processor.
    pub(crate) fn of_cpu(&self, cpu: u32) -> u32 {
        let first = self.0.keys().next().copied().unwrap_or(0);
        self.0.iter().find(|(_, node)| node.cpus.contains(&cpu)).map_or(first, |(number, _)| *number)
    }

    /// How far nodes are from each other: all distances among them together. Sets of the same size compare.
    pub(super) fn spread(&self, mask: Mask) -> u32 {
        let distance = |from: u32, to: u32| {
            let known = self.0.get(&from).and_then(|node| node.distances.get(&to).copied());
            known.unwrap_or(if from == to { 10 } else { 20 })
        };
        mask.nodes()
            .flat_map(|from| mask.nodes().map(move |to| (from, to)))
            .map(|(a, b)| distance(a, b))
            .sum()
    }
}
