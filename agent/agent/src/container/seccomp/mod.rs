//! Seccomp filters, as runc makes them.
//!
//! libseccomp makes the filter of a profile. In front of it comes what
//! libseccomp cannot be told: a system call that is newer than every one in the
//! profile does not exist. The profile's author cannot have meant to forbid it,
//! and C libraries fall back to an older call only on `ENOSYS`.

mod instructions;
#[cfg(test)]
mod tests;

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

use self::instructions::{Instruction, X86, X86_64, joined, refusal};
use crate::sys;

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
    let named = architectures(profile)?;
    let of = |arch: ScmpArch| named.contains(&arch).then(|| of_architecture(profile, arch)).transpose();
    Ok(joined(&of_architecture(profile, ScmpArch::X8664)?, of(ScmpArch::X32)?, of(ScmpArch::X86)?))
}

/// The filter for the calls of one architecture, in which those of any other end the thread. For several at once
/// libseccomp takes much longer: for x86-64, x86 and x32 of an engine's profile two to three times as long.
fn of_architecture(profile: &LinuxSeccomp, arch: ScmpArch) -> Result<Vec<Instruction>, FilterError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut filter = ScmpFilterContext::new(default)?;
    if arch != ScmpArch::X8664 {
        filter.add_arch(arch)?;
        filter.remove_arch(ScmpArch::X8664)?;
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

/// The architectures that have calls of their own numbers, as libseccomp and as the kernel calls them.
const ARCHITECTURES: [(ScmpArch, u32); 2] = [(ScmpArch::X8664, X86_64), (ScmpArch::X86, X86)];

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
