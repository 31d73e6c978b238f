//! `vmrun delete`.

use std::time::{Duration, Instant};

use vmrun_plan::SHARE_DIR;

use crate::control::{self, ControlError, ControlRequest};
use crate::error::Error;
use crate::hooks::{self, Surroundings};
use crate::host_cgroup;
use crate::machine;
use crate::process::{END_LIMIT, ProcessHandle};
use crate::status::{Act, Status};
use crate::store::{Entry, State, Store, StoreError};
use crate::verbs::OciState;
use crate::{log, monitor, step};

/// How `delete` treats what is in its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Kill a running container, and do not mind a missing one.
    pub force: bool,
}

/// How long a killed program's sandbox may take to write its files back and end.
const ORDERLY_LIMIT: Duration = Duration::from_secs(20);

/// Removes a container. What its hooks for after it complain of is in the answer.
///
/// # Errors
/// It runs and `force` is not set, or something cannot be removed.
pub fn delete(store: &Store, id: &str, options: DeleteOptions) -> Result<Vec<hooks::HookError>, Error> {
    match delete_existing(store, id, options) {
        Err(Error::Store(StoreError::NotFound { .. })) if options.force => Ok(Vec::new()),
        other => other,
    }
}

fn delete_existing(store: &Store, id: &str, options: DeleteOptions) -> Result<Vec<hooks::HookError>, Error> {
    let (_, entry, state) = super::find(store, id)?;
    let Some(state) = state.map_or_else(|| first_state(&entry), |state| Ok(Some(state)))? else {
        entry.remove()?;
        return Ok(Vec::new());
    };
    let status = state.status_now();
    if !options.force && !status.allows(Act::Delete) {
        return Err(Error::WrongState { act: Act::Delete, status });
    }
    put_away(&entry, &state)
}

/// Ends a container, whatever it does, and removes it.
pub(super) fn put_away(entry: &Entry, state: &State) -> Result<Vec<hooks::HookError>, Error> {
    if state.monitor_lives() {
        step!("the monitor, process {}, still lives: ending it", state.monitor.pid);
        end_container(entry, state)?;
    }
    if state.status != Status::Stopped {
        await_machine(entry);
    }
    sweep_network(state);
    // Else somebody has removed it meanwhile, and its names may be another container's.
    if entry.is_current()? {
        // Before the state that names it.
        if let Some(left) = host_cgroup::remove(state.own_cgroup())? {
            log::warn(&left.to_string());
        }
    }
    let removed = entry.remove()?;
    step!("removed from the store: {removed}");
    if !removed {
        // The hooks are whose removal it was.
        return Ok(Vec::new());
    }
    let shown = OciState { status: Status::Stopped, pid: 0, ..OciState::of(state) };
    Ok(hooks::run_each(&state.poststop, &shown, &Surroundings::callers(&state.bundle)))
}

/// A monitor that was killed has not waited for its machine's end.
pub(crate) fn await_machine(entry: &Entry) {
    if !machine::await_end(&entry.directory().join(SHARE_DIR)) {
        log::warn(machine::STILL_THERE);
    }
}

/// A monitor that was killed has left its filters at interfaces that outlive it. Another one in the
/// same namespace does not mind them, so that they keep nobody from removing the container.
pub(crate) fn sweep_network(state: &State) {
    let Some(namespace) = state.network.as_ref().filter(|_| state.status != Status::Stopped) else { return };
    if let Err(error) = monitor::sweep_network(namespace) {
        log::warn(&format!(
            "cannot look for what the monitor has left in the network namespace {}: {error}",
            namespace.display()
        ));
    }
}

/// A directory without a state is locked while its maker lives; afterwards there
/// is a state, or nobody who will ever write one.
pub(super) fn first_state(entry: &Entry) -> Result<Option<State>, StoreError> {
    let _lock = entry.lock()?;
    entry.read()
}

/// Ends the program, so that what it wrote reaches the host's files, and if that
/// takes too long the monitor, and with it the guest. Nothing of a container outlives it.
pub(crate) fn end_container(entry: &Entry, state: &State) -> Result<(), Error> {
    let failed = |source: std::io::Error| StoreError::Io {
        act: "end the monitor",
        path: format!("/proc/{}", state.monitor.pid).into(),
        source,
    };
    let Some(handle) = ProcessHandle::open(state.monitor).map_err(failed)? else { return Ok(()) };
    let deadline = Instant::now() + ORDERLY_LIMIT;
    if is_for_the_monitor_to_end(entry, state) {
        let left = deadline.saturating_duration_since(Instant::now());
        if handle.ends_within(left).map_err(failed)? {
            return Ok(());
        }
    }
    handle.kill().map_err(failed)?;
    if handle.ends_within(END_LIMIT).map_err(failed)? {
        return Ok(());
    }
    Err(failed(std::io::ErrorKind::TimedOut.into()).into())
}

/// Asks the monitor of a program that runs to kill it. If nobody listens any more, the program may
/// have ended by itself and its last words and files be on their way to the host. Only a program
/// that never ran has none, or one in a guest that does not answer.
fn is_for_the_monitor_to_end(entry: &Entry, state: &State) -> bool {
    match state.status {
        Status::Running | Status::Paused => {
            let kill = ControlRequest::Signal { signal: libc::SIGKILL, all: true };
            let asked = control::ask_within(Some(ORDERLY_LIMIT), entry, state, &kill);
            !matches!(asked, Err(Error::Reported(_) | Error::Control(ControlError::Silent { .. })))
        }
        Status::Stopped => true,
        Status::Creating | Status::Created => false,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::process::ProcessIdentity;
    use crate::store::{ExecBase, StateSource};
    use crate::verbs::{KillTarget, kill};

    /// A container whose monitor is about to end and answers nobody.
    fn ending(store: &Store, id: &str, status: Status) -> Child {
        let child = Command::new("sleep").arg("0.5").spawn().unwrap();
        let monitor = ProcessIdentity::of(i32::try_from(child.id()).unwrap()).unwrap();
        let mut new = store.reserve(&id.parse().unwrap()).unwrap();
        new.publish(&StateSource::plain(id).state(status, monitor), &ExecBase::plain()).unwrap();
        new.keep();
        child
    }

    #[test]
    fn monitor_that_ends_and_answers_nobody_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(Some(directory.path()));
        for (status, waited_for) in
            [(Status::Running, true), (Status::Stopped, true), (Status::Created, false)]
        {
            let mut monitor = ending(&store, "x", status);
            delete(&store, "x", DeleteOptions { force: true }).unwrap();
            assert_eq!(monitor.wait().unwrap().code(), waited_for.then_some(0), "{status}");
            assert!(store.ids().unwrap().is_empty());
        }
    }

    #[test]
    fn container_whose_monitor_ends_meanwhile_has_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(Some(directory.path()));
        let mut monitor = ending(&store, "x", Status::Running);
        let error = kill(&store, "x", libc::SIGTERM, KillTarget::Init).unwrap_err();
        assert!(matches!(error, Error::WrongState { status: Status::Stopped, .. }), "{error:?}");
        assert_eq!(monitor.wait().unwrap().code(), Some(0));
    }
}
