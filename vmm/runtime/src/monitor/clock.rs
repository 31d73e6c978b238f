//! The guest's wall clock follows the host's.
//!
//! The guest takes the time of the day over once, when it boots, and counts on from there by the processor's
//! counter. The host's clock goes another way: NTP disciplines it, somebody sets it, it is ahead
//! by the whole time that the host was suspended. So it is compared from time to time, and at once when the
//! host's has been set.
//!
//! ```text
//!   asks ─▶ guest's clock, somewhere between the asking and the answer ─▶ how far it is behind
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// How often the clocks are compared: an ordinary quartz is off by 15 ms after that.
const PERIOD: Duration = Duration::from_secs(300);

/// Less is left as it is, ns.
const TOLERANCE_NS: i64 = 5_000_000;

/// How often the guest is asked in a comparison where its answers take long: each narrows down where its clock is.
const LOOKS: u32 = 3;

/// Tells when the clocks are to be compared.
#[derive(Debug)]
pub(super) struct Comparison {
    timer: TimerFd,
}

impl Comparison {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let comparison = Self { timer: TimerFd::new(ClockId::CLOCK_REALTIME, flags)? };
        comparison.put_off()?;
        Ok(comparison)
    }

    /// Makes it quiet until the next is due.
    pub(super) fn put_off(&self) -> io::Result<()> {
        // Readable, too, when the host's clock is set: also at the end of a suspend.
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        let due = Expiration::OneShot(TimeSpec::from_duration(since_1970() + PERIOD));
        match self.timer.set(due, flags) {
            // It was set since the last time: of that we know by now.
            Err(Errno::ECANCELED) => Ok(self.timer.set(due, flags)?),
            other => Ok(other?),
        }
    }
}

impl AsFd for Comparison {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Compares the clocks, and has the guest's corrected. `ask` has the guest adjust its clock by so many
/// nanoseconds and gives what it shows then; nothing where the guest does not answer.
pub(super) fn follow<E>(mut ask: impl FnMut(i64) -> Result<Option<i64>, E>) -> Result<(), E> {
    let mut known = Behind::UNKNOWN;
    for _ in 0..LOOKS {
        let before = nanoseconds(since_1970());
        let Some(guest) = ask(0)? else { return Ok(()) };
        known = known.seen(before, guest, nanoseconds(since_1970()));
        if known.is_exact() {
            break;
        }
    }
    if let Some(behind) = known.correction() {
        ask(behind)?;
    }
    Ok(())
}

/// What the host's clock shows, ns since 1970.
pub(super) fn now_ns() -> i64 {
    nanoseconds(since_1970())
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// Between what the guest is behind the host, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Behind {
    least: i64,
    most: i64,
}

impl Behind {
    const UNKNOWN: Self = Self { least: i64::MIN, most: i64::MAX };

    /// With one look more: the guest looked at its clock at some time between the host's two looks.
    fn seen(self, before: i64, guest: i64, after: i64) -> Self {
        Self {
            least: self.least.max(before.saturating_sub(guest)),
            most: self.most.min(after.saturating_sub(guest)),
        }
    }

    fn uncertain(self) -> i64 {
        self.most.saturating_sub(self.least) / 2
    }

    /// Another look would tell nothing more that counts.
    fn is_exact(self) -> bool {
        self.uncertain() <= TOLERANCE_NS
    }

    /// How far it is behind, where that is more than can be known.
    fn correction(self) -> Option<i64> {
        let uncertain = self.uncertain();
        let behind = self.least.saturating_add(uncertain);
        (behind.unsigned_abs() > uncertain.max(TOLERANCE_NS).unsigned_abs()).then_some(behind)
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn difference_counts_where_it_is_more_than_the_answers_time() {
        let difference = |before, guest, after| Behind::UNKNOWN.seen(before, guest, after).correction();
        assert_eq!(difference(0, 50 * MS, 100 * MS), None);
        assert_eq!(difference(0, 101 * MS, 100 * MS), Some(-51 * MS));
        assert_eq!(difference(0, -7 * MS, 2 * MS), Some(8 * MS));
        assert_eq!(difference(0, 5 * MS, 2 * MS), None);
        // Whatever the guest says, there is a number or none.
        let _ = [difference(i64::MIN, 0, i64::MAX), difference(0, i64::MIN, 2), difference(2, i64::MAX, 0)];
    }

    #[test]
    fn answers_that_take_long_tell_more_together() {
        // 15 ms behind, which neither answer shows alone.
        let one = Behind::UNKNOWN.seen(0, 5 * MS, 30 * MS);
        assert_eq!((one.correction(), one.is_exact()), (None, false));
        let both = one.seen(100 * MS, 88 * MS, 130 * MS);
        assert_eq!((both.least, both.most), (12 * MS, 25 * MS));
        assert_eq!(both.correction(), Some(18 * MS + MS / 2));
        assert!(both.seen(200 * MS, 186 * MS, 202 * MS).is_exact());
    }

    #[test]
    fn guest_that_is_right_is_asked_once_and_one_that_is_not_is_corrected() {
        let mut asked = Vec::new();
        let behind_by = |ns: i64, asked: &mut Vec<i64>| {
            follow::<()>(|adjust| {
                asked.push(adjust);
                Ok(Some(nanoseconds(since_1970()) - ns))
            })
            .unwrap();
        };
        behind_by(0, &mut asked);
        assert_eq!(asked, [0]);
        asked.clear();
        behind_by(3600 * 1000 * MS, &mut asked);
        assert!(asked[0] == 0 && (asked[1] - 3600 * 1000 * MS).abs() < 1000 * MS, "{asked:?}");
        assert_eq!(follow(|_| Err("gone")), Err("gone"));
        assert_eq!(follow::<()>(|_| Ok(None)), Ok(()));
    }

    #[test]
    fn nothing_is_due_at_the_beginning() {
        let comparison = Comparison::new().unwrap();
        comparison.put_off().unwrap();
        let mut fds = [PollFd::new(comparison.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(0));
    }
}
