//! What a session waits for.

use std::io;
use std::os::fd::AsRawFd;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Who has something to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Stop,
    Queue,
    Timer,
}

const SOURCES: [Source; 3] = [Source::Stop, Source::Queue, Source::Timer];

/// The waiting.
pub(super) struct Watch(Epoll);

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new()?))
    }

    /// Waits for `source` to be readable.
    pub(super) fn add(&self, source: Source, descriptor: &impl AsRawFd) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, source as u64);
        self.0.ctl(ControlOperation::Add, descriptor.as_raw_fd(), event)
    }

    /// Who has something to say; waits for somebody unless there is work anyway.
    pub(super) fn wait(&self, busy: bool) -> io::Result<impl Iterator<Item = Source> + use<>> {
        let mut events = [EpollEvent::default(); SOURCES.len()];
        let count = match self.0.wait(if busy { 0 } else { -1 }, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            result => result?,
        };
        let told = events.into_iter().take(count);
        Ok(told.filter_map(|event| SOURCES.into_iter().find(|&source| source as u64 == event.data())))
    }
}
