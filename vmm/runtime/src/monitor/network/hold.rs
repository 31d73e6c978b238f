//! While the CPUs of a paused container's machine are held nobody in the guest answers: what it is asked for is given
//! up at once, and asked for again when they go on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Readable while they are held.
#[derive(Clone, Debug)]
pub(super) struct Hold(Arc<EventFd>);

impl Hold {
    /// They run.
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    pub(super) fn begin(&self) -> io::Result<()> {
        Ok(self.0.write(1).map(drop)?)
    }

    pub(super) fn end(&self) -> io::Result<()> {
        match self.0.read() {
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Hold {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_is_on_from_its_beginning_to_its_end() {
        let hold = Hold::new().unwrap();
        let other = hold.clone();
        assert!(!other.is_on());
        for _ in 0..2 {
            hold.begin().unwrap();
            assert!(other.is_on() && other.is_on());
        }
        hold.end().unwrap();
        assert!(!other.is_on());
        hold.end().unwrap();
    }
}
