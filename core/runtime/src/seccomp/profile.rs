//! (pure) A profile of the node's owner: `linux.seccomp` of the OCI runtime specification as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::filter::{Action, Architecture, Comparison, Condition, Rule};
use super::names;

/// Why a profile cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("the profile is not what it should be: {0}")]
    Json(#[from] serde_json::Error),
    #[error("action {0:?} is not supported")]
    Action(String),
    #[error("operator {0:?} is not supported")]
    Operator(String),
    #[error("a call has no argument {0}")]
    Argument(u32),
    #[error("flag {0:?} is not supported")]
    Flag(String),
    #[error("error number {0} is too large")]
    Errno(u32),
    #[error("{0} instructions are too many for the kernel")]
    TooLong(usize),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Calls>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Calls {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Rules, and how they are installed.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) architectures: Vec<Architecture>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(super) flags: libc::c_ulong,
}

fn action(name: &str, number: Option<u32>) -> Result<Action, ProfileError> {
    let number = number.unwrap_or(libc::EPERM.unsigned_abs());
    // The kernel's limit.
    let number =
        u16::try_from(number).ok().filter(|number| *number < 4096).ok_or(ProfileError::Errno(number))?;
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(number),
        "SCMP_ACT_TRACE" => Action::Trace(number),
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        other => return Err(ProfileError::Action(other.to_owned())),
    })
}

fn condition(one: &Argument) -> Result<Condition, ProfileError> {
    let argument =
        u8::try_from(one.index).ok().filter(|index| *index < 6).ok_or(ProfileError::Argument(one.index))?;
    let (comparison, value) = match one.op.as_str() {
        "SCMP_CMP_NE" => (Comparison::NotEqual, one.value),
        "SCMP_CMP_LT" => (Comparison::Less, one.value),
        "SCMP_CMP_LE" => (Comparison::LessOrEqual, one.value),
        "SCMP_CMP_EQ" => (Comparison::Equal, one.value),
        "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, one.value),
        "SCMP_CMP_GT" => (Comparison::Greater, one.value),
        "SCMP_CMP_MASKED_EQ" => (Comparison::MaskedEqual(one.value), one.value_two),
        other => return Err(ProfileError::Operator(other.to_owned())),
    };
    Ok(Condition { argument, comparison, value })
}

/// The conditions of each rule that an entry makes: one rule with all of them; or, where an argument is compared more than once, a
/// rule for each, as runc does.
fn conditions(arguments: &[Argument]) -> Result<Vec<Vec<Condition>>, ProfileError> {
    let all = arguments.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    let different: BTreeSet<u8> = all.iter().map(|one| one.argument).collect();
    Ok(if different.len() < all.len() { all.into_iter().map(|one| vec![one]).collect() } else { vec![all] })
}

/// Reads a profile. Names of calls that this machine does not have are left out, as by other runtimes.
pub(super) fn read(text: &str) -> Result<Profile, ProfileError> {
    let document: Document = serde_json::from_str(text)?;
    let default = action(&document.default_action, document.default_errno_ret)?;
    let mut flags = 0;
    for flag in &document.flags {
        flags |= match flag.as_str() {
            "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // There is one thread.
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            other => return Err(ProfileError::Flag(other.to_owned())),
        };
    }
    let wanted = |name: &str| document.architectures.iter().any(|one| one == name);
    let mut architectures = Vec::new();
    for (place, known) in names::ALL.iter().enumerate() {
        // The machine's own is always there.
        if place > 0 && !wanted(known.name) {
            continue;
        }
        let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
        for rule in &document.syscalls {
            let does = action(&rule.action, rule.errno_ret)?;
            let conditions = conditions(rule.args.as_deref().unwrap_or_default())?;
            if does == default {
                continue;
            }
            for number in rule.names.iter().filter_map(|name| (known.number)(name)) {
                let rules = conditions.iter().cloned();
                let rules = rules.map(|conditions| Rule { conditions, action: does });
                calls.entry(number).or_default().extend(rules);
            }
        }
        // Who answers an error to what is not listed says ENOSYS to what did not exist when the list was made.
        let newest = calls.keys().copied().filter(|number| *number < names::PRIVATE).max();
        let unknown_from = newest.filter(|_| matches!(default, Action::Errno(_))).map(|newest| newest + 1);
        let x32 = names::has_x32(known).then_some(if wanted("SCMP_ARCH_X32") {
            default
        } else {
            Action::KillProcess
        });
        architectures.push(Architecture { audit: known.audit, calls, default, unknown_from, x32 });
    }
    Ok(Profile { architectures, flags })
}

#[cfg(test)]
mod tests {
    use super::super::filter::{compile, tests::run};
    use super::*;

    fn ask(profile: &str, call: &str, argument: u64) -> u32 {
        let profile = read(profile).unwrap();
        let program = compile(&profile.architectures, Action::KillProcess);
        let known = names::ALL[0];
        run(&program, known.audit, (known.number)(call).unwrap(), [argument, 0, 0, 0, 0, 0])
    }

    #[test]
    fn a_list_of_what_is_allowed_refuses_the_rest() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
            {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["openat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#;
        let errno = |number: u32| libc::SECCOMP_RET_ERRNO | number;
        assert_eq!(ask(text, "read", 0), libc::SECCOMP_RET_ALLOW);
        assert_eq!(ask(text, "mkdirat", 0), errno(13));
        assert_eq!((ask(text, "socket", 1), ask(text, "socket", 2)), (libc::SECCOMP_RET_ALLOW, errno(13)));
        assert_eq!((ask(text, "openat2", 0), ask(text, "futex_waitv", 0)), (errno(38), errno(38)));
    }

    #[test]
    fn conditions_hold_together_unless_they_are_about_the_same_argument() {
        let with = |args: &str| {
            format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [{args}]}}]}}"#
            )
        };
        let (allow, refuse) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_ERRNO | 1);
        let equal = |index: u32, value: u64| {
            format!(r#"{{"index": {index}, "value": {value}, "op": "SCMP_CMP_EQ"}}"#)
        };
        let one_of = with(&[equal(0, 1), equal(0, 2)].join(","));
        let answers = [1, 2, 3].map(|value| ask(&one_of, "personality", value));
        assert_eq!(answers, [refuse, refuse, allow]);
        let both = with(&[equal(0, 1), equal(1, 7)].join(","));
        assert_eq!(ask(&both, "personality", 1), allow);
        let both = with(&[equal(0, 1), equal(1, 0)].join(","));
        assert_eq!([1, 2].map(|value| ask(&both, "personality", value)), [refuse, allow]);
        // However many there are, none is lost.
        let many = with(&(0..100).map(|value| equal(0, value)).collect::<Vec<_>>().join(","));
        assert_eq!([0, 99, 100].map(|value| ask(&many, "personality", value)), [refuse, refuse, allow]);
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for wrong in [
            "{}",
            r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
