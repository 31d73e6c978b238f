//! The guest's wall clock, which the host corrects.

use std::io;

use nix::time::{ClockId, clock_gettime};

use crate::sys;

/// What is corrected by running faster or slower for a while, so that no time of the day is missing or comes
/// twice. The kernel makes up 0.5 ms each second.
const SLEW_NS: u64 = 100_000_000;

/// How a difference is made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Correction {
    None,
    Slew { us: i64 },
    Step { seconds: i64, ns: i64 },
}

/// Moves the clock by this much, at once or in a while, and gives what it shows now, since 1970. Where nobody has
/// looked at it yet, `at_once` in any case.
pub(crate) fn adjust(by_ns: i64, at_once: bool) -> io::Result<i64> {
    match correction(by_ns, at_once) {
        Correction::None => {}
        Correction::Slew { us } => sys::slew_clock(us)?,
        Correction::Step { seconds, ns } => sys::step_clock(seconds, ns)?,
    }
    let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
    Ok(now.tv_sec().saturating_mul(1_000_000_000).saturating_add(now.tv_nsec()))
}

fn correction(by_ns: i64, at_once: bool) -> Correction {
    match by_ns {
        0 => Correction::None,
        _ if !at_once && by_ns.unsigned_abs() <= SLEW_NS => Correction::Slew { us: by_ns / 1000 },
        // The kernel takes no negative nanoseconds.
        _ => {
            Correction::Step { seconds: by_ns.div_euclid(1_000_000_000), ns: by_ns.rem_euclid(1_000_000_000) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_are_slewed_and_large_ones_stepped() {
        let correction = |by_ns| correction(by_ns, false);
        assert_eq!(correction(0), Correction::None);
        assert_eq!(super::correction(0, true), Correction::None);
        assert_eq!(super::correction(-7_000_999, true), Correction::Step { seconds: -1, ns: 992_999_001 });
        assert_eq!(correction(-7_000_999), Correction::Slew { us: -7000 });
        assert_eq!(correction(100_000_000), Correction::Slew { us: 100_000 });
        assert_eq!(correction(3_600_000_000_001), Correction::Step { seconds: 3600, ns: 1 });
        assert_eq!(correction(-1_500_000_000), Correction::Step { seconds: -2, ns: 500_000_000 });
        assert_eq!(correction(i64::MIN), Correction::Step { seconds: -9_223_372_037, ns: 145_224_192 });
    }

    #[test]
    fn looking_changes_nothing() {
        assert!(adjust(0, true).unwrap() > 0);
    }
}
