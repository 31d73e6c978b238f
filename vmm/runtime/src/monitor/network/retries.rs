//! When what has failed is tried again though nobody tells of a change.

use std::time::Duration;

/// Each pause is twice as long as the one before it.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(64);

/// For how long a failure is left alone.
#[derive(Debug, Default)]
pub(super) struct Retries(Option<Duration>);

impl Retries {
    /// The last attempt has failed in something that may work another time, or not.
    pub(super) fn note(&mut self, failed: bool) {
        let next = self.0.map_or(FIRST, |pause| pause.saturating_mul(2).min(LONGEST));
        self.0 = failed.then_some(next);
    }

    /// The time until the next attempt; none where nothing has failed.
    pub(super) fn pause(&self) -> Option<Duration> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_begin_anew_after_a_success() {
        let mut retries = Retries::default();
        assert_eq!(retries.pause(), None);
        let pauses: Vec<_> = (0..9)
            .map(|_| {
                retries.note(true);
                retries.pause().unwrap().as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        retries.note(false);
        assert_eq!(retries.pause(), None);
        retries.note(true);
        assert_eq!(retries.pause(), Some(FIRST));
    }
}
