//! The monitor's control socket, seen from a verb.

mod message;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use vmrun_proto::FrameError;

pub(crate) use self::message::{ControlReply, ControlRequest};
use crate::error::Error;

/// Why a verb could not talk to the monitor.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("cannot reach the monitor")]
    Connect(#[source] io::Error),
    /// The conversation broke.
    #[error("no answer from the monitor within {} s", LIMIT.as_secs())]
    Talk(#[source] FrameError),
}

/// How long the monitor may take for one request: longer than its own waits for the guest.
const LIMIT: Duration = Duration::from_secs(70);

/// Sends one request to the monitor of the container in `directory`.
pub(crate) fn ask(directory: &Path, socket: &str, request: &ControlRequest) -> Result<ControlReply, Error> {
    let connection = connect(directory, socket).map_err(ControlError::Connect)?;
    vmrun_proto::write_frame(&connection, request).map_err(ControlError::Talk)?;
    match vmrun_proto::read_frame(&connection).map_err(ControlError::Talk)? {
        ControlReply::Failed(report) => Err(Error::Reported(report)),
        ControlReply::WrongState(status) => Err(Error::WrongState { act: request.act(), status }),
        done => Ok(done),
    }
}

/// A socket's path has at most 107 bytes, so it goes through the open directory.
fn connect(directory: &Path, socket: &str) -> io::Result<UnixStream> {
    let directory = File::open(directory)?;
    let path = format!("/proc/self/fd/{}/{socket}", directory.as_raw_fd());
    let connection = UnixStream::connect(path)?;
    connection.set_read_timeout(Some(LIMIT))?;
    connection.set_write_timeout(Some(LIMIT))?;
    Ok(connection)
}
