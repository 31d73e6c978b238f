//! A connection to a socket of the host's.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// What came of an attempt.
#[derive(Debug)]
pub(super) enum Attempt {
    Connected(OwnedFd),
    /// Who listens there has as many connections waiting as he has room for.
    Full,
    /// Nobody takes it.
    Refused(io::Error),
}

/// Connects to the socket that `mount`, a descriptor that only names it, is.
pub(super) fn attempt(mount: &OwnedFd) -> Attempt {
    match connected(mount) {
        Ok(connection) => Attempt::Connected(connection),
        Err(Errno::EAGAIN) => Attempt::Full,
        Err(errno) => Attempt::Refused(errno.into()),
    }
}

fn connected(mount: &OwnedFd) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connection = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(connection.as_raw_fd(), &UnixAddr::new(name_of(mount).as_str())?)?;
    Ok(connection)
}

/// By name sockets are found and by nothing else; this one leads to the very file, past all directories.
pub(super) fn name_of(socket: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", socket.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use rustix::fs::{Mode, OFlags, open};

    use super::*;

    fn named(path: &Path) -> OwnedFd {
        open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn socket_is_reached_whatever_has_its_name_now() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mount = named(&path);
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        other.set_nonblocking(true).unwrap();
        assert!(matches!(attempt(&mount), Attempt::Connected(_)));
        listener.accept().unwrap();
        assert!(other.accept().is_err());
        // As with a bind mount, one who has gone does not come back under the same name.
        drop(listener);
        assert!(matches!(attempt(&mount), Attempt::Refused(_)));
    }

    #[test]
    fn full_queue_is_told_from_a_refusal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
        nix::sys::socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        let mount = named(&path);
        assert!(matches!(attempt(&mount), Attempt::Refused(_)));
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let _first = attempt(&mount);
        assert!(matches!(attempt(&mount), Attempt::Full));
    }
}
