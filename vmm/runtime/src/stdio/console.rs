//! `--console-socket`: the engine gets the master end of a host terminal.
//!
//! The container's real terminal is in the guest. The host's is a pair of our
//! own whose slave end is raw, so that bytes pass both ways unchanged: the
//! engine holds the master, the monitor relays the slave.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::pty::openpty;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::termios;
use vmrun_proto::ConsoleSize;

use super::tty;

/// Why the engine did not get its terminal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    #[error("cannot {act}")]
    Io { act: &'static str, source: io::Error },
    #[error("cannot connect to the console socket {}", .path.display())]
    Connect { path: PathBuf, source: io::Error },
}

/// Makes the terminal, sends its master end to the socket, and gives the slave end.
pub(crate) fn open_console(socket: &Path, size: Option<ConsoleSize>) -> Result<OwnedFd, ConsoleError> {
    let failed = |act| move |source: io::Error| ConsoleError::Io { act, source };
    let pair = openpty(None, None).map_err(io::Error::from).map_err(failed("open a terminal"))?;
    let now =
        termios::tcgetattr(&pair.slave).map_err(io::Error::from).map_err(failed("read the terminal"))?;
    tty::make_raw(&pair.slave, &now).map_err(failed("make the terminal raw"))?;
    if let Some(size) = size {
        tty::set_size(&pair.slave, size).map_err(failed("size the terminal"))?;
    }
    tty::make_controlling(&pair.slave).map_err(failed("take the terminal as the controlling one"))?;
    send(socket, &pair.master)?;
    Ok(pair.slave)
}

fn send(socket: &Path, master: &OwnedFd) -> Result<(), ConsoleError> {
    let connection = UnixStream::connect(socket)
        .map_err(|source| ConsoleError::Connect { path: socket.to_owned(), source })?;
    let fds = [master.as_raw_fd()];
    // The name is what runc sends; receivers only want at least one byte.
    let name = [IoSlice::new(b"/dev/ptmx")];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(connection.as_raw_fd(), &name, &rights, MsgFlags::empty(), None)
        .map_err(|errno| ConsoleError::Io { act: "send the terminal", source: errno.into() })?;
    Ok(())
}
