//! The monitor's end of the socket pair to the launcher.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use vmrun_proto::FrameError;
use vmrun_spec::{LauncherMessage, MonitorMessage};

#[derive(Debug)]
pub(crate) struct Launcher {
    stream: UnixStream,
    started: Cell<bool>,
}

impl Launcher {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, started: Cell::new(false) }
    }

    /// An error means that the launcher is gone.
    pub(crate) fn send(&self, message: &MonitorMessage) -> Result<(), FrameError> {
        if *message == MonitorMessage::Started {
            self.started.set(true);
        }
        vmrun_proto::write_frame(&self.stream, message)
    }

    /// Whether the program was reported as started: from then on the launcher may leave.
    pub(crate) fn has_started(&self) -> bool {
        self.started.get()
    }

    pub(crate) fn receive(&self) -> Result<LauncherMessage, FrameError> {
        vmrun_proto::read_frame(&self.stream)
    }
}

/// Before the start it is readable when the launcher is gone.
impl AsFd for Launcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
