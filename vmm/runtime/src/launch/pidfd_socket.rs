//! `--pidfd-socket`: the caller gets a descriptor of the process, which no other can take the place of.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::LaunchError;

/// Sends a descriptor of `pid`, which must not have been reaped.
pub(crate) fn send(socket: &Path, pid: i32) -> Result<(), LaunchError> {
    try_send(socket, pid).map_err(|source| LaunchError::PidfdSocket { path: socket.to_owned(), source })
}

fn try_send(socket: &Path, pid: i32) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let connection = UnixStream::connect(socket)?;
    let fds = [pidfd.as_raw_fd()];
    // The name is what runc sends; receivers only want at least one byte.
    let name = [IoSlice::new(b"pidfd")];
    sendmsg::<()>(
        connection.as_raw_fd(),
        &name,
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, RawFd};
    use std::os::unix::net::UnixListener;

    use nix::sys::socket::{ControlMessageOwned, recvmsg};

    use super::*;

    #[test]
    fn descriptor_of_the_process_arrives() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        send(&path, i32::try_from(std::process::id()).unwrap()).unwrap();
        let (connection, _) = listener.accept().unwrap();
        let mut byte = [0; 16];
        let mut data = [std::io::IoSliceMut::new(&mut byte)];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let fd = connection.as_fd().as_raw_fd();
        let message = recvmsg::<()>(fd, &mut data, Some(&mut space), MsgFlags::empty()).unwrap();
        assert!(
            matches!(message.cmsgs().unwrap().next(), Some(ControlMessageOwned::ScmRights(fds)) if fds.len() == 1)
        );
        assert!(send(&directory.path().join("none"), 1).is_err());
    }
}
