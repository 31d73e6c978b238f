//! Seccomp filters, as runc makes them.
//!
//! libseccomp makes the filter of a profile. In front of it comes what
//! libseccomp cannot be told: a system call that is newer than every one in the
//! profile does not exist. The profile's author cannot have meant to forbid it,
//! and C libraries fall back to an older call only on `ENOSYS`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::str::FromStr;

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};

use crate::sys;

/// One instruction of a filter, as the kernel reads it (`struct sock_filter`).
type Instruction = [u8; 8];

/// The kernel takes no longer filter (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// Why a profile does not become a filter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("libseccomp: {0}")]
    Library(#[from] SeccompError),
    #[error("errnoRet {0} is too large")]
    Errno(u32),
    #[error("notifications cannot leave the guest")]
    Notify,
    #[error("the filter is too long for the kernel")]
    TooLong,
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Filters this process's system calls from now on.
pub(crate) fn load(profile: &LinuxSeccomp) -> Result<(), FilterError> {
    let filter: Vec<_> = calls_newer_than(profile).into_iter().chain(compile(profile)?).collect();
    if filter.len() > MAX_INSTRUCTIONS {
        return Err(FilterError::TooLong);
    }
    Ok(sys::load_seccomp_filter(&filter, flags(profile))?)
}

fn flags(profile: &LinuxSeccomp) -> libc::c_ulong {
    let flag = |flag: &LinuxSeccompFilterFlag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        // It is about notifications, which there are none of.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    };
    profile.flags().iter().flatten().map(flag).fold(0, |all, one| all | one)
}

/// The filter of the profile itself.
fn compile(profile: &LinuxSeccomp) -> Result<Vec<Instruction>, FilterError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut filter = ScmpFilterContext::new(default)?;
    for arch in architectures(profile)? {
        filter.add_arch(arch)?;
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        // libseccomp refuses a rule that changes nothing.
        if action != default {
            add(&mut filter, action, rule)?;
        }
    }
    exported(&filter)
}

fn add(filter: &mut ScmpFilterContext, action: ScmpAction, rule: &LinuxSyscall) -> Result<(), FilterError> {
    let args = rule.args().as_deref().unwrap_or_default();
    let comparisons: Vec<_> = args.iter().map(comparison).collect();
    let indices: HashSet<_> = args.iter().map(LinuxSeccompArg::index).collect();
    // A name that libseccomp does not know is of a call that it cannot filter.
    for call in rule.names().iter().filter_map(|name| ScmpSyscall::from_name(name).ok()) {
        if indices.len() == args.len() {
            filter.add_rule_conditional(action, call, &comparisons)?;
        } else {
            // In one rule an argument is compared once; runc makes a rule of each then.
            for comparison in &comparisons {
                filter.add_rule_conditional(action, call, std::slice::from_ref(comparison))?;
            }
        }
    }
    Ok(())
}

fn comparison(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let op = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            // The mask comes first, what is left under it second.
            return ScmpArgCompare::new(
                u32::try_from(arg.index()).unwrap_or(u32::MAX),
                ScmpCompareOp::MaskedEqual(arg.value()),
                arg.value_two().unwrap_or(0),
            );
        }
    };
    ScmpArgCompare::new(u32::try_from(arg.index()).unwrap_or(u32::MAX), op, arg.value())
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, FilterError> {
    let errno = errno.unwrap_or(libc::EPERM.unsigned_abs());
    let code = || u16::try_from(errno).map_err(|_| FilterError::Errno(errno));
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(code()?.into()),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(code()?),
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActNotify => return Err(FilterError::Notify),
    })
}

fn architectures(profile: &LinuxSeccomp) -> Result<Vec<ScmpArch>, FilterError> {
    let named = profile.architectures().iter().flatten();
    Ok(named.map(|arch| ScmpArch::from_str(&arch.to_string())).collect::<Result<_, _>>()?)
}

/// libseccomp writes a filter into a descriptor. One that does not fit a pipe is too long.
fn exported(filter: &ScmpFilterContext) -> Result<Vec<Instruction>, FilterError> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(io::Error::from)?;
    filter.export_bpf(&writer)?;
    drop(writer);
    let mut bytes = Vec::new();
    File::from(reader).read_to_end(&mut bytes)?;
    Ok(bytes.chunks_exact(8).filter_map(|bytes| bytes.try_into().ok()).collect())
}

/// Offsets in what a filter sees of a call (`struct seccomp_data`).
const CALL: u32 = 0;
const ARCH: u32 = 4;

/// From here on calls of x86-64 are x32's.
const FIRST_OF_X32: u32 = 0x4000_0000;

/// The architectures of the guest's programs, as libseccomp and as the kernel calls them.
const ARCHITECTURES: [(ScmpArch, u32); 2] = [(ScmpArch::X8664, 0xC000_003E), (ScmpArch::X86, 0x4000_0003)];

/// Refuses calls beyond the profile with `ENOSYS` and goes on behind itself with others.
fn calls_newer_than(profile: &LinuxSeccomp) -> Vec<Instruction> {
    if lets_through(profile.default_action()) {
        return Vec::new();
    }
    let filtered = architectures(profile).unwrap_or_default();
    let is_filtered = |arch: &ScmpArch| *arch == ScmpArch::X8664 || filtered.contains(arch);
    let newest = ARCHITECTURES.into_iter().filter(|(arch, _)| is_filtered(arch));
    newest.filter_map(|(arch, name)| Some(refusal(name, newest_call(profile, arch)?))).flatten().collect()
}

