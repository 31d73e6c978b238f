//! The connections that one thread carries.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::epoll::EpollFlags;

use crate::{Pair, Progress, Side};

/// What the sockets of pairs are to be watched for.
pub const WATCHED: EpollFlags =
    EpollFlags::EPOLLIN.union(EpollFlags::EPOLLOUT).union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);

/// Pairs by their numbers.
#[derive(Debug, Default)]
pub struct Pairs {
    pairs: BTreeMap<u64, Pair>,
    /// Those that have more to do without waiting for an event.
    busy: BTreeSet<u64>,
}

impl Pairs {
    /// Carries one more, once `watch` has seen to both of its sockets.
    ///
    /// # Errors
    /// One of them cannot be watched; the pair is closed.
    pub fn insert<E: Into<io::Error>>(
        &mut self,
        number: u64,
        pair: Pair,
        mut watch: impl FnMut(Side, BorrowedFd<'_>) -> Result<(), E>,
    ) -> io::Result<()> {
        for side in [Side::Near, Side::Far] {
            watch(side, pair.socket(side)).map_err(Into::into)?;
        }
        self.busy.insert(number);
        self.pairs.insert(number, pair);
        Ok(())
    }

    /// Something has happened to a side of one, which may be over by now.
    pub fn ready(&mut self, number: u64, side: Side, events: EpollFlags) {
        let Some(pair) = self.pairs.get_mut(&number) else { return };
        if events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            pair.hung_up(side);
        }
        self.busy.insert(number);
    }

    /// A turn for each that has something to do. Says whether one has come to its end.
    pub fn advance(&mut self) -> bool {
        let before = self.pairs.len();
        for number in std::mem::take(&mut self.busy) {
            match self.pairs.get_mut(&number).map(Pair::advance) {
                Some(Progress::More) => drop(self.busy.insert(number)),
                Some(Progress::Over) => drop(self.pairs.remove(&number)),
                Some(Progress::Waiting) | None => {}
            }
        }
        self.pairs.len() < before
    }

    /// Whether [`Self::advance`] has something to do though nothing happens.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.busy.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use nix::errno::Errno;

    use super::*;

    fn pair() -> (Pair, UnixStream, UnixStream) {
        let ((near, client), (far, server)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        for socket in [&near, &far] {
            socket.set_nonblocking(true).unwrap();
        }
        (Pair::new(near.into(), far.into(), Vec::new()), client, server)
    }

    #[test]
    fn pair_is_carried_until_both_ways_have_ended() {
        let (one, mut client, mut server) = pair();
        let mut pairs = Pairs::default();
        let mut watched = Vec::new();
        pairs
            .insert(7, one, |side, _| {
                watched.push(side);
                Ok::<_, Errno>(())
            })
            .unwrap();
        assert_eq!(watched, [Side::Near, Side::Far]);
        assert!(pairs.is_busy() && !pairs.advance() && !pairs.is_busy());
        client.write_all(b"x").unwrap();
        drop(client);
        pairs.ready(7, Side::Near, EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP);
        // Nobody hears what comes back, so that both have ended.
        assert!(pairs.advance() && pairs.is_empty());
        let mut heard = String::new();
        server.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "x");
        // News of one that is over.
        pairs.ready(7, Side::Far, EpollFlags::EPOLLIN);
        assert!(!pairs.is_busy());
    }

    #[test]
    fn pair_that_cannot_be_watched_is_closed() {
        let (one, mut client, _server) = pair();
        let mut pairs = Pairs::default();
        let refused =
            pairs.insert(7, one, |side, _| if side == Side::Far { Err(Errno::ENOSPC) } else { Ok(()) });
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(nix::libc::ENOSPC));
        assert!(pairs.is_empty() && !pairs.is_busy());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}
