//! (pure) The filter in the kernel's instructions.

use super::Rule;

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    pub(super) code: u8,
    /// The source in the upper half, the destination in the lower.
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

/// The register of the answer, of the context, and those that hold what is asked for.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
/// What remains of the context's register once all is read.
const REST: u8 = CONTEXT;

/// `r = *(u32 *)(r + offset)`
pub(super) const LOAD_WORD: u8 = 0x61;
/// 32 bit arithmetic: the upper half of the destination becomes 0.
pub(super) const MOVE: u8 = 0xb4;
pub(super) const MOVE_REGISTER: u8 = 0xbc;
pub(super) const AND: u8 = 0x54;
pub(super) const SHIFT_RIGHT: u8 = 0x74;
/// Goes on `offset` instructions later when the two differ.
pub(super) const JUMP_UNLESS: u8 = 0x55;
pub(super) const EXIT: u8 = 0x95;

const fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | destination, offset, immediate }
}

/// Answers 1 when a rule allows all that is asked for, 0 otherwise.
pub(super) fn program(rules: &[Rule]) -> Vec<Instruction> {
    // The context: access << 16 | kind, major, minor.
    let mut out = vec![
        op(LOAD_WORD, KIND, CONTEXT, 0, 0),
        op(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        op(AND, KIND, 0, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        op(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        op(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules {
        out.extend(allow(rule));
    }
    out.push(op(MOVE, ANSWER, 0, 0, 0));
    out.push(op(EXIT, 0, 0, 0, 0));
    out
}

fn allow(rule: &Rule) -> Vec<Instruction> {
    let mut tests = vec![
        op(JUMP_UNLESS, KIND, 0, 0, rule.kind as i32),
        // What is asked for beyond the rule.
        op(MOVE_REGISTER, REST, ACCESS, 0, 0),
        op(AND, REST, 0, 0, !rule.access),
        op(JUMP_UNLESS, REST, 0, 0, 0),
    ];
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        tests.extend(number.map(|number| op(JUMP_UNLESS, register, 0, 0, number)));
    }
    tests.extend([op(MOVE, ANSWER, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
    let length = tests.len();
    for (place, test) in tests.iter_mut().enumerate().filter(|(_, test)| test.code == JUMP_UNLESS) {
        // To the first instruction of the next rule.
        test.offset = i16::try_from(length - place - 1).unwrap_or(i16::MAX);
    }
    tests
}
