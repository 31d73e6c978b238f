//! The user's end of a terminal.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command};

use nix::pty::{Winsize, openpty};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::termios::{Termios, tcgetattr};

use super::output::Output;
use super::wait;

/// A pseudo-terminal, held by its master end.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: File,
    slave: Option<OwnedFd>,
}

impl Terminal {
    pub(crate) fn new(rows: u16, columns: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).unwrap();
        Self { master: pair.master.into(), slave: Some(pair.slave) }
    }

    /// Takes the one that a runtime sends through its console socket.
    pub(crate) fn receive(listener: &UnixListener) -> (Self, Output) {
        let master = receive_master(listener);
        let output = Output::collect(master.try_clone().unwrap());
        (Self { master, slave: None }, output)
    }

    /// Takes it, reads until this text has come, and closes it.
    pub(crate) fn receive_and_hang_up(listener: &UnixListener, text: &str) {
        let mut master = receive_master(listener);
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut piece = [0; 4096];
            let count = master.read(&mut piece).unwrap();
            seen.extend(&piece[..count]);
        }
    }

    /// Starts a command on it; from then on its other end is the command's alone.
    pub(crate) fn spawn(&mut self, command: &mut Command) -> (Child, Output) {
        let slave = self.slave.take().unwrap();
        let child = command
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave)
            .spawn()
            .unwrap();
        (child, Output::collect(self.master.try_clone().unwrap()))
    }

    /// What a user types.
    pub(crate) fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
    }

    /// How the other end is set.
    pub(crate) fn settings(&self) -> Termios {
        tcgetattr(self.master.as_fd()).unwrap()
    }
}

fn receive_master(listener: &UnixListener) -> File {
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = wait::until("a connection to the console socket", || listener.accept().ok());
    stream.set_nonblocking(false).unwrap();
    let mut name = [0; 4096];
    let mut parts = [IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let fds = message.cmsgs().unwrap().find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let [fd] = fds.unwrap()[..] else { panic!("not one descriptor came") };
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    unsafe { File::from_raw_fd(fd) }
}
