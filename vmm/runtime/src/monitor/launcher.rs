//! The monitor's end of the socket pair to the launcher.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use vmrun_proto::FrameError;
use vmrun_spec::{LauncherMessage, MonitorMessage};

#[derive(Debug)]
pub(crate) struct Launcher {
    stream: UnixStream,
    /// What the verb waits for: from then on it may leave.
    last: MonitorMessage,
    told: Cell<bool>,
    /// The socket of the service manager that the launcher was started by.
    manager: Option<UnixDatagram>,
}

impl Launcher {
    pub(crate) fn new(stream: UnixStream, last: MonitorMessage, manager: Option<UnixDatagram>) -> Self {
        Self { stream, last, told: Cell::new(false), manager }
    }

    pub(crate) fn manager(&self) -> Option<&UnixDatagram> {
        self.manager.as_ref()
    }

    /// An error means that the launcher is gone.
    pub(crate) fn send(&self, message: &MonitorMessage) -> Result<(), FrameError> {
        if *message == self.last {
            self.told.set(true);
        }
        vmrun_proto::write_frame(&self.stream, message)
    }

    /// Whether it was told what it waits for.
    pub(crate) fn may_leave(&self) -> bool {
        self.told.get()
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
