//! The guest's ends of a process's stdio, before the host's streams are attached.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, fchown, pipe2};
use vmrun_proto::{ProcessIo, StreamKind};

use super::set_nonblocking;

/// The agent's end of one stream.
#[derive(Debug)]
pub(crate) enum Endpoint {
    /// Write end of a pipe; the process reads.
    Stdin(OwnedFd),
    /// Read end of a pipe; the process writes.
    Output(OwnedFd),
    /// Controlling side of a pseudo-terminal.
    Terminal(OwnedFd),
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdin(fd) | Self::Output(fd) | Self::Terminal(fd) => fd.as_fd(),
        }
    }
}

/// The agent's ends.
pub(crate) type Endpoints = HashMap<StreamKind, Endpoint>;

/// The process's ends; `None` is `/dev/null`.
#[derive(Debug, Default)]
pub(crate) struct ChildStdio {
    /// Standard input, output, error.
    pub(crate) streams: [Option<OwnedFd>; 3],
}

/// Which streams a process has, by kind.
pub(crate) fn kinds(io: &ProcessIo) -> Vec<StreamKind> {
    if io.terminal {
        return vec![StreamKind::Terminal];
    }
    let wanted =
        [(io.stdin, StreamKind::Stdin), (io.stdout, StreamKind::Stdout), (io.stderr, StreamKind::Stderr)];
    wanted.into_iter().filter(|(set, _)| *set).map(|(_, kind)| kind).collect()
}

/// Makes the pipes that `io` asks for, owned by `owner`: a program that opens
/// `/dev/stdout` opens the pipe anew and needs the permission to.
///
/// A terminal is made in the container; it is no pipe and not among them.
pub(crate) fn make_pipes(io: &ProcessIo, owner: u32) -> nix::Result<(Endpoints, ChildStdio)> {
    let mut near = Endpoints::new();
    let mut far = ChildStdio::default();
    for kind in kinds(io) {
        let slot = match kind {
            StreamKind::Stdin => &mut far.streams[0],
            StreamKind::Stdout => &mut far.streams[1],
            StreamKind::Stderr => &mut far.streams[2],
            StreamKind::Terminal => continue,
        };
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        fchown(&reader, Some(Uid::from_raw(owner)), None::<Gid>)?;
        let (mine, theirs) = if kind == StreamKind::Stdin { (writer, reader) } else { (reader, writer) };
        set_nonblocking(&mine)?;
        *slot = Some(theirs);
        let endpoint = if kind == StreamKind::Stdin { Endpoint::Stdin(mine) } else { Endpoint::Output(mine) };
        near.insert(kind, endpoint);
    }
    Ok((near, far))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_made_for_the_streams_that_are_set() {
        let io = ProcessIo { stdout: true, ..ProcessIo::default() };
        let (near, far) = make_pipes(&io, nix::unistd::getuid().as_raw()).unwrap();
        assert_eq!(near.keys().copied().collect::<Vec<_>>(), [StreamKind::Stdout]);
        assert!(far.streams[0].is_none() && far.streams[1].is_some() && far.streams[2].is_none());
    }

    #[test]
    fn terminal_excludes_the_other_streams() {
        let io = ProcessIo { terminal: true, stdin: true, ..ProcessIo::default() };
        assert_eq!(kinds(&io), [StreamKind::Terminal]);
        assert!(make_pipes(&io, 0).unwrap().0.is_empty());
    }
}
