//! (pure) From rules on system calls to the kernel's program (seccomp(2), classic BPF).
//!
//! Per architecture the numbers are found by halving, so that a call costs a handful of steps however long the rules are.

use std::collections::BTreeMap;

use libc::sock_filter;

/// What the kernel does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Errno(u16),
    Trace(u16),
    Log,
    Trap,
    KillThread,
    KillProcess,
}

impl Action {
    fn value(self) -> u32 {
        match self {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Errno(code) => libc::SECCOMP_RET_ERRNO | u32::from(code),
            Action::Trace(data) => libc::SECCOMP_RET_TRACE | u32::from(data),
            Action::Log => libc::SECCOMP_RET_LOG,
            Action::Trap => libc::SECCOMP_RET_TRAP,
            Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    /// After these bits are taken.
    MaskedEqual(u64),
}

/// One argument, compared with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u8,
    pub(super) comparison: Comparison,
    pub(super) value: u64,
}

/// What becomes of a call if all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// At most six: what a rule does is decided in fewer steps than a jump can span.
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
}

/// The calls of one architecture, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Architecture {
    /// `AUDIT_ARCH_*`.
    pub(super) audit: u32,
    /// Rules by number; one without conditions goes before the others.
    pub(super) calls: BTreeMap<u32, Vec<Rule>>,
    /// For all other calls.
    pub(super) default: Action,
    /// From this number on calls that have no rule are not known to whoever made the rules: ENOSYS.
    pub(super) unknown_from: Option<u32>,
    /// For calls of the x32 interface, which have this architecture too.
    pub(super) x32: Option<Action>,
}

/// The bit of x32's numbers.
const X32: u32 = 0x4000_0000;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const GO: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