/// A tracer is expected to know new calls.
fn lets_through(action: LinuxSeccompAction) -> bool {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActLog, ScmpActTrace};
    matches!(action, ScmpActAllow | ScmpActLog | ScmpActTrace)
}

/// The largest number of a call that the profile names.
fn newest_call(profile: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names);
    let numbers = names.filter_map(|name| ScmpSyscall::from_name_by_arch(name, arch).ok());
    // libseccomp has numbers below zero for calls of other architectures.
    numbers.filter_map(|call| u32::try_from(call.as_raw_syscall()).ok()).max()
}

/// If the call is of `arch`, and newer. Jumps say how many instructions they skip.
fn refusal(arch: u32, newest: u32) -> [Instruction; 6] {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_GREATER: u16 = 0x25;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    [
        instruction(LOAD, ARCH, [0, 0]),
        instruction(JUMP_IF_EQUAL, arch, [0, 4]),
        instruction(LOAD, CALL, [0, 0]),
        instruction(JUMP_IF_GREATER, newest, [0, 2]),
        instruction(JUMP_IF_AT_LEAST, FIRST_OF_X32, [1, 0]),
        instruction(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs(), [0, 0]),
    ]
}

fn instruction(code: u16, operand: u32, [if_true, if_false]: [u8; 2]) -> Instruction {
    let ([c0, c1], [o0, o1, o2, o3]) = (code.to_ne_bytes(), operand.to_ne_bytes());
    [c0, c1, if_true, if_false, o0, o1, o2, o3]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MSEAL: libc::c_long = 462;
    const X86_64: u32 = 0xC000_003E;

    fn profile(value: Value) -> LinuxSeccomp {
        serde_json::from_value(value).unwrap()
    }

    fn allowing(names: &[&str]) -> Value {
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }],
        })
    }

    #[test]
    fn newest_call_is_that_of_each_architecture() {
        let profile = profile(allowing(&["read", "close_range", "no_such_call", "socketcall"]));
        assert_eq!(newest_call(&profile, ScmpArch::X8664), Some(436));
        assert_eq!(newest_call(&profile, ScmpArch::X86), Some(436));
        assert_eq!(calls_newer_than(&profile).len(), 12);
        assert_eq!(calls_newer_than(&profile)[3], instruction(0x25, 436, [0, 2]));
    }

    #[test]
    fn profile_that_lets_calls_through_knows_none_as_too_new() {
        for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"] {
            let mut value = allowing(&["read"]);
            value["defaultAction"] = json!(action);
            assert!(calls_newer_than(&profile(value)).is_empty(), "{action}");
        }
        let nothing = profile(json!({ "defaultAction": "SCMP_ACT_ERRNO" }));
        assert!(calls_newer_than(&nothing).is_empty());
    }

    #[test]
    fn only_the_architectures_of_the_profile_are_looked_at() {
        let mut value = allowing(&["read", "close_range"]);
        value.as_object_mut().unwrap().remove("architectures");
        assert_eq!(calls_newer_than(&profile(value)), refusal(X86_64, 436));
    }

    #[test]
    fn mask_of_a_condition_is_its_first_value() {
        let arg = json!({ "index": 1, "value": 0x7e02_0000, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ" });
        let expected = ScmpArgCompare::new(1, ScmpCompareOp::MaskedEqual(0x7e02_0000), 2);
        assert_eq!(comparison(&serde_json::from_value(arg).unwrap()), expected);
    }

    #[test]
    fn error_that_no_call_can_have_is_refused() {
        let errno = |errno| action(LinuxSeccompAction::ScmpActErrno, errno);
        assert!(matches!(errno(None), Ok(ScmpAction::Errno(libc::EPERM))));
        assert!(matches!(errno(Some(70_000)), Err(FilterError::Errno(70_000))));
    }

    /// What a call without arguments fails with under the filter, or zero.
    fn error_of(profile: &LinuxSeccomp, call: libc::c_long) -> i32 {
        std::thread::scope(|scope| {
            let filtered = scope.spawn(|| {
                nix::sys::prctl::set_no_new_privs().unwrap();
                load(profile).unwrap();
                sys::call_without_arguments(call)
            });
            filtered.join().unwrap()
        })
    }

    #[test]
    fn newer_calls_do_not_exist_and_older_ones_are_forbidden() {
        // What the thread itself needs, close_range being the newest.
        let names = [
            "futex",
            "madvise",
            "munmap",
            "sigaltstack",
            "rt_sigprocmask",
            "exit",
            "close",
            "close_range",
            "write",
            "set_robust_list",
            "rseq",
            "mprotect",
            "mmap",
            "brk",
            "gettid",
        ];
        let profile = profile(allowing(&names));
        assert_eq!(error_of(&profile, MSEAL), libc::ENOSYS);
        assert_eq!(error_of(&profile, libc::SYS_getppid), libc::EPERM);
        assert_eq!(error_of(&profile, libc::SYS_gettid), 0);
    }
}
