//! `vmrun delete`.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Error;
use crate::hooks;
use crate::process::ProcessHandle;
use crate::status::Status;
use crate::store::{State, Store, StoreError};
use crate::verbs::OciState;

/// How `delete` treats what is in its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Kill a running container, and do not mind a missing one.
    pub force: bool,
}

/// How long a killed monitor may take to go: it frees the guest's memory.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Removes a container. What its hooks for after it complain of is in the answer.
///
/// # Errors
/// It runs and `force` is not set, or something cannot be removed.
pub fn delete(store: &Store, id: &str, options: DeleteOptions) -> Result<Vec<hooks::HookError>, Error> {
    let (id, _, state) = match super::find(store, id) {
        Err(Error::Store(StoreError::NotFound { .. })) if options.force => return Ok(Vec::new()),
        other => other?,
    };
    let Some(state) = state else {
        store.remove(&id)?;
        return Ok(Vec::new());
    };
    let status = state.status_now();
    if !options.force && !status.is_deletable() {
        let next_step = "stop it with `vmrun kill`, or use --force";
        return Err(Error::WrongState { status, next_step });
    }
    if state.monitor_lives() {
        end_monitor(&state)?;
    }
    store.remove(&id)?;
    let shown = OciState { status: Status::Stopped, pid: 0, ..OciState::of(&state) };
    Ok(hooks::run_each(&state.poststop, &shown, &state.bundle))
}

/// Ends the monitor, and with it the guest. Nothing of a container outlives it.
fn end_monitor(state: &State) -> Result<(), Error> {
    let failed = |source: std::io::Error| StoreError::Io {
        act: "end the monitor",
        path: format!("/proc/{}", state.monitor.pid).into(),
        source,
    };
    let Some(handle) = ProcessHandle::open(state.monitor).map_err(failed)? else { return Ok(()) };
    handle.kill().map_err(failed)?;
    let limit = PollTimeout::try_from(END_LIMIT).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], limit) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno.into()).into()),
            Ok(0) => return Err(failed(std::io::ErrorKind::TimedOut.into()).into()),
            Ok(_) => return Ok(()),
        }
    }
}
