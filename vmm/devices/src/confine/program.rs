//! A filter as the kernel runs it: classic BPF, as `seccomp(2)` and `linux/filter.h` have it.
//!
//! The numbers of all calls are cut into ranges with one verdict each, and a binary tree finds the range. When a filter
//! is installed the kernel runs it for each call that there is, and there is a filter for each thread: where calls are
//! compared one after the other that is most of what a thread's confinement takes.

use std::collections::BTreeMap;

use libc::{
    BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MAXINSNS, BPF_RET, BPF_W,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS,
};
use seccompiler::{BpfProgram, sock_filter};

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The process ends.
    Kill,
    Allow,
    /// It fails with `ENOSYS`, as one that the kernel does not have.
    Missing,
    /// It is allowed where all tests of one of these rules hold; else the process ends.
    AllowIf(Vec<Vec<Test>>),
}

/// Of the lower 32 bits of the argument of this index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    OneOf(u8, Vec<u32>),
    /// None of these bits is set.
    Without(u8, u32),
}

/// Why there is no program.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProgramError {
    /// A number or an argument has 32 bits.
    #[error("{0:#x} does not have 32 bits")]
    Wide(u64),
    /// A jump of a rule, or the whole.
    #[error("{0} instructions are too many")]
    Long(usize),
}

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
const X86_64: u32 = 0xC000_003E;

/// Offsets in what a filter sees of a call (`struct seccomp_data`).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Of calls with these verdicts; any other, and any of another architecture, ends the process.
pub(super) fn program(verdicts: &BTreeMap<u32, Verdict>) -> Result<BpfProgram, ProgramError> {
    let mut program =
        vec![load(ARCH), jump(BPF_JEQ, X86_64, 1, 0), end(SECCOMP_RET_KILL_PROCESS), load(NUMBER)];
    program.extend(search(&ranges(verdicts))?);
    let most = usize::try_from(BPF_MAXINSNS).unwrap_or(0);
    if program.len() <= most { Ok(program) } else { Err(ProgramError::Long(program.len())) }
}

/// Where each begins, up to the next one; neighbours have different verdicts.
fn ranges(verdicts: &BTreeMap<u32, Verdict>) -> Vec<(u32, &Verdict)> {
    let mut ranges = vec![(0, &Verdict::Kill)];
    let mut begin = |start, verdict| {
        ranges.pop_if(|(last, _)| *last == start);
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((start, verdict));
        }
    };
    for (number, verdict) in verdicts {
        begin(*number, verdict);
        if let Some(next) = number.checked_add(1) {
            begin(next, &Verdict::Kill);
        }
    }
    ranges
}

/// Finds the range of the number that is loaded, of at least one.
fn search(ranges: &[(u32, &Verdict)]) -> Result<BpfProgram, ProgramError> {
    let (below, from) = ranges.split_at(ranges.len() / 2);
    let [(start, verdict), ..] = from else { return Ok(vec![end(SECCOMP_RET_KILL_PROCESS)]) };
    if below.is_empty() {
        return body(verdict);
    }
    let (below, from) = (search(below)?, search(from)?);
    let jump = match u8::try_from(below.len()) {
        Ok(distance) => vec![jump(BPF_JGE, *start, distance, 0)],
        // A conditional jump goes no further than that.
        Err(_) => vec![jump(BPF_JGE, *start, 0, 1), go(below.len())?],
    };
    Ok([jump, below, from].concat())
}

fn body(verdict: &Verdict) -> Result<BpfProgram, ProgramError> {
    Ok(match verdict {
        Verdict::Kill => vec![end(SECCOMP_RET_KILL_PROCESS)],
        Verdict::Allow => vec![end(SECCOMP_RET_ALLOW)],
        Verdict::Missing => vec![end(SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs())],
        Verdict::AllowIf(rules) => {
            let mut body = rules.iter().map(|tests| rule(tests)).collect::<Result<Vec<_>, _>>()?.concat();
            body.push(end(SECCOMP_RET_KILL_PROCESS));
            body
        }
    })
}

/// Allows the call where all of them hold, and goes on behind itself where not.
fn rule(tests: &[Test]) -> Result<BpfProgram, ProgramError> {
    let mut rule = vec![end(SECCOMP_RET_ALLOW)];
    for test in tests.iter().rev() {
        let mut before = holds(test, short(rule.len())?)?;
        before.append(&mut rule);
        rule = before;
    }
    Ok(rule)
}

/// Goes on where it holds, else so many instructions further.
fn holds(test: &Test, away: u8) -> Result<BpfProgram, ProgramError> {
    match test {
        Test::OneOf(argument, values) => {
            let mut left = values.len();
            let mut code = vec![load(lower_half(*argument))];
            for value in values {
                left -= 1;
                code.push(jump(BPF_JEQ, *value, short(left)?, if left == 0 { away } else { 0 }));
            }
            if values.is_empty() {
                code.push(go(usize::from(away))?);
            }
            Ok(code)
        }
        Test::Without(argument, bits) => {
            Ok(vec![load(lower_half(*argument)), jump(BPF_JSET, *bits, away, 0)])
        }
    }
}

fn lower_half(argument: u8) -> u32 {
    ARGUMENTS + 8 * u32::from(argument)
}

fn short(distance: usize) -> Result<u8, ProgramError> {
    u8::try_from(distance).map_err(|_| ProgramError::Long(distance))
}

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
}

fn jump(condition: u32, operand: u32, if_true: u8, if_false: u8) -> sock_filter {
    instruction(BPF_JMP | condition | BPF_K, operand, if_true, if_false)
}

fn go(distance: usize) -> Result<sock_filter, ProgramError> {
    let operand = u32::try_from(distance).map_err(|_| ProgramError::Long(distance))?;
    Ok(instruction(BPF_JMP | BPF_JA, operand, 0, 0))
}

fn end(with: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, with, 0, 0)
}

/// A code has eight bits.
fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    let [code, ..] = code.to_le_bytes();
    sock_filter { code: code.into(), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(verdicts: &[(u32, Verdict)]) -> Vec<(u32, Verdict)> {
        let verdicts = verdicts.iter().cloned().collect();
        ranges(&verdicts).into_iter().map(|(start, verdict)| (start, verdict.clone())).collect()
    }

    #[test]
    fn neighbours_with_one_verdict_are_one_range() {
        use Verdict::{Allow, Kill, Missing};
        assert_eq!(numbers(&[]), [(0, Kill)]);
        assert_eq!(
            numbers(&[(0, Allow), (1, Allow), (2, Kill), (3, Missing)]),
            [(0, Allow), (2, Kill), (3, Missing), (4, Kill)]
        );
        assert_eq!(numbers(&[(u32::MAX, Allow)]), [(0, Kill), (u32::MAX, Allow)]);
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let rule = |values: usize| Verdict::AllowIf(vec![vec![Test::OneOf(0, vec![7; values])]]);
        assert!(program(&[(1, rule(256))].into()).is_ok());
        assert_eq!(program(&[(1, rule(257))].into()), Err(ProgramError::Long(256)));
        let all: BTreeMap<_, _> = (0..3000).map(|number| (2 * number, Verdict::Allow)).collect();
        assert!(matches!(program(&all), Err(ProgramError::Long(_))));
    }
}
