//! What this process uses, under the names that every Prometheus client gives it.

use procfs::process::{LimitValue, Process, Stat};

use crate::source::Sample;
use crate::{Registry, RegistryError, Source};

type Read = fn() -> Option<f64>;

fn stat<T>(read: impl Fn(&Process, Stat) -> Option<T>) -> Option<T> {
    let process = Process::myself().ok()?;
    let stat = process.stat().ok()?;
    read(&process, stat)
}

fn one(value: Option<f64>) -> Vec<Sample> {
    value.map(|value| (Vec::new(), value)).into_iter().collect()
}

/// Seconds since 1970 when the machine was started.
fn boot_time() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// Adds `process_*`. A value that the kernel does not tell is left out.
pub fn register(registry: &Registry) -> Result<(), RegistryError> {
    #[allow(clippy::cast_precision_loss)]
    let ticks = |count: u64| count as f64 / procfs::ticks_per_second() as f64;
    registry.add(Source::counter(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        &[],
        move || one(stat(|_, stat| Some(ticks(stat.utime + stat.stime)))),
    )?)?;
    registry.add(Source::gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        &[],
        move || one(stat(|_, stat| Some(boot_time()? + ticks(stat.starttime)))),
    )?)?;
    #[allow(clippy::cast_precision_loss)]
    let values: [(&str, &str, Read); 4] = [
        ("process_resident_memory_bytes", "Resident memory size in bytes.", || {
            stat(|_, stat| Some((stat.rss * procfs::page_size()) as f64))
        }),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", || {
            stat(|_, stat| Some(stat.vsize as f64))
        }),
        ("process_open_fds", "Number of open file descriptors.", || {
            stat(|process, _| Some(process.fd_count().ok()? as f64))
        }),
        ("process_max_fds", "Maximum number of open file descriptors.", || {
            stat(|process, _| match process.limits().ok()?.max_open_files.soft_limit {
                LimitValue::Value(limit) => Some(limit as f64),
                LimitValue::Unlimited => None,
            })
        }),
    ];
    for (name, help, read) in values {
        registry.add(Source::gauge(name, help, &[], move || one(read()))?)?;
    }
    Ok(())
}
