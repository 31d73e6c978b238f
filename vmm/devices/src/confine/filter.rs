//! The seccomp filter of a class.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, apply_filter};

use super::calls::{Call, EVERYWHERE};
use super::program::{ProgramError, Test, Verdict, program};

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It is none.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The kernel takes none.
    #[error("the kernel, which needs CONFIG_SECCOMP_FILTER, does not take it: {0}")]
    Kernel(#[from] seccompiler::Error),
}

/// Lets the calling thread make the calls of every thread and those of `lists`. Any other ends the
/// process: whoever makes one is not this program any more.
pub(super) fn install(lists: &[&[Call]]) -> Result<(), FilterError> {
    #[cfg_attr(not(feature = "planted-holes"), allow(unused_mut))]
    let mut program = of_lists(lists)?;
    #[cfg(feature = "planted-holes")]
    crate::planted::soften(&mut program);
    Ok(apply_filter(&program)?)
}

pub(super) fn of_lists(lists: &[&[Call]]) -> Result<BpfProgram, ProgramError> {
    let mut verdicts = BTreeMap::new();
    for call in EVERYWHERE.iter().chain(lists.iter().copied().flatten()) {
        let number = narrow(call.number().cast_unsigned())?;
        // A class may add to what every thread's may be.
        let verdict = match verdicts.remove(&number) {
            Some(known) => either(known, verdict(call)?),
            None => verdict(call)?,
        };
        verdicts.insert(number, verdict);
    }
    program(&verdicts)
}

/// Allows what one of them allows.
fn either(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::AllowIf(one), Verdict::AllowIf(other)) => Verdict::AllowIf([one, other].concat()),
        (Verdict::Allow, _) | (_, Verdict::Allow) => Verdict::Allow,
        (Verdict::Kill | Verdict::Missing, other) | (other, Verdict::Kill | Verdict::Missing) => other,
    }
}

fn verdict(call: &Call) -> Result<Verdict, ProgramError> {
    Ok(match *call {
        Call::Any(_) => Verdict::Allow,
        Call::Missing(_) => Verdict::Missing,
        Call::OneOf(_, index, values) => Verdict::AllowIf(vec![vec![one_of(index, values)?]]),
        Call::Signals(signals) => {
            let ours = one_of(0, &[std::process::id().into()])?;
            Verdict::AllowIf(vec![vec![ours, one_of(2, signals)?]])
        }
        Call::Without(_, index, bits) => Verdict::AllowIf(vec![vec![Test::Without(index, narrow(bits)?)]]),
    })
}

fn one_of(index: u8, values: &[u64]) -> Result<Test, ProgramError> {
    let values = values.iter().map(|value| narrow(*value)).collect::<Result<_, _>>()?;
    Ok(Test::OneOf(index, values))
}

/// The kernel takes all arguments that are looked at for 32 bits wide, or knows no flag above.
fn narrow(value: u64) -> Result<u32, ProgramError> {
    u32::try_from(value).map_err(|_| ProgramError::Wide(value))
}
