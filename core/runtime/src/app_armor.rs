//! The AppArmor profile of containers that name none, as other runtimes have one: it is given to the kernel by the node's
//! `apparmor_parser` when the first container needs it, and again should somebody have taken it away.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keelson_cri::v1::LinuxContainerSecurityContext;
use keelson_cri::v1::security_profile::ProfileType;
use parking_lot::Mutex;

/// The name of the profile, the same for all clusters of a machine.
pub(crate) const OWN: &str = "keelson-default";

const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// A parser that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(30);
const PARSERS: [&str; 3] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser", "/usr/bin/apparmor_parser"];
const INTERFACE: &str = "/sys/kernel/security/apparmor";
/// Whether this process has given the kernel the profile: one by an older program may say something else.
static GIVEN: Mutex<bool> = Mutex::new(false);

#[derive(Debug, thiserror::Error)]
pub(crate) enum AppArmorError {
    #[error("AppArmor is not enabled on the host")]
    Disabled,
    #[error("the default AppArmor profile needs the program apparmor_parser, which this node does not have")]
    NoParser,
    #[error("give the AppArmor profile {OWN:?} to the kernel")]
    Run(#[source] io::Error),
    #[error("the AppArmor profile {OWN:?} was not taken: {0}")]
    Refused(String),
    #[error("give the AppArmor profile {OWN:?} to the kernel: apparmor_parser did not end within {} s", LIMIT.as_secs())]
    TooLong,
}

/// What the machine offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    enabled: bool,
    parser: Option<&'static str>,
}

impl Machine {
    /// Looks. Within a container the kernel's policy is somebody else's.
    pub(crate) fn found() -> Self {
        let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.trim_start().starts_with('Y'))
            && Path::new(INTERFACE).exists()
            && std::env::var_os("container").is_none_or(|name| name.is_empty());
        let parser = PARSERS.into_iter().find(|path| Path::new(path).exists());
        Machine { enabled, parser }
    }

    /// The profile under which a container's programs run.
    pub(crate) fn profile(
        self,
        security: &LinuxContainerSecurityContext,
    ) -> Result<Option<String>, AppArmorError> {
        match security.apparmor.as_ref().map(|profile| (profile.profile_type(), &profile.localhost_ref)) {
            Some((ProfileType::Unconfined, _)) => Ok(None),
            Some((ProfileType::Localhost, _)) if !self.enabled => Err(AppArmorError::Disabled),
            Some((ProfileType::Localhost, name)) => {
                Ok(Some(name.strip_prefix("localhost/").unwrap_or(name).to_owned()))
            }
            _ if !self.enabled || security.privileged => Ok(None),
            Some((ProfileType::RuntimeDefault, _)) if self.parser.is_none() => Err(AppArmorError::NoParser),
            // Nobody has asked for it, and it cannot be had.
            None if self.parser.is_none() => Ok(None),
            Some((ProfileType::RuntimeDefault, _)) | None => Ok(Some(OWN.to_owned())),
        }
    }

    /// Has the kernel know the profile, if it is our own. Others are loaded by the node's owner.
    pub(crate) fn load(self, profile: &str) -> Result<(), AppArmorError> {
        if profile != OWN {
            return Ok(());
        }
        // Who comes meanwhile waits for the first.
        let mut given = GIVEN.lock();
        let known = fs::read_to_string(Path::new(INTERFACE).join("profiles"));
        if *given && known.is_ok_and(|known| is_loaded(&known)) {
            return Ok(());
        }
        let parser = self.parser.ok_or(AppArmorError::NoParser)?;
        give(
            parser,
            &["--replace", "--skip-cache"],
            &text(Path::new("/etc/apparmor.d"), own_label().as_deref()),
        )?;
        *given = true;
        Ok(())
    }
}

/// Whether the kernel's list of profiles has ours, and enforces it.
fn is_loaded(profiles: &str) -> bool {
    profiles.lines().any(|line| line.strip_prefix(OWN).is_some_and(|mode| mode == " (enforce)"))
}

