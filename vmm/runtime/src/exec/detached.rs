//! A relay in the background: this binary again, with the order on a socket.

use std::io;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use vmrun_spec::{FailureReport, MonitorMessage};

use super::{ExecOptions, Order, relay};
use crate::error::{Error, chain};
use crate::fds;
use crate::launch::LaunchError;
use crate::launch::channel::{Channel, Heard};
use crate::process;
use crate::signals::Signals;

/// The verb by which a relay is started; nobody types it.
const HIDDEN_VERB: &str = "__exec";

/// How long the relay may take to start its process: longer than its own waits for the guest
/// together, so that it is the relay who says that the guest does not answer.
const START_LIMIT: Duration = Duration::from_secs(135);

/// Starts the relay and waits until its process runs.
pub(super) fn start(order: &Order, options: &ExecOptions) -> Result<u8, Error> {
    let (ours, theirs) = UnixStream::pair().map_err(LaunchError::io("make a socket pair"))?;
    let number = fds::pass_on(&theirs).map_err(LaunchError::io("pass the channel on"))?;
    let child = Command::new("/proc/self/exe")
        .arg0("vmrun")
        .args([HIDDEN_VERB, &number.to_string(), &order.process.container])
        .spawn()
        .map_err(LaunchError::io("start the relay"))?;
    drop(theirs);
    let mut guard = Guard { child: Some(child) };
    vmrun_proto::write_frame(&ours, order).map_err(LaunchError::Encode)?;
    let mut channel = Channel::new(ours);
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if !channel.has_more_by(deadline).map_err(LaunchError::io("wait for the relay"))? {
            let (who, what) = ("relay", "start the process");
            return Err(LaunchError::Late { who, pid: guard.pid()?, what, limit: START_LIMIT }.into());
        }
        let messages = match channel.receive().map_err(LaunchError::Encode)? {
            Heard::End => return Err(guard.reap()?.into()),
            Heard::Messages(messages) => messages,
        };
        for message in messages {
            match message {
                MonitorMessage::Started => {
                    super::announce(options, guard.pid()?)?;
                    guard.child = None;
                    return Ok(0);
                }
                MonitorMessage::Failed(report) => {
                    guard.reap()?;
                    return Err(Error::Reported(report));
                }
                MonitorMessage::Prepared
                | MonitorMessage::Hooked
                | MonitorMessage::Booted
                | MonitorMessage::Created
                | MonitorMessage::Ready
                | MonitorMessage::Notified(_)
                | MonitorMessage::Ended { .. } => {}
            }
        }
    }
}

/// Kills the relay, and with it its process, unless it is let go.
struct Guard {
    child: Option<Child>,
}

impl Guard {
    fn pid(&self) -> Result<i32, LaunchError> {
        let id = self.child.as_ref().map(Child::id).unwrap_or_default();
        i32::try_from(id).map_err(|_| LaunchError::io("name the relay")(io::ErrorKind::InvalidData.into()))
    }

    /// Waits for a relay that has failed, and says how it ended.
    fn reap(&mut self) -> Result<LaunchError, LaunchError> {
        let who = "relay";
        let Some(child) = self.child.take() else { return Ok(LaunchError::Silent { who, code: 0 }) };
        let status = process::reap(Pid::from_child(&child)).map_err(LaunchError::io("wait for the relay"))?;
        Ok(match status.signal() {
            Some(signal) => LaunchError::Killed { who, signal },
            None => LaunchError::Silent { who, code: status.code().unwrap_or_default() },
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be gone already; reaping it is what matters.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a relay that was started by [`start`] and gives its exit code.
pub fn exec_main(channel: RawFd) -> u8 {
    let channel = match fds::close_all_but(&[channel]).and_then(|()| fds::inherited(channel)) {
        Ok(channel) => UnixStream::from(channel),
        Err(error) => {
            // Without the socket there is only standard error.
            eprintln!("vmrun: error: relay: cannot take over the channel: {error}");
            return 1;
        }
    };
    match serve(&channel) {
        Ok(code) => code,
        Err(error) => {
            let report = match error {
                Error::Reported(report) => report,
                other => FailureReport {
                    message: chain(&other),
                    exit_code: other.exit_code(),
                    console: Vec::new(),
                },
            };
            let code = report.exit_code;
            // Once the process runs there is nobody left to tell but by the code.
            let _ = vmrun_proto::write_frame(&channel, &MonitorMessage::Failed(report));
            code
        }
    }
}

fn serve(channel: &UnixStream) -> Result<u8, Error> {
    let order: Order = vmrun_proto::read_frame(channel).map_err(LaunchError::Encode)?;
    let signals = Signals::take().map_err(LaunchError::io("take signals"))?;
    nix::unistd::setsid().map_err(io::Error::from).map_err(LaunchError::io("start a session"))?;
    relay::relay(&order, &signals, || {
        vmrun_proto::write_frame(channel, &MonitorMessage::Started).map_err(LaunchError::Encode)
    })
}
