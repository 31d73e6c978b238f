//! How long the output of a process that has ended is waited for.
//!
//! All that it wrote is on its way by then. What comes later is somebody else's: a process that has
//! its streams, too, or a guest that makes things up. So silence ends the wait, and so does, in the
//! long run, everything else but a reader on the host that is behind.

use std::time::Duration;

/// Limits of the wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long no byte may come.
    pub(crate) silence: Duration,
    /// How long bytes may come, the time apart that the host's reader is waited for.
    pub(crate) total: Duration,
    /// How many may come, counted as they reach the reader: more than pipes and buffers can hold.
    pub(crate) bytes: u64,
}

/// A wait under way.
#[derive(Debug)]
pub(super) struct Waiting {
    patience: Patience,
    first: u64,
    seen: u64,
    silent: Duration,
    spent: Duration,
}

impl Waiting {
    /// A wait that begins when `bytes` have been copied.
    pub(super) fn new(patience: Patience, bytes: u64) -> Self {
        Self { patience, first: bytes, seen: bytes, silent: Duration::ZERO, spent: Duration::ZERO }
    }

    /// How long to wait until the next look.
    pub(super) fn step(&self) -> Duration {
        let Patience { silence, total, .. } = self.patience;
        silence.saturating_sub(self.silent).min(total.saturating_sub(self.spent))
    }

    /// `elapsed` after the last look `bytes` have been copied in all, and the reader is waited for or
    /// not; whether to go on.
    pub(super) fn goes_on(&mut self, elapsed: Duration, bytes: u64, reader_is_behind: bool) -> bool {
        let more = bytes != self.seen;
        self.seen = bytes;
        if bytes.wrapping_sub(self.first) >= self.patience.bytes {
            return false;
        }
        if reader_is_behind {
            self.silent = Duration::ZERO;
            return true;
        }
        self.silent = if more { Duration::ZERO } else { self.silent + elapsed };
        self.spent += elapsed;
        self.silent < self.patience.silence && self.spent < self.patience.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { silence: Duration::from_secs(5), total: Duration::from_secs(30), bytes: 1000 };

    /// When it ends, at looks a second apart.
    fn ends_after(look: impl Fn(u64) -> (u64, bool)) -> Option<u64> {
        let mut waiting = Waiting::new(PATIENCE, 0);
        (1..=1000).find(|&second| {
            let (bytes, behind) = look(second);
            !waiting.goes_on(Duration::from_secs(1), bytes, behind)
        })
    }

    #[test]
    fn silence_ends_it() {
        assert_eq!(ends_after(|_| (0, false)), Some(5));
        assert_eq!(ends_after(|second| (second.min(3), false)), Some(8));
    }

    #[test]
    fn guest_that_dribbles_does_not_go_on_for_ever() {
        assert_eq!(ends_after(|second| (second / 4, false)), Some(30));
    }

    #[test]
    fn guest_that_pours_ends_it_sooner() {
        assert_eq!(ends_after(|second| (second * 300, false)), Some(4));
        // A fast reader, too, is in the midst of a write at times.
        assert_eq!(ends_after(|second| (second * 300, true)), Some(4));
    }

    #[test]
    fn slow_reader_is_waited_for_without_limit() {
        assert_eq!(ends_after(|_| (0, true)), None);
        assert_eq!(ends_after(|second| (second, second < 500)), Some(529));
    }

    #[test]
    fn next_look_is_never_beyond_a_limit() {
        let mut waiting = Waiting::new(PATIENCE, 0);
        assert_eq!(waiting.step(), PATIENCE.silence);
        for second in 1..=28 {
            assert!(waiting.goes_on(Duration::from_secs(1), second, false));
        }
        assert_eq!(waiting.step(), Duration::from_secs(2));
    }
}
