//! epoll, with a typed token for each watched descriptor.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Events taken at once.
const BATCH: usize = 64;

/// What a descriptor belongs to. Ids are never used again, so an event that was
/// already fetched when its descriptor was closed finds nothing and is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Token {
    /// The signal descriptor.
    Signals,
    /// The listening socket.
    Listener,
    /// A connection of the host that carries frames, or has said nothing yet.
    Connection(u64),
    /// The report socket of a process.
    Report(u64),
    /// The socket on which the program of a process says how it is.
    Notify(u64),
    /// The connection of a stdio stream.
    StreamConnection(u64),
    /// The guest's end of a stdio stream.
    StreamGuest(u64),
    /// The count of kills for want of memory, of the container with this init.
    MemoryEvents(u64),
    /// The name servers of the container with this init.
    Names(u64),
    /// What stands for the host's sockets in the container with this init.
    Sockets(u64),
}

const KINDS: u64 = 10;

impl Token {
    fn encode(self) -> u64 {
        let (kind, id) = match self {
            Self::Signals => (0, 0),
            Self::Listener => (1, 0),
            Self::Connection(id) => (2, id),
            Self::Report(id) => (3, id),
            Self::StreamConnection(id) => (4, id),
            Self::StreamGuest(id) => (5, id),
            Self::MemoryEvents(id) => (6, id),
            Self::Notify(id) => (7, id),
            Self::Names(id) => (8, id),
            Self::Sockets(id) => (9, id),
        };
        id * KINDS + kind
    }

    fn decode(data: u64) -> Self {
        let id = data / KINDS;
        match data % KINDS {
            0 => Self::Signals,
            1 => Self::Listener,
            2 => Self::Connection(id),
            3 => Self::Report(id),
            4 => Self::StreamConnection(id),
            5 => Self::StreamGuest(id),
            6 => Self::MemoryEvents(id),
            7 => Self::Notify(id),
            8 => Self::Names(id),
            _ => Self::Sockets(id),
        }
    }
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    /// Whose.
    pub(crate) token: Token,
    /// The descriptor has failed, or both directions are closed.
    pub(crate) hung_up: bool,
}

/// The set of watched descriptors.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Epoll,
}

impl Poller {
    pub(crate) fn new() -> nix::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)? })
    }

    /// Watches for input, as long as there is some.
    pub(crate) fn watch_input(&self, fd: impl AsFd, token: Token) -> nix::Result<()> {
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token.encode()))
    }

    /// Watches for changes: input that has come, room that has become free.
    pub(crate) fn watch_changes(&self, fd: impl AsFd, token: Token) -> nix::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(fd, EpollEvent::new(flags, token.encode()))
    }

    /// Watches for what the kernel tells of a control file that has changed.
    pub(crate) fn watch_priority(&self, fd: impl AsFd, token: Token) -> nix::Result<()> {
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLPRI | EpollFlags::EPOLLET, token.encode()))
    }

    /// Stops watching. A descriptor that is closed leaves by itself.
    pub(crate) fn forget(&self, fd: impl AsFd) -> nix::Result<()> {
        self.epoll.delete(fd)
    }

    /// Waits for events, not longer than until `deadline`.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> nix::Result<Vec<Event>> {
        let mut events = [EpollEvent::empty(); BATCH];
        let count = match self.epoll.wait(&mut events, timeout(deadline)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error),
        };
        let broken = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        let seen = events.iter().take(count);
        Ok(seen
            .map(|event| Event {
                token: Token::decode(event.data()),
                hung_up: event.events().intersects(broken),
            })
            .collect())
    }
}

/// Rounded up, so that the deadline has passed when the wait ends.
fn timeout(deadline: Option<Instant>) -> EpollTimeout {
    let Some(deadline) = deadline else { return EpollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    let milliseconds = left.as_micros().div_ceil(1000);
    u16::try_from(milliseconds).map_or(EpollTimeout::from(u16::MAX), EpollTimeout::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_were() {
        for token in [
            Token::Signals,
            Token::Listener,
            Token::Connection(1),
            Token::Report(7),
            Token::StreamConnection(u64::MAX / KINDS - 1),
            Token::StreamGuest(0),
            Token::Notify(9),
            Token::MemoryEvents(9),
            Token::Names(3),
            Token::Sockets(4),
        ] {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }

    #[test]
    fn deadline_that_has_passed_does_not_wait() {
        assert_eq!(timeout(Some(Instant::now())), EpollTimeout::from(0u16));
        assert_eq!(timeout(None), EpollTimeout::NONE);
    }
}
