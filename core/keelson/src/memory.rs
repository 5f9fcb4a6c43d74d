//! Gives memory that a burst has used back to the machine, once the process is at rest.
//!
//! - The C library's allocator keeps what is freed between two values that live on: after a start, or a list of all pods,
//!   that is more than all that is in use.
//! - The kernel keeps every page of the program mapped that was ever needed, and those around it; most of it runs once,
//!   when the process starts.
//!
//! To give back costs time, so that it is done only when there is time, and only when there is more memory than what
//! was in use some time after the last time.

use std::io;
use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use tokio::time::{MissedTickBehavior, interval};

const LOOK: Duration = Duration::from_secs(15);
/// Processor time between two looks up to which the process is at rest.
const REST: Duration = Duration::from_millis(750);
/// Less than this many bytes more are not worth the work.
const WORTH: u64 = 4 << 20;

/// Looks after memory for as long as it is polled.
pub(crate) async fn give_back() {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut before = Duration::ZERO;
    let (mut own, mut program) = (Kept::default(), Kept::default());
    loop {
        ticks.tick().await;
        let (Some(used), Some(resident)) = (processor(), Resident::now()) else { continue };
        let at_rest = used.saturating_sub(std::mem::replace(&mut before, used)) < REST;
        if !at_rest {
            continue;
        }
        let (trims, unmaps) = (own.is_due(resident.own), program.is_due(resident.files));
        let work = move || {
            if trims {
                trim();
            }
            if unmaps { unmap_program() } else { Ok(()) }
        };
        if (trims || unmaps)
            && let Ok(Err(error)) = tokio::task::spawn_blocking(work).await
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "the program stays mapped");
        }
    }
}

/// Bytes that were in use after the last time; not known until the look after it.
#[derive(Debug)]
struct Kept(Option<u64>);

impl Default for Kept {
    fn default() -> Self {
        Kept(Some(0))
    }
}

impl Kept {
    /// (pure) Whether to give back, where the process is at rest with this many bytes.
    fn is_due(&mut self, resident: u64) -> bool {
        let Some(kept) = self.0 else {
            self.0 = Some(resident);
            return false;
        };
        let is_due = resident >= kept + WORTH;
        if is_due {
            self.0 = None;
        }
        is_due
    }
}

fn processor() -> Option<Duration> {
    let usage: Usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let time = usage.user_time() + usage.system_time();
    let micros = u64::try_from(time.tv_usec()).ok()?;
    Some(Duration::from_secs(u64::try_from(time.tv_sec()).ok()?) + Duration::from_micros(micros))
}

/// Resident memory, in bytes.
#[derive(Clone, Copy, Debug)]
struct Resident {
    /// That is not a file's.
    own: u64,
    /// Pages of files, which are the program's.
    files: u64,
}

impl Resident {
    fn now() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/self/statm").ok()?;
        let mut pages = text.split_whitespace().skip(1).map(str::parse::<u64>);
        let (resident, files) = (pages.next()?.ok()?, pages.next()?.ok()?);
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
        let page = u64::try_from(page).ok()?;
        Some(Resident { own: resident.saturating_sub(files) * page, files: files * page })
    }
}

/// Where the instructions of the program are, from `/proc/self/maps`: whole pages that it never writes to.
fn instructions(maps: &str, program: &str) -> Option<std::ops::Range<usize>> {
    let is_ours = |line: &&str| line.contains(" r-xp ") && line.ends_with(program);
    let (start, end) = maps.lines().find(is_ours)?.split(' ').next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

/// Takes the program's instructions out of the process. The kernel has them in its cache, from which each page that runs
/// again is back within a microsecond.
#[allow(unsafe_code)]
fn unmap_program() -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let Some(range) = program.to_str().and_then(|program| instructions(&maps, program)) else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the program is not among the mappings"));
    };
    let start = std::ptr::without_provenance_mut(range.start);
    // SAFETY: these pages are a file's, and nobody has ever written to them: they come back as they were.
    let result = unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
    nix::errno::Errno::result(result)?;
    Ok(())
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
    fn memory_is_given_back_once_after_a_burst() {
        let mut kept = Kept::default();
        assert!(kept.is_due(90 * MB));
        assert!(!kept.is_due(20 * MB), "that is what is in use");
        assert!(!kept.is_due(21 * MB), "little is not worth it");
        assert!(kept.is_due(30 * MB));
    }

    #[test]
    fn instructions_are_those_of_the_program_itself() {
        let maps = "00200000-01e9a000 r--p 00000000 fe:00 27 /bin/keelson\n\
            01e9a000-07e55000 r-xp 01c99000 fe:00 27 /bin/keelson\n\
            7fb08f045000-7fb08f047000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(instructions(maps, "/bin/keelson"), Some(0x01e9_a000..0x07e5_5000));
        assert_eq!(instructions(maps, "/bin/other"), None);
    }

    #[test]
    fn a_process_runs_on_without_the_pages_of_its_program() {
        let before = Resident::now().unwrap();
        assert!(before.own > 0 && before.files > 0 && processor().unwrap() > Duration::ZERO);
        unmap_program().unwrap();
        assert!(Resident::now().unwrap().files < before.files);
    }
}
