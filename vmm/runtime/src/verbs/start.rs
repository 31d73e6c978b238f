//! `vmrun start`.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::inotify;

use super::delete::{first_state, put_away};
use crate::control::{self, ControlRequest};
use crate::error::{Error, chain};
use crate::hooks::{self, Surroundings};
use crate::launch::service::{self, Manager};
use crate::log;
use crate::process::ProcessHandle;
use crate::status::{Act, Status};
use crate::store::{Entry, State, Store, StoreError};
use crate::verbs::OciState;

/// Lets a created container's program run. One that is still being made is waited for.
///
/// # Errors
/// It is not created, or its program cannot be started. A hook for after the start that fails
/// ends the container, which is gone then.
pub fn start(store: &Store, id: &str) -> Result<(), Error> {
    let (_, entry, state) = super::find(store, id)?;
    let state = match state {
        Some(state) => state,
        // Its maker is about to write it.
        None => first_state(&entry)?.ok_or_else(|| StoreError::NotFound { root: store.root().to_owned() })?,
    };
    let state = created(&entry, state)?;
    let status = state.status_now();
    if !status.allows(Act::Start) {
        return Err(Error::WrongState { act: Act::Start, status });
    }
    let manager = if state.notifies { service::manager() } else { None };
    if !state.notifies && service::is_asked_to_notify() {
        log::warn("NOTIFY_SOCKET has no effect: it was not set when the container was created");
    }
    let name = manager.as_ref().map(|manager| manager.name().to_owned());
    let request = name.map_or(ControlRequest::Start, ControlRequest::StartNotifying);
    control::ask(&entry, &state, &request)?;
    poststart(&entry, &state)?;
    manager.map_or(Ok(()), |manager| await_ready(&entry, &state, &manager))
}

/// As runc does it: whoever listens on the socket has heard that the program is ready, or it has
/// ended, when the verb does.
fn await_ready(entry: &Entry, state: &State, manager: &Manager) -> Result<(), Error> {
    match control::await_ready(entry, state, |text| manager.tell(text)) {
        Err(error) if error.is_about_the_end() => Ok(()),
        other => {
            manager.await_attention();
            other
        }
    }
}

fn poststart(entry: &Entry, state: &State) -> Result<(), Error> {
    if state.poststart.is_empty() {
        return Ok(());
    }
    // It may have ended and been deleted meanwhile; the hooks are owed all the same.
    let now = entry.read().ok().flatten().unwrap_or_else(|| state.clone());
    let at = Surroundings::callers(&state.bundle);
    let Err(error) = hooks::run_all(&state.poststart, &OciState::of(&now), &at) else { return Ok(()) };
    // What could not be removed must not hide why it was to be.
    match put_away(entry, &now) {
        Ok(complaints) => hooks::complain(&complaints),
        Err(left) => log::warn(&chain(&left)),
    }
    Err(error.into())
}

/// Waits until a container is no longer being made. That takes as long as its hooks and its
/// monitor take, and no longer than the monitor lives.
fn created(entry: &Entry, state: State) -> Result<State, Error> {
    if state.status_now() != Status::Creating {
        return Ok(state);
    }
    let failed = |act| move |errno: rustix::io::Errno| StoreError::io(act, entry.directory())(errno.into());
    let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .map_err(failed("watch"))?;
    // The state is replaced as a whole: another file gets its name.
    inotify::add_watch(&changes, entry.directory(), inotify::WatchFlags::MOVED_TO)
        .map_err(failed("watch"))?;
    let monitor = ProcessHandle::open(state.monitor)
        .map_err(|source| StoreError::io("watch the monitor of", entry.directory())(source))?
        .ok_or(Error::NotCreated)?;
    loop {
        // Looked at with the watch in place, so that no change is missed.
        match entry.read() {
            Ok(Some(state)) if state.status != Status::Creating => return Ok(state),
            Ok(Some(_)) => {}
            // Who made it has put it away.
            Ok(None) | Err(StoreError::NotFound { .. }) => return Err(Error::NotCreated),
            Err(error) => return Err(error.into()),
        }
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [readable(monitor.as_fd()), readable(changes.as_fd())];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(StoreError::io("watch", entry.directory())(errno.into()).into()),
        }
        if fds.first().and_then(PollFd::any).unwrap_or(false) {
            // It may have made it and ended since.
            let state = entry.read().ok().flatten().filter(|state| state.status != Status::Creating);
            return state.ok_or(Error::NotCreated);
        }
        drain(&changes);
    }
}

/// Takes the news out of the queue: what changed is looked at anyway.
fn drain(changes: &impl AsFd) {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut news = inotify::Reader::new(changes, &mut buffer);
    while news.next().is_ok() {}
}
