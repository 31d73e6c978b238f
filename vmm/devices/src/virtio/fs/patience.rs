//! How long the file server looks for the next request before it sleeps.
//!
//! ```text
//!   queues empty ─▶ was the last pause a short one? ─no─▶ ask for kicks, sleep
//!                        └ yes ─▶ look, without kicks ─▶ a request: serve it
//!                                                     └ none: it was no short pause; ask for kicks, sleep
//! ```
//!
//! A program that makes, looks at or removes many files sends one request after the other. Each would cost an
//! exit of the guest to wake the server's thread, and the calls by which that sleeps and wakes. Looking
//! is bounded by [`SHORT`], and a guest that is slower than that once is looked for no more
//! until it has been fast again.

use std::hint::spin_loop;
use std::thread::yield_now;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// Pauses up to this are short: a few times what a guest needs to take a reply and send the next request.
const SHORT: Duration = Duration::from_micros(50);
/// Times that the queues are served without a look at anything else,
const IN_A_ROW: u32 = 64;
/// and for how long.
const TURN: Duration = Duration::from_millis(1);

/// Decides whether to look on.
#[derive(Debug)]
pub(super) struct Patience {
    /// Whether the guest has no processor to go on with while this thread looks; none before that has mattered.
    is_alone: Option<bool>,
    was_short: bool,
    slept: Instant,
    woke: Instant,
    in_a_row: u32,
}

impl Patience {
    pub(super) fn new(now: Instant) -> Self {
        Self { is_alone: None, was_short: false, slept: now, woke: now, in_a_row: 0 }
    }

    /// The thread goes to sleep.
    pub(super) fn sleeps(&mut self, now: Instant) {
        self.slept = now;
        self.in_a_row = 0;
    }

    /// The thread was woken for a request.
    pub(super) fn wakes(&mut self, now: Instant) {
        self.was_short = now.duration_since(self.slept) <= SHORT;
        self.woke = now;
    }

    /// It was woken for nothing: a guest that does that is not looked for.
    pub(super) fn came_for_nothing(&mut self) {
        self.was_short = false;
    }

    /// Requests are served; false if others have their turn now.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        self.in_a_row += 1;
        self.in_a_row < IN_A_ROW && now.duration_since(self.woke) < TURN
    }

    /// Whether there is reason to look at all.
    pub(super) fn looks(&self) -> bool {
        self.was_short
    }

    /// Looks until `found` is true, or for too long.
    pub(super) fn look<E>(&mut self, mut found: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
        let is_alone = *self.is_alone.get_or_insert_with(is_alone);
        let begun = Instant::now();
        while !found()? {
            if begun.elapsed() > SHORT {
                self.was_short = false;
                return Ok(false);
            }
            if is_alone { yield_now() } else { spin_loop() }
        }
        Ok(true)
    }
}

/// Whether this thread has one processor to run on, as the guest has then.
fn is_alone() -> bool {
    let count = |set: CpuSet| (0..CpuSet::count()).filter(|&number| set.is_set(number) == Ok(true)).count();
    sched_getaffinity(Pid::from_raw(0)).map_or(true, |set| count(set) < 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(pause: Duration) -> Patience {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        patience.sleeps(start);
        patience.wakes(start + pause);
        patience
    }

    #[test]
    fn guest_that_was_fast_is_looked_for_and_one_that_was_slow_is_not() {
        assert!(!Patience::new(Instant::now()).looks());
        assert!(after(SHORT).looks());
        assert!(!after(SHORT * 2).looks());
    }

    #[test]
    fn guest_that_lets_wait_is_looked_for_no_more() {
        let mut patience = after(SHORT);
        assert!(!patience.look(|| Ok::<_, ()>(false)).unwrap());
        assert!(!patience.looks());
        patience.sleeps(Instant::now());
        patience.wakes(Instant::now());
        assert!(patience.looks(), "it is fast again");
    }

    #[test]
    fn others_have_their_turn_after_some_requests_or_some_time() {
        let start = Instant::now();
        let awake = || {
            let mut patience = Patience::new(start);
            patience.wakes(start);
            patience
        };
        let mut patience = awake();
        for _ in 1..IN_A_ROW {
            assert!(patience.goes_on(start));
        }
        assert!(!patience.goes_on(start));
        patience.sleeps(start);
        assert!(patience.goes_on(start));
        assert!(!awake().goes_on(start + TURN));
    }

    #[test]
    fn guest_that_wakes_for_nothing_is_not_looked_for() {
        let mut patience = after(SHORT);
        patience.came_for_nothing();
        assert!(!patience.looks());
    }
}
