//! The wall clock of one process, as if somebody had set the machine's.
//!
//! Kernels have no namespace for it, and nobody would like the machine's to be set. Programs ask for the time in a function that the
//! kernel puts into their memory (vdso(7)); here that function of one process is written anew, with a number of seconds to
//! add. Other clocks, and those of other processes, are left alone.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use object::{Object, ObjectSymbol};

use crate::eventually;

/// It only ends tests that fail.
const PATIENCE: Duration = Duration::from_secs(60);
const FUNCTION: &str = "__vdso_clock_gettime";

/// The wall clock of a process.
pub struct WallClock {
    process: Pid,
    memory: File,
    /// Addresses of the kernel's functions in the process.
    vdso: std::ops::Range<u64>,
    function: u64,
}

/// `clock_gettime` by a system call, and seconds added where the clock is `CLOCK_REALTIME`.
fn function(seconds: i64) -> Vec<u8> {
    let mut code = vec![
        0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228 (clock_gettime)
        0x0f, 0x05, // syscall
        0x85, 0xff, // test edi, edi: 0 is CLOCK_REALTIME
        0x75, 0x0d, // jne to the end
        0x48, 0xb9, // mov rcx, seconds
    ];
    code.extend(seconds.to_le_bytes());
    code.extend([
        0x48, 0x01, 0x0e, // add [rsi], rcx
        0xc3, // ret
    ]);
    code
}

impl WallClock {
    /// Of a process; an error on processors for which it has no code.
    pub fn of(process: Pid) -> anyhow::Result<Self> {
        ensure!(cfg!(target_arch = "x86_64"), "the clocks of processes can be set on x86-64 alone");
        let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
        let line = maps.lines().find(|line| line.ends_with("[vdso]")).context("a process without a vDSO")?;
        let range = line.split(' ').next().and_then(|range| range.split_once('-')).context("no range")?;
        let at = |text: &str| u64::from_str_radix(text, 16).context("no address");
        let vdso = at(range.0)?..at(range.1)?;
        let path = format!("/proc/{process}/mem");
        let memory = File::options().read(true).write(true).open(&path).context(path)?;
        let mut image = vec![0; usize::try_from(vdso.end - vdso.start)?];
        memory.read_exact_at(&mut image, vdso.start)?;
        let file = object::File::parse(image.as_slice()).context("read the vDSO")?;
        let symbol = file.dynamic_symbols().find(|symbol| symbol.name() == Ok(FUNCTION)).context(FUNCTION)?;
        ensure!(symbol.size() >= u64::try_from(function(0).len())?, "{FUNCTION} has little room");
        let function = vdso.start + symbol.address();
        Ok(WallClock { process, memory, vdso, function })
    }

    /// From now on it is ahead of the machine's by so many seconds, or behind it.
    pub fn set_off(&self, seconds: i64) -> anyhow::Result<()> {
        // What is written anew must not be under way in any thread.
        eventually("no thread to be asking for the time", PATIENCE, || {
            kill(self.process, Signal::SIGSTOP)?;
            let done = self.places().and_then(|places| {
                let rests = places.iter().all(|place| !self.vdso.contains(place));
                if rests {
                    self.memory.write_all_at(&function(seconds), self.function)?;
                }
                Ok(rests.then_some(()))
            });
            kill(self.process, Signal::SIGCONT)?;
            done
        })
    }

    /// Where each thread of the process is, once all have stopped.
    fn places(&self) -> anyhow::Result<Vec<u64>> {
        let tasks = format!("/proc/{}/task", self.process);
        eventually("all threads to stop", PATIENCE, || {
            let mut places = Vec::new();
            for thread in fs::read_dir(&tasks)? {
                let folder = thread?.path();
                let status = fs::read_to_string(folder.join("status"))?;
                let state =
                    status.lines().find_map(|line| line.strip_prefix("State:")).context("no state")?;
                if !state.trim().starts_with('T') {
                    return Ok(None);
                }
                // The last word, also of one that waits in the kernel.
                let told = fs::read_to_string(folder.join("syscall"))?;
                let place = told.trim().rsplit_once("0x").context("a thread that is nowhere")?.1;
                places.push(u64::from_str_radix(place, 16)?);
            }
            Ok(Some(places))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn one_process_has_another_time_and_has_it_back() {
        let script = "import time\nwhile True: print(int(time.time()), flush=True); time.sleep(0.01)";
        let mut python = Command::new("python3");
        let mut child = python.args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let process = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut off = || {
            let told: i64 = lines.next().unwrap().unwrap().parse().unwrap();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            (told - i64::try_from(now).unwrap()) / 1000
        };
        assert_eq!(off(), 0);
        let clock = WallClock::of(process).unwrap();
        for hours in [24, -24, 0] {
            clock.set_off(hours * 3600).unwrap();
            while off() != hours * 3600 / 1000 {}
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
