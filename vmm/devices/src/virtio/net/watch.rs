//! What a session waits for.

use std::io;
use std::os::fd::AsRawFd;

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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

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
}
