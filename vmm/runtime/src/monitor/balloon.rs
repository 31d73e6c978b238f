//! Memory that the guest has free goes back to the host, by a device that comes when the program has run for a while.
//!
//! ```text
//!   program started ─▶ 2 s ─▶ balloon plugged ─▶ guest's kernel told ─▶ it reports what it has free, for good
//! ```
//!
//! So a start does nothing for it, and a program that is soon over pays nothing for it.

use std::time::{Duration, Instant};

use vmrun_proto::Request;
use vmrun_spec::BalloonSlot;

/// How long a program runs before that.
const DELAY: Duration = Duration::from_secs(2);

/// Since this one agents have their kernel look for it.
pub(super) const BALLOON_VERSION: u32 = 8;

/// When the balloon is due.
#[derive(Debug, Default)]
pub(super) struct Balloon {
    due: Option<Instant>,
}

impl Balloon {
    /// The program has started.
    pub(super) fn begin(&mut self, now: Instant) {
        self.due = now.checked_add(DELAY);
    }

    /// For how long it is not due; nothing where it never is.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        Some(self.due?.saturating_duration_since(now))
    }

    /// Whether it is due: once.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }
}

/// What tells the guest of it.
pub(super) fn request() -> Request {
    Request::Balloon { device: BalloonSlot::device(), announcement: BalloonSlot::announcement() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_once_and_only_when_the_program_has_run_for_a_while() {
        let now = Instant::now();
        let mut balloon = Balloon::default();
        assert!(balloon.rest(now).is_none() && !balloon.is_due(now + DELAY));
        balloon.begin(now);
        assert_eq!(balloon.rest(now), Some(DELAY));
        assert!(!balloon.is_due(now + DELAY / 2));
        assert_eq!(balloon.rest(now + DELAY * 2), Some(Duration::ZERO));
        assert!(balloon.is_due(now + DELAY));
        assert!(balloon.rest(now).is_none() && !balloon.is_due(now + DELAY * 2));
    }
}
