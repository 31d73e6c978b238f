//! What a session waits for.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{Expiration, TimerFd, TimerSetTimeFlags};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Who has something to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Stop,
    Receive,
    Transmit,
    Control,
    Tap,
    Timer,
}

const SOURCES: [Source; 6] =
    [Source::Stop, Source::Receive, Source::Transmit, Source::Control, Source::Tap, Source::Timer];

/// No timer is set for less: what comes meanwhile goes out in one burst.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// The waiting, and what of the tap is waited for.
pub(super) struct Watch {
    epoll: Epoll,
    tap: EventSet,
}

/// What a source has said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) source: Source,
    /// It is broken; only the tap can be.
    pub(super) broken: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, tap: EventSet::empty() })
    }

    /// Waits for `source` to be readable.
    pub(super) fn add(&self, source: Source, descriptor: &impl AsRawFd) -> io::Result<()> {
        self.control(ControlOperation::Add, source, descriptor, EventSet::IN)
    }

    /// Waits for the tap to be readable or writable, as wanted; for neither, it is not waited for.
    pub(super) fn tap(&mut self, tap: &impl AsRawFd, readable: bool, writable: bool) -> io::Result<()> {
        let mut wanted = EventSet::empty();
        wanted.set(EventSet::IN, readable);
        wanted.set(EventSet::OUT, writable);
        if wanted == self.tap {
            return Ok(());
        }
        // Taken out altogether where nothing is wanted: that it is broken would be told for ever.
        let operation = match (self.tap.is_empty(), wanted.is_empty()) {
            (true, _) => ControlOperation::Add,
            (false, true) => ControlOperation::Delete,
            (false, false) => ControlOperation::Modify,
        };
        self.control(operation, Source::Tap, tap, wanted)?;
        self.tap = wanted;
        Ok(())
    }

    fn control(
        &self,
        operation: ControlOperation,
        source: Source,
        descriptor: &impl AsRawFd,
        set: EventSet,
    ) -> io::Result<()> {
        self.epoll.ctl(operation, descriptor.as_raw_fd(), EpollEvent::new(set, source as u64))
    }

    /// Who has something to say; waits for somebody unless there is work anyway.
    pub(super) fn wait(&self, busy: bool) -> io::Result<impl Iterator<Item = Event> + use<>> {
        let mut events = [EpollEvent::default(); SOURCES.len()];
        let count = match self.epoll.wait(if busy { 0 } else { -1 }, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            result => result?,
        };
        Ok(events.into_iter().take(count).filter_map(|event| {
            let source = SOURCES.into_iter().find(|&source| source as u64 == event.data())?;
            let set = event.event_set();
            let broken = source == Source::Tap && set.intersects(EventSet::ERROR | EventSet::HANG_UP);
            Some(Event {
                source,
                broken,
                readable: set.contains(EventSet::IN),
                writable: set.contains(EventSet::OUT),
            })
        }))
    }
}

/// Wakes a session when a limit lets frames through again.
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

    use nix::sys::timerfd::{ClockId, TimerFlags};

    use super::super::test_tap::{frame, tap};
    use super::*;

    fn told(watch: &Watch) -> Vec<(Source, bool, bool)> {
        watch.wait(true).unwrap().map(|event| (event.source, event.readable, event.broken)).collect()
    }

    #[test]
    fn tap_for_which_nobody_waits_wakes_nobody() {
        let (tap, host) = tap();
        let mut watch = Watch::new().unwrap();
        assert!(host.send(&frame(60)));
        watch.tap(&tap.as_fd(), false, false).unwrap();
        assert_eq!(told(&watch), []);
        watch.tap(&tap.as_fd(), true, false).unwrap();
        assert_eq!(told(&watch), [(Source::Tap, true, false)]);
        watch.tap(&tap.as_fd(), true, true).unwrap();
        drop(host);
        assert!(matches!(told(&watch)[..], [(Source::Tap, _, true)]));
        watch.tap(&tap.as_fd(), false, false).unwrap();
        assert_eq!(told(&watch), []);
    }

    #[test]
    fn alarm_is_set_for_the_first_of_two_times() {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).unwrap();
        let mut alarm = Alarm::new(&timer);
        let (now, hour) = (Duration::ZERO, Duration::from_secs(3600));
        alarm.set(now, hour).unwrap();
        alarm.set(now, Duration::ZERO).unwrap();
        alarm.set(now, hour).unwrap();
        let watch = Watch::new().unwrap();
        watch.add(Source::Timer, &timer.as_fd()).unwrap();
        let woken: Vec<_> = watch.wait(false).unwrap().map(|event| event.source).collect();
        assert_eq!(woken, [Source::Timer]);
        alarm.clear().unwrap();
        assert_eq!(told(&watch), []);
    }
}
