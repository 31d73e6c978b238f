//! The seccomp filter of a class.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::calls::{Call, EVERYWHERE};

/// Lets the calling thread make the calls of every thread and those of `lists`. Any other ends the
/// process: whoever makes one is not this program any more.
pub(super) fn install(lists: &[&[Call]]) -> Result<(), seccompiler::Error> {
    if lists.iter().copied().flatten().any(|call| call.number() == libc::SYS_clone3) {
        apply_filter(&without_clone3()?)?;
    }
    apply_filter(&program(lists)?)
}

/// Makes the C library start threads by `clone`, whose flags a filter can see.
fn without_clone3() -> Result<BpfProgram, BackendError> {
    let unknown = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    SeccompFilter::new(rules, SeccompAction::Allow, unknown, TargetArch::x86_64)?.try_into()
}

fn program(lists: &[&[Call]]) -> Result<BpfProgram, BackendError> {
    let mut rules = BTreeMap::<_, Vec<_>>::new();
    for call in EVERYWHERE.iter().chain(lists.iter().copied().flatten()) {
        // A class may add to what every thread's may be.
        rules.entry(call.number()).or_default().extend(call_rules(call)?);
    }
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?
        .try_into()
}

/// No rule means that the call may be made whatever its arguments are.
pub(super) fn call_rules(call: &Call) -> Result<Vec<SeccompRule>, BackendError> {
    // The kernel takes all arguments that are looked at for 32 bits wide, or knows no flag above.
    let condition =
        |index, operator, value| SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value);
    let rule = |index, operator, value| SeccompRule::new(vec![condition(index, operator, value)?]);
    match *call {
        Call::Any(_) => Ok(Vec::new()),
        Call::OneOf(_, index, values) => {
            values.iter().map(|&value| rule(index, SeccompCmpOp::Eq, value)).collect()
        }
        Call::Signals(signals) => {
            let own = u64::from(std::process::id());
            let ours = |&signal| {
                SeccompRule::new(vec![
                    condition(0, SeccompCmpOp::Eq, own)?,
                    condition(2, SeccompCmpOp::Eq, signal)?,
                ])
            };
            signals.iter().map(ours).collect()
        }
        Call::Without(_, index, bits) => Ok(vec![rule(index, SeccompCmpOp::MaskedEq(bits), 0)?]),
    }
}
