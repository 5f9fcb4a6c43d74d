//! Filters of system calls: the default one, and profiles of the node's owner.
//!
//! - `filter` (pure): from rules to the kernel's program
//! - `default` (pure): the rules of `RuntimeDefault`; `profile` (pure): those of a file
//! - `names`: the numbers of calls

use libc::sock_filter;

mod default;
mod filter;
mod names;
mod profile;

pub(crate) use profile::ProfileError;

/// Why no filter could be made or installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeccompError {
    #[error("compile the system call filter")]
    Profile(#[from] ProfileError),
    #[error("install the system call filter")]
    Install(#[source] std::io::Error),
}

/// The kernel's limit.
const LONGEST: usize = 4096;

/// A program for the kernel.
pub(crate) struct Filter {
    program: Vec<sock_filter>,
    flags: libc::c_ulong,
}

impl Filter {
    /// The default one of a container with these capability numbers.
    pub(crate) fn of_runtime(capabilities: &[u8]) -> Self {
        let program = filter::compile(&default::architectures(capabilities), filter::Action::KillProcess);
        Filter { program, flags: 0 }
    }

    /// The one that a profile describes.
    pub(crate) fn of_profile(text: &str) -> Result<Self, ProfileError> {
        let profile = profile::read(text)?;
        let program = filter::compile(&profile.architectures, filter::Action::KillProcess);
        if program.len() > LONGEST {
            return Err(ProfileError::TooLong(program.len()));
        }
        Ok(Filter { program, flags: profile.flags })
    }

    /// Installs it for the calling thread. Without no_new_privs this needs CAP_SYS_ADMIN.
    #[allow(unsafe_code)]
    pub(crate) fn install(&self) -> Result<(), SeccompError> {
        let length = u16::try_from(self.program.len());
        let len = length.map_err(|_| SeccompError::Profile(ProfileError::TooLong(self.program.len())))?;
        let filter = libc::sock_fprog { len, filter: self.program.as_ptr().cast_mut() };
        // SAFETY: `filter` points to the program, which outlives the call; the kernel copies it.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, self.flags, &raw const filter)
        };
        if result == 0 { Ok(()) } else { Err(SeccompError::Install(std::io::Error::last_os_error())) }
    }
}
