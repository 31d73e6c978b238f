//! When what has failed is tried again though nobody tells of a change.

use std::time::{Duration, Instant};

/// Each pause is twice as long as the one before it.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(64);

/// For how long a failure is left alone.
#[derive(Debug, Default)]
pub(super) struct Retries {
    pause: Option<Duration>,
    due: Option<Instant>,
}

impl Retries {
    /// The last attempt, which is over `now`, has failed in something that may work another time, or not.
    pub(super) fn note(&mut self, failed: bool, now: Instant) {
        let next = self.pause.map_or(FIRST, |pause| pause.saturating_mul(2).min(LONGEST));
        self.pause = failed.then_some(next);
        self.due = self.pause.map(|pause| now + pause);
    }

    /// The time that is left until the next attempt; none where nothing has failed.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_begin_anew_after_a_success() {
        let now = Instant::now();
        let mut retries = Retries::default();
        assert_eq!(retries.left(now), None);
        let pauses: Vec<_> = (0..9)
            .map(|_| {
                retries.note(true, now);
                retries.left(now).unwrap().as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(retries.left(now + Duration::from_secs(60)), Some(Duration::from_secs(4)));
        assert_eq!(retries.left(now + Duration::from_secs(70)), Some(Duration::ZERO));
        retries.note(false, now);
        assert_eq!(retries.left(now), None);
        retries.note(true, now);
        assert_eq!(retries.left(now), Some(FIRST));
    }
}