fn plain(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn ret(action: Action) -> sock_filter {
    plain(RETURN, action.value())
}

fn length(code: &[sock_filter]) -> u32 {
    u32::try_from(code.len()).unwrap_or(u32::MAX)
}

/// Where a jump that means "the rule does not hold" leads is not known until the rule's length is.
const FAILS: u8 = u8::MAX;

fn condition(one: &Condition, out: &mut Vec<sock_filter>) {
    let low = 16 + 8 * u32::from(one.argument);
    let halves = |value: u64| ((value >> 32) as u32, (value & u64::from(u32::MAX)) as u32);
    let (high_value, low_value) = halves(one.value);
    let (load_high, load_low) = (plain(LOAD, low + 4), plain(LOAD, low));
    match one.comparison {
        Comparison::Equal => out.extend([
            load_high,
            jump(EQUAL, high_value, 0, FAILS),
            load_low,
            jump(EQUAL, low_value, 0, FAILS),
        ]),
        Comparison::NotEqual => {
            out.extend([load_high, jump(EQUAL, high_value, 0, 2), load_low, jump(EQUAL, low_value, FAILS, 0)])
        }
        Comparison::MaskedEqual(mask) => {
            let (high_mask, low_mask) = halves(mask);
            out.extend([
                load_high,
                plain(AND, high_mask),
                jump(EQUAL, high_value & high_mask, 0, FAILS),
                load_low,
                plain(AND, low_mask),
                jump(EQUAL, low_value & low_mask, 0, FAILS),
            ]);
        }
        Comparison::Greater | Comparison::GreaterOrEqual => {
            let last = if one.comparison == Comparison::Greater { GREATER } else { AT_LEAST };
            out.extend([
                load_high,
                jump(GREATER, high_value, 3, 0),
                jump(EQUAL, high_value, 0, FAILS),
                load_low,
                jump(last, low_value, 0, FAILS),
            ]);
        }
        Comparison::Less | Comparison::LessOrEqual => {
            let last = if one.comparison == Comparison::Less { AT_LEAST } else { GREATER };
            out.extend([
                load_high,
                jump(GREATER, high_value, FAILS, 0),
                jump(EQUAL, high_value, 0, 2),
                load_low,
                jump(last, low_value, FAILS, 0),
            ]);
        }
    }
}

/// What becomes of one call.
fn leaf(rules: &[Rule], default: Action) -> Vec<sock_filter> {
    if let Some(always) = rules.iter().find(|rule| rule.conditions.is_empty()) {
        return vec![ret(always.action)];
    }
    let mut out = Vec::new();
    for rule in rules {
        let mut code = Vec::new();
        rule.conditions.iter().for_each(|one| condition(one, &mut code));
        code.push(ret(rule.action));
        let end = code.len();
        for (at, step) in code.iter_mut().enumerate() {
            let rest = u8::try_from(end - at - 1).unwrap_or(FAILS);
            if step.code & 0x07 == GO {
                step.jt = if step.jt == FAILS { rest } else { step.jt };
                step.jf = if step.jf == FAILS { rest } else { step.jf };
            }
        }
        out.extend(code);
    }
    out.push(ret(default));
    out
}

/// Numbers from each start up to the next one have the code beside it.
fn tree(leaves: &[(u32, Vec<sock_filter>)]) -> Vec<sock_filter> {
    let (left, right) = match leaves {
        [] => return Vec::new(),
        [(_, code)] => return code.clone(),
        more => more.split_at(more.len() / 2),
    };
    let (start, left, right) = (right[0].0, tree(left), tree(right));
    let mut out = match u8::try_from(left.len()) {
        Ok(over) => vec![jump(AT_LEAST, start, over, 0)],
        Err(_) => vec![jump(AT_LEAST, start, 0, 1), plain(GO, length(&left))],
    };
    out.extend(left);
    out.extend(right);
    out
}

impl Architecture {
    fn compile(&self) -> Vec<sock_filter> {
        let other = |number: u32| {
            let is_unknown = self.unknown_from.is_some_and(|from| number >= from);
            vec![ret(if is_unknown { Action::Errno(ENOSYS) } else { self.default })]
        };
        let mut starts: BTreeMap<u32, Vec<sock_filter>> = BTreeMap::from([(0, other(0))]);
        if let Some(from) = self.unknown_from {
            starts.insert(from, other(from));
        }
        for number in self.calls.keys() {
            starts.insert(number + 1, other(number + 1));
        }
        starts.extend(self.calls.iter().map(|(number, rules)| (*number, leaf(rules, self.default))));
        let mut leaves: Vec<(u32, Vec<sock_filter>)> = Vec::new();
        for (start, code) in starts {
            if leaves.last().is_none_or(|(_, before)| *before != code) {
                leaves.push((start, code));
            }
        }
        let mut out = vec![plain(LOAD, 0)];
        if let Some(x32) = self.x32 {
            out.extend([jump(AT_LEAST, X32, 0, 1), ret(x32)]);
        }
        out.extend(tree(&leaves));
        out
    }
}

/// Not there.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of errors are small")]
const ENOSYS: u16 = libc::ENOSYS as u16;

/// The program: what calls of other architectures get is `other`.
pub(super) fn compile(architectures: &[Architecture], other: Action) -> Vec<sock_filter> {
    let mut out = vec![plain(LOAD, 4)];
    for one in architectures {
        let code = one.compile();
        out.extend([jump(EQUAL, one.audit, 1, 0), plain(GO, length(&code))]);
        out.extend(code);
    }
    out.push(ret(other));
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the kernel would do: the machine that runs such programs, as far as they are made here.
    pub(crate) fn run(program: &[sock_filter], audit: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let (mut at, mut value) = (0_usize, 0_u32);
        loop {
            let step = &program[at];
            at += 1;
            let branch = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
            match step.code {
                LOAD => {
                    value = match step.k {
                        0 => number,
                        4 => audit,
                        offset => {
                            let argument = arguments[((offset - 16) / 8) as usize];
                            (if (offset - 16) % 8 == 0 { argument & 0xffff_ffff } else { argument >> 32 })
                                as u32
                        }
                    }
                }
                AND => value &= step.k,
                GO => at += step.k as usize,
                EQUAL => at += branch(value == step.k),
                GREATER => at += branch(value > step.k),
                AT_LEAST => at += branch(value >= step.k),
                RETURN => return step.k,
                other => panic!("no such step {other}"),
            }
        }
    }

    fn always(action: Action) -> Vec<Rule> {
        vec![Rule { conditions: Vec::new(), action }]
    }

    fn with(comparison: Comparison, value: u64) -> Vec<sock_filter> {
        let condition = Condition { argument: 1, comparison, value };
        let rule = Rule { conditions: vec![condition], action: Action::Errno(7) };
        let calls = BTreeMap::from([(10, vec![rule])]);
        let one =
            Architecture { audit: 1, calls, default: Action::Allow, unknown_from: Some(400), x32: None };
        compile(&[one], Action::KillProcess)
    }

    #[test]
    fn arguments_are_compared_in_all_their_64_bits() {
        let edge = 0x1_0000_0005;
        let around = [0, 4, 5, 6, edge - 1, edge, edge + 1, 0x2_0000_0000, u64::MAX];
        type Holds = fn(u64, u64) -> bool;
        let ways: [(Comparison, Holds); 7] = [
            (Comparison::NotEqual, |a, b| a != b),
            (Comparison::Less, |a, b| a < b),
            (Comparison::LessOrEqual, |a, b| a <= b),
            (Comparison::Equal, |a, b| a == b),
            (Comparison::GreaterOrEqual, |a, b| a >= b),
            (Comparison::Greater, |a, b| a > b),
            (Comparison::MaskedEqual(0x1_0000_0004), |a, b| a & 0x1_0000_0004 == b & 0x1_0000_0004),
        ];
        for (comparison, holds) in ways {
            let program = with(comparison, edge);
            for value in around {
                let expected = if holds(value, edge) { Action::Errno(7) } else { Action::Allow };
                let found = run(&program, 1, 10, [9, value, 9, 9, 9, 9]);
                assert_eq!(found, expected.value(), "{comparison:?} {value:#x}");
            }
        }
    }

    #[test]
    fn calls_without_rules_have_the_default_later_ones_are_unknown_and_other_architectures_end() {
        let program = with(Comparison::Equal, 0);
        let none = [0; 6];
        assert_eq!(run(&program, 1, 9, none), Action::Allow.value());
        assert_eq!(run(&program, 1, 11, none), Action::Allow.value());
        assert_eq!(run(&program, 1, 10, none), Action::Errno(7).value());
        assert_eq!(run(&program, 1, 400, none), Action::Errno(ENOSYS).value());
        assert_eq!(run(&program, 2, 10, none), Action::KillProcess.value());
    }

    #[test]
    fn a_call_far_beyond_those_that_are_known_has_its_own_rule() {
        let calls = BTreeMap::from([(5, always(Action::Trap)), (0xf_0005, always(Action::Allow))]);
        let one = Architecture { audit: 1, calls, default: Action::Log, unknown_from: Some(468), x32: None };
        let program = compile(&[one], Action::KillProcess);
        let answer = |number: u32| run(&program, 1, number, [0; 6]);
        let unknown = Action::Errno(ENOSYS).value();
        assert_eq!(
            [467, 468, 0xf_0004, 0xf_0006].map(answer),
            [Action::Log.value(), unknown, unknown, unknown]
        );
        assert_eq!([5, 0xf_0005].map(answer), [Action::Trap.value(), Action::Allow.value()]);
    }

    #[test]
    fn many_rules_are_told_apart() {
        let rule = |number: u16| always(Action::Errno(number));
        let calls = (0..400).step_by(3).map(|number| (u32::from(number), rule(number))).collect();
        let one = Architecture {
            audit: 1,
            calls,
            default: Action::Log,
            unknown_from: None,
            x32: Some(Action::Trap),
        };
        let program = compile(&[one], Action::KillThread);
        for number in 0..500_u16 {
            let expected = if number % 3 == 0 && number < 400 { Action::Errno(number) } else { Action::Log };
            assert_eq!(run(&program, 1, number.into(), [0; 6]), expected.value(), "{number}");
        }
        assert_eq!(run(&program, 1, X32, [0; 6]), Action::Trap.value());
    }
}
