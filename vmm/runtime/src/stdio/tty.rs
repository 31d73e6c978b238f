//! Terminals: size, raw mode, becoming the controlling one.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::termios::{self, SetArg, Termios};
use rustix::process::ioctl_tiocsctty;
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};
use vmrun_proto::ConsoleSize;

/// The size of a terminal; `None` when it has none or is no terminal.
pub(crate) fn size(terminal: impl AsFd) -> Option<ConsoleSize> {
    let size = tcgetwinsize(terminal).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(ConsoleSize { rows: size.ws_row, columns: size.ws_col })
}

/// Sets the size of a terminal.
pub(crate) fn set_size(terminal: impl AsFd, size: ConsoleSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// Makes the terminal the controlling one of this session, so that SIGWINCH and SIGHUP come from it.
pub(crate) fn make_controlling(terminal: impl AsFd) -> io::Result<()> {
    Ok(ioctl_tiocsctty(terminal)?)
}

/// A terminal that passes bytes on unchanged; it becomes what it was when this is dropped.
#[derive(Debug)]
pub(crate) struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Switches a terminal to raw mode; `None` when the descriptor is no terminal.
    pub(crate) fn enter(terminal: impl AsFd) -> io::Result<Option<Self>> {
        if !terminal.as_fd().is_terminal() {
            return Ok(None);
        }
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = termios::tcgetattr(&terminal)?;
        make_raw(&terminal, &before)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to restore.
        let _ = termios::tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

/// Raw mode for good: for the slave end of a terminal of our own.
pub(crate) fn make_raw(terminal: impl AsFd, now: &Termios) -> io::Result<()> {
    let mut raw = now.clone();
    termios::cfmakeraw(&mut raw);
    Ok(termios::tcsetattr(terminal, SetArg::TCSANOW, &raw)?)
}
