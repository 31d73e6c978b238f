//! Waking a session when a limit lets more through.

use std::io;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{Expiration, TimerFd, TimerSetTimeFlags};

/// No timer is set for less: what comes meanwhile goes out in one burst.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// Wakes a session when a limit lets more through.
#[derive(Debug)]
pub(super) struct Alarm<'t> {
    timer: &'t TimerFd,
    /// When it goes off, if it is set.
    at: Option<Duration>,
}

impl<'t> Alarm<'t> {
    pub(super) fn new(timer: &'t TimerFd) -> Self {
        Self { timer, at: None }
    }

    pub(super) fn timer(&self) -> &'t TimerFd {
        self.timer
    }

    /// Goes off after `wait` or earlier.
    pub(super) fn set(&mut self, now: Duration, wait: Duration) -> io::Result<()> {
        let wait = wait.max(LEAST_WAIT);
        let at = now.saturating_add(wait);
        if self.at.is_none_or(|before| at < before) {
            self.timer.set(Expiration::OneShot(TimeSpec::from_duration(wait)), TimerSetTimeFlags::empty())?;
            self.at = Some(at);
        }
        Ok(())
    }

    /// It has gone off, or need not any more.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.at = None;
        Ok(self.timer.unset()?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::timerfd::{ClockId, TimerFlags};

    use super::*;

    #[test]
    fn alarm_is_set_for_the_first_of_two_times() {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).unwrap();
        let mut alarm = Alarm::new(&timer);
        let (now, hour) = (Duration::ZERO, Duration::from_secs(3600));
        alarm.set(now, hour).unwrap();
        alarm.set(now, Duration::ZERO).unwrap();
        alarm.set(now, hour).unwrap();
        let told = |limit| poll(&mut [PollFd::new(timer.as_fd(), PollFlags::POLLIN)], limit).unwrap();
        assert_eq!(told(PollTimeout::NONE), 1);
        alarm.clear().unwrap();
        assert_eq!(told(PollTimeout::ZERO), 0);
    }
}