fn give(parser: &str, arguments: &[&str], text: &str) -> Result<(), AppArmorError> {
    let mut command = Command::new(parser);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = command.spawn().map_err(AppArmorError::Run)?;
    // It fits into the pipe; one that has ended already says why.
    let written = running.stdin.take().map_or(Ok(()), |mut input| input.write_all(text.as_bytes()));
    let until = Instant::now() + LIMIT;
    while running.try_wait().map_err(AppArmorError::Run)?.is_none() {
        if Instant::now() > until {
            running.kill().and_then(|()| running.wait()).map_err(AppArmorError::Run)?;
            return Err(AppArmorError::TooLong);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    let ended = running.wait_with_output().map_err(AppArmorError::Run)?;
    if !ended.status.success() {
        return Err(AppArmorError::Refused(String::from_utf8_lossy(&ended.stderr).trim().to_owned()));
    }
    written.map_err(AppArmorError::Run)
}

/// The profile under which this program runs itself, if it does.
fn own_label() -> Option<String> {
    let own = fs::read_to_string("/proc/self/attr/apparmor/current");
    label(&own.or_else(|_| fs::read_to_string("/proc/self/attr/current")).ok()?)
}

fn label(text: &str) -> Option<String> {
    let text = text.trim_end_matches(['\0', '\n']);
    let name = text.rsplit_once(" (").map_or(text, |(name, _mode)| name);
    let is_plain = !name.is_empty() && !name.contains(['"', '\n', '\\']);
    (is_plain && name != "unconfined").then(|| name.to_owned())
}

/// The profile, in AppArmor's language; what the machine has in the folder of policies is included. `own` is who sends signals.
fn text(policies: &Path, own: Option<&str>) -> String {
    let has = |name: &str| policies.join(name).exists();
    // Without it a newer parser asks newer kernels to mediate more than the rules speak of, such as sockets of the machine.
    let abi = if has("abi/3.0") { "abi <abi/3.0>,\n" } else { "" };
    let tunables = if has("tunables/global") { "#include <tunables/global>" } else { "@{PROC}=/proc/" };
    let base = if has("abstractions/base") { "  #include <abstractions/base>\n" } else { "" };
    let own = own.map_or(String::new(), |own| format!("  signal (receive) peer=\"{own}\",\n"));
    format!(
        "{abi}{tunables}\n\nprofile {OWN} flags=(attach_disconnected,mediate_deleted) {{\n{base}{RULES}{own}}}\n"
    )
}

/// What a container may do: all that files, capabilities and namespaces let it, but nothing to the kernel's own settings. Below
/// `@{PROC}` it may write to processes, and of `sys` to `kernel/shm*`.
const RULES: &str = "  network,
  capability,
  file,
  umount,
  deny mount,

  # The node's processes may end the container's, and these each other.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=keelson-default,
  ptrace (trace, read, tracedby, readby) peer=keelson-default,

  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/mem rwklx,
  deny @{PROC}/kmem rwklx,
  deny @{PROC}/kcore rwklx,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use keelson_cri::v1::SecurityProfile;

    use super::*;

    fn asked(
        machine: Machine,
        kind: Option<ProfileType>,
        privileged: bool,
    ) -> Result<Option<String>, String> {
        let of =
            |kind| SecurityProfile { profile_type: kind as i32, localhost_ref: "localhost/web".to_owned() };
        let security = LinuxContainerSecurityContext {
            apparmor: kind.map(of),
            privileged,
            ..LinuxContainerSecurityContext::default()
        };
        machine.profile(&security).map_err(|error| error.to_string())
    }

    #[test]
    fn who_names_no_profile_has_the_runtimes_where_there_is_one() {
        let full = Machine { enabled: true, parser: Some("apparmor_parser") };
        let own = || Ok(Some(OWN.to_owned()));
        assert_eq!(asked(full, None, false), own());
        assert_eq!(asked(full, Some(ProfileType::RuntimeDefault), false), own());
        assert_eq!(asked(full, Some(ProfileType::Localhost), false), Ok(Some("web".to_owned())));
        assert_eq!(asked(full, Some(ProfileType::Unconfined), false), Ok(None));
        assert_eq!(asked(full, Some(ProfileType::RuntimeDefault), true), Ok(None));
        assert_eq!(asked(full, None, true), Ok(None));
        assert_eq!(asked(full, Some(ProfileType::Localhost), true), Ok(Some("web".to_owned())));

        let bare = Machine { parser: None, ..full };
        assert_eq!(asked(bare, None, false), Ok(None));
        let refused = asked(bare, Some(ProfileType::RuntimeDefault), false).unwrap_err();
        assert!(refused.contains("apparmor_parser"), "{refused}");

        let without = Machine { enabled: false, ..full };
        assert_eq!(asked(without, None, false), Ok(None));
        assert_eq!(asked(without, Some(ProfileType::RuntimeDefault), false), Ok(None));
        let refused = asked(without, Some(ProfileType::Localhost), false).unwrap_err();
        assert_eq!(refused, "AppArmor is not enabled on the host");
    }

    #[test]
    fn a_profile_that_only_complains_is_loaded_anew() {
        assert!(is_loaded("docker-default (enforce)\nkeelson-default (enforce)\n"));
        assert!(!is_loaded("keelson-default (complain)\nkeelson-default-2 (enforce)\n"));
    }

    #[test]
    fn who_runs_under_a_profile_may_still_end_containers() {
        assert_eq!(label("unconfined\n"), None);
        assert_eq!(label(""), None);
        assert_eq!(label("keelson (enforce)\n\0").as_deref(), Some("keelson"));
        assert!(text(Path::new("/nowhere"), Some("keelson")).contains("peer=\"keelson\""));
    }

    /// By the real parser, which needs no kernel for it; with the machine's policies and without.
    #[test]
    fn the_profile_is_in_the_language_of_the_parser() {
        let parser = Machine::found().parser.expect("install Debian's apparmor");
        let check = ["--skip-kernel-load", "--skip-cache"];
        for (policies, own) in [("/etc/apparmor.d", None), ("/nowhere", Some("a b//c"))] {
            give(parser, &check, &text(Path::new(policies), own)).unwrap();
        }
        let broken = text(Path::new("/nowhere"), None).replace("deny mount,", "deny mounting");
        assert!(matches!(give(parser, &check, &broken), Err(AppArmorError::Refused(_))));
    }
}
