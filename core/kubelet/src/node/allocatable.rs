//! What pods may have of a machine: all of it, but for what its owner keeps and what is to be left when pods end.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use keelson_api::quantity::Amount;

use super::machine::{self, MachineError};
use crate::config::Config;
use crate::configuration::KubeletConfiguration;
use crate::eviction::{self, Fault, Signal};

/// What can be kept.
const KEPT: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pid"];

/// What is kept of a resource.
pub(crate) fn reserved(settings: &KubeletConfiguration, name: &str) -> Amount {
    if name == "cpu"
        && let Some(cpus) = settings.reserved_cpus()
    {
        return Amount::whole(i64::try_from(cpus.len()).unwrap_or(i64::MAX));
    }
    let of = |kept: &BTreeMap<String, String>| {
        kept.get(name).and_then(|text| Amount::parse(text).ok()).unwrap_or_default()
    };
    of(&settings.kube_reserved).plus(of(&settings.system_reserved))
}

/// (pure) Whether the settings can be followed.
pub(crate) fn check(settings: &KubeletConfiguration) -> Result<(), Fault> {
    let kept = [("kubeReserved", &settings.kube_reserved), ("systemReserved", &settings.system_reserved)];
    for (field, kept) in kept {
        for (name, text) in kept {
            let fault = |reason: &'static str| (field, format!("{name}: {text}"), reason);
            if !KEPT.contains(&name.as_str()) {
                return Err(fault("must be one of cpu, memory, ephemeral-storage, pid"));
            }
            let amount = Amount::parse(text).map_err(|_| fault("must be a quantity"))?;
            if amount.quantity().nano() < 0 {
                return Err(fault("must not be negative"));
            }
        }
    }
    Ok(())
}

fn less(capacity: &Quantity, kept: Amount) -> Amount {
    let left = Amount::parse(&capacity.0).unwrap_or_default().minus(kept);
    if left.quantity().nano() < 0 { Amount::default() } else { left }
}

fn bytes(amount: Amount) -> u64 {
    u64::try_from(amount.quantity().value()).unwrap_or(0)
}

/// What is to be left of a resource when pods end at once.
fn threshold(settings: &KubeletConfiguration, signal: Signal, capacity: u64) -> u64 {
    // Settings that are wrong are refused before.
    let all = eviction::thresholds(settings).unwrap_or_default();
    let hard = all.iter().find(|one| one.signal == signal && one.is_hard());
    hard.map_or(0, |hard| hard.value.of(capacity))
}

/// What pods may have, as the Node says it.
pub(crate) fn allocatable(config: &Config) -> Result<BTreeMap<String, Quantity>, MachineError> {
    let settings = &config.settings;
    let mut found = machine::capacity(config)?;
    let huge: u64 = machine::huge_pages().iter().map(|(_, bytes)| bytes).sum();
    let memory = bytes(less(&found["memory"], reserved(settings, "memory")));
    let memory = memory.saturating_sub(threshold(settings, Signal::Memory, machine::memory()?.total));
    found.insert("memory".to_owned(), machine::kibibytes(memory.saturating_sub(huge)));
    let cpu = less(&found["cpu"], reserved(settings, "cpu"));
    found.insert("cpu".to_owned(), Quantity(cpu.to_string()));
    let disk = machine::file_system(&config.data_dir)?;
    let kept = bytes(reserved(settings, "ephemeral-storage"));
    let left = disk.capacity.saturating_sub(kept);
    let left = left.saturating_sub(threshold(settings, Signal::Nodefs, disk.usable()));
    found.insert("ephemeral-storage".to_owned(), Quantity(left.to_string()));
    Ok(found)
}

/// The bytes of memory that are not for pods.
pub(crate) fn kept_memory(config: &Config) -> Result<u64, MachineError> {
    let settings = &config.settings;
    let threshold = threshold(settings, Signal::Memory, machine::memory()?.total);
    Ok(bytes(reserved(settings, "memory")) + threshold)
}

/// The bytes of memory that a pod may have.
pub(crate) fn memory(config: &Config) -> Result<u64, MachineError> {
    let all = allocatable(config)?;
    Ok(Amount::parse(&all["memory"].0).map_or(0, bytes))
}

/// What all pods together are held to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shared {
    /// Memory, in bytes; 0 for all that there is.
    pub(crate) memory: u64,
    /// Thousandths of a CPU; 0 for no share of their own.
    pub(crate) cpu: i128,
    /// Processes and threads; 0 for any number.
    pub(crate) processes: u64,
}

/// What all pods together are held to. The machine keeps a tenth of its process identifiers for itself, or what is said.
pub(crate) fn shared(config: &Config) -> Result<Shared, MachineError> {
    let (settings, capacity) = (&config.settings, machine::capacity(config)?);
    let pids = machine::processes()?.max;
    let kept = bytes(reserved(settings, "pid"));
    let processes = pids.saturating_sub(if kept > 0 { kept } else { pids / 10 });
    if !settings.enforces_pods() {
        return Ok(Shared { processes, ..Shared::default() });
    }
    let memory = bytes(less(&capacity["memory"], reserved(settings, "memory")));
    let cpu = less(&capacity["cpu"], reserved(settings, "cpu")).quantity().milli_value();
    Ok(Shared { memory, cpu, processes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;

    fn settings(text: &str) -> KubeletConfiguration {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_kept_is_not_for_pods() {
        let mut config = config();
        config.data_dir = std::env::temp_dir();
        let amount = |map: &BTreeMap<String, Quantity>, name: &str| {
            Amount::parse(&map[name].0).unwrap().quantity().value()
        };
        let plain = allocatable(&config).unwrap();
        let capacity = machine::capacity(&config).unwrap();
        for name in ["memory", "ephemeral-storage"] {
            assert!(amount(&plain, name) < amount(&capacity, name), "{name}");
        }
        config.settings = settings(
            r#"{"kubeReserved": {"cpu": "100m", "memory": "100Mi"},
                "systemReserved": {"cpu": "150m", "memory": "28Mi", "pid": "1000"}}"#,
        );
        let kept = allocatable(&config).unwrap();
        assert_eq!(amount(&plain, "memory") - amount(&kept, "memory"), 128 << 20);
        assert!(kept["cpu"].0.ends_with("750m"), "{kept:?}");
        let held = shared(&config).unwrap();
        assert_eq!(amount(&capacity, "memory") - i128::from(held.memory), 128 << 20);
        assert_eq!(machine::processes().unwrap().max - held.processes, 1000);
        config.settings =
            settings(r#"{"kubeReserved": {"memory": "1000Ti"}, "enforceNodeAllocatable": ["none"]}"#);
        assert_eq!(memory(&config).unwrap(), 0);
        assert_eq!(shared(&config).unwrap().memory, 0);
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        for (text, field) in [
            (r#"{"kubeReserved": {"hugepages-2Mi": "2Mi"}}"#, "kubeReserved"),
            (r#"{"systemReserved": {"cpu": "-1"}}"#, "systemReserved"),
            (r#"{"systemReserved": {"cpu": "many"}}"#, "systemReserved"),
        ] {
            assert_eq!(check(&settings(text)).unwrap_err().0, field);
        }
    }
}
