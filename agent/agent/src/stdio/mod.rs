//! stdio of processes: pipes and terminals in the guest, streams to the host.

mod endpoints;
mod relay;

use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

pub(crate) use endpoints::{ChildStdio, Endpoint, Endpoints, kinds, make_pipes};
pub(crate) use relay::{Progress, Relay};

/// Makes reads and writes return instead of wait.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}
