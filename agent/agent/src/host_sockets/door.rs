//! The socket that stands in the place of one of the host's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

use crate::sys;

/// Programs connect to it where the shared tree has the host's socket.
#[derive(Debug)]
pub(super) struct Door {
    listener: OwnedFd,
}

impl Door {
    /// Listens at `path`, which is made.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &UnixAddr::new(path)?)?;
        listen(&listener, Backlog::MAXCONN)?;
        Ok(Self { listener })
    }

    /// The next connection, if one is there.
    pub(super) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        sys::accept(self.listener.as_fd())
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
