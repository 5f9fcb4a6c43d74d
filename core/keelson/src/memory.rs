//! Gives memory that a burst has used back to the machine, once the process is at rest.
//!
//! The C library's allocator keeps what is freed between two values that live on: after a start, or a list of all pods, that is
//! more than all that is in use. To look for it costs time, so that it is done only when there is time, and only
//! when there is more memory than the last time left.

use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use tokio::time::{MissedTickBehavior, interval};

const LOOK: Duration = Duration::from_secs(15);
/// Processor time between two looks up to which the process is at rest.
const REST: Duration = Duration::from_millis(750);
/// Less than this many bytes more are not worth the search.
const WORTH: u64 = 4 << 20;

/// Looks after memory for as long as it is polled.
pub(crate) async fn give_back() {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut keeper = Keeper::default();
    loop {
        ticks.tick().await;
        let (Some(used), Some(own)) = (processor(), anonymous()) else { continue };
        if keeper.is_due(used, own) && tokio::task::spawn_blocking(trim).await.is_ok() {
            keeper.kept = anonymous().unwrap_or(own);
        }
    }
}

#[derive(Debug, Default)]
struct Keeper {
    /// Processor time of the process at the last look.
    used: Duration,
    /// Bytes that the last search left.
    kept: u64,
}

impl Keeper {
    /// (pure) Whether to search, from the processor time used up to now, and the process's own memory in bytes.
    fn is_due(&mut self, used: Duration, own: u64) -> bool {
        let at_rest = used.saturating_sub(self.used) < REST;
        self.used = used;
        at_rest && own >= self.kept + WORTH
    }
}

fn processor() -> Option<Duration> {
    let usage: Usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let time = usage.user_time() + usage.system_time();
    let micros = u64::try_from(time.tv_usec()).ok()?;
    Some(Duration::from_secs(u64::try_from(time.tv_sec()).ok()?) + Duration::from_micros(micros))
}

/// Resident memory that is not a file's, in bytes.
fn anonymous() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(resident.saturating_sub(shared) * u64::try_from(page).ok()?)
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn trim() {
    // SAFETY: it takes the allocator's own locks, and touches only memory that is free.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries give back by themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn memory_is_given_back_once_after_a_burst_and_not_during_it() {
        let mut keeper = Keeper::default();
        assert!(!keeper.is_due(Duration::from_secs(10), 90 * MB), "it is at work");
        assert!(keeper.is_due(Duration::from_secs(10), 90 * MB));
        keeper.kept = 20 * MB;
        assert!(!keeper.is_due(Duration::from_secs(10), 21 * MB), "little is not worth it");
        assert!(keeper.is_due(Duration::from_secs(10), 30 * MB));
    }

    #[test]
    fn the_process_knows_its_own_memory_and_time() {
        assert!(anonymous().unwrap() > 0);
        assert!(processor().unwrap() > Duration::ZERO);
    }
}
