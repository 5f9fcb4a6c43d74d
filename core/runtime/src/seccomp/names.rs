//! The machine's architectures, and the numbers of system calls on them.

/// One whose programs this kernel runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// As OCI profiles name it.
    pub(super) name: &'static str,
    /// `AUDIT_ARCH_*`.
    pub(super) audit: u32,
    /// The number of a call, if it has it.
    pub(super) number: fn(&str) -> Option<u32>,
}

macro_rules! numbers {
    ($function:ident, $architecture:ident) => {
        fn $function(name: &str) -> Option<u32> {
            let found: syscalls::$architecture::Sysno = name.parse().ok()?;
            u32::try_from(found.id()).ok()
        }
    };
}

#[cfg(target_arch = "x86_64")]
numbers!(x86_64, x86_64);
#[cfg(target_arch = "x86_64")]
numbers!(x86, x86);
#[cfg(target_arch = "aarch64")]
numbers!(aarch64, aarch64);
#[cfg(target_arch = "aarch64")]
numbers!(common_arm, arm);
#[cfg(target_arch = "aarch64")]
fn arm(name: &str) -> Option<u32> {
    common_arm(name).or_else(|| private_arm(name))
}

/// Where calls begin that an architecture has for itself alone.
pub(super) const PRIVATE: u32 = 0xf_0000;

/// The calls of 32-bit ARM for itself alone (arch/arm/include/uapi/asm/unistd.h), which its programs need to start.
pub(super) const PRIVATE_ARM: [&str; 6] =
    ["breakpoint", "cacheflush", "usr26", "usr32", "set_tls", "get_tls"];

#[cfg(any(test, target_arch = "aarch64"))]
fn private_arm(name: &str) -> Option<u32> {
    let place = PRIVATE_ARM.iter().position(|known| *known == name)?;
    u32::try_from(place).ok().map(|place| PRIVATE + 1 + place)
}

/// The machine's own comes first, then that of its 32-bit programs.
#[cfg(target_arch = "x86_64")]
pub(super) const ALL: [Known; 2] = [
    Known { name: "SCMP_ARCH_X86_64", audit: 0xc000_003e, number: x86_64 },
    Known { name: "SCMP_ARCH_X86", audit: 0x4000_0003, number: x86 },
];
/// The machine's own comes first, then that of its 32-bit programs.
#[cfg(target_arch = "aarch64")]
pub(super) const ALL: [Known; 2] = [
    Known { name: "SCMP_ARCH_AARCH64", audit: 0xc000_00b7, number: aarch64 },
    Known { name: "SCMP_ARCH_ARM", audit: 0x4000_0028, number: arm },
];

/// Whether it has calls of the x32 interface.
pub(super) fn has_x32(one: &Known) -> bool {
    one.name == "SCMP_ARCH_X86_64"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arm_has_calls_of_its_own() {
        let numbers = ["breakpoint", "cacheflush", "set_tls", "get_tls", "read"].map(private_arm);
        assert_eq!(numbers, [Some(0xf_0001), Some(0xf_0002), Some(0xf_0005), Some(0xf_0006), None]);
    }
}
