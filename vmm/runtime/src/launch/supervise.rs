//! Waiting for the monitor: messages, signals, and putting everything back.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmrun_spec::{LauncherMessage, MonitorMessage};

use super::awaited::Awaited;
use super::channel::Heard;
use super::pid_file::PidFile;
use super::service::Manager;
use super::spawn::{Monitor, spawn};
use super::{Console, LaunchError, LaunchOptions, pidfd_socket};
use crate::error::{Error, chain};
use crate::fds;
use crate::hooks::{self, Surroundings};
use crate::host_cgroup::{self, NewCgroup};
use crate::monitor::MonitorRequest;
use crate::process::ProcessIdentity;
use crate::signals::{self, Signals};
use crate::status::Status;
use crate::stdio::RawMode;
use crate::store::{ExecBase, NewEntry, State};
use crate::timeline::{Point, mark};
use crate::verbs::{OciState, await_machine, end_container, sweep_network};
use crate::{log, step};

/// How the conversation with the monitor ended.
enum Outcome {
    /// The monitor goes on without us.
    Detached,
    /// It ended with a word.
    Reported(MonitorMessage),
    /// It ended without one.
    Silent,
}

pub(crate) fn supervise(
    mut new: NewEntry,
    cgroup: NewCgroup,
    request: &MonitorRequest,
    options: &LaunchOptions,
    console: &Console,
    manager: Option<&Manager>,
) -> Result<u8, Error> {
    // Taken before the monitor exists, so that none is lost. A launcher that
    // only waits for the start may be killed: the monitor gives up then.
    let signals = if options.mode.is_detached() {
        None
    } else {
        Some(Signals::take().map_err(LaunchError::io("take signals"))?)
    };
    let raw = match console {
        Console::Ours => RawMode::enter(io::stdin()).map_err(LaunchError::io("set up the terminal"))?,
        _ => None,
    };
    mark(Point::Planned);
    let monitor = spawn(request, cgroup.directory().as_deref(), manager)?;
    // From here on it goes with the container.
    cgroup.keep();
    let mut guard = MonitorGuard { monitor: Some(monitor) };
    let result =
        attend(&mut guard, &mut new, request, options, Callers { signals: signals.as_ref(), manager });
    drop(raw);
    match result {
        Ok((Outcome::Detached, pid_file)) => {
            guard.monitor = None;
            if let Some(pid_file) = pid_file {
                pid_file.keep();
            }
            new.keep();
            Ok(0)
        }
        Ok((outcome, pid_file)) => {
            let ended = guard.wait()?;
            mark(Point::MonitorReaped);
            if let Some(pid_file) = pid_file {
                // runc leaves it as well: engines read it after the end.
                pid_file.keep();
            }
            finish(outcome, ended, new, request)
        }
        Err(error) => {
            guard.end();
            // What could not be removed must not hide why the container was not made.
            if let Err(left) = put_away(new, request, false) {
                log::warn(&chain(&left));
            }
            Err(error)
        }
    }
}

/// Kills the monitor unless it is let go.
struct MonitorGuard {
    monitor: Option<Monitor>,
}

impl MonitorGuard {
    fn wait(&mut self) -> Result<ExitStatus, LaunchError> {
        match self.monitor.take() {
            Some(monitor) => monitor.child.reap().map_err(LaunchError::io("wait for the monitor")),
            None => Ok(ExitStatus::default()),
        }
    }

    fn end(&mut self) {
        if let Some(monitor) = self.monitor.take() {
            monitor.child.kill();
        }
    }
}

impl Drop for MonitorGuard {
    fn drop(&mut self) {
        self.end();
    }
}

/// What comes from the caller of this verb, and goes back there.
#[derive(Clone, Copy)]
struct Callers<'c> {
    signals: Option<&'c Signals>,
    manager: Option<&'c Manager>,
}

fn attend(
    guard: &mut MonitorGuard,
    new: &mut NewEntry,
    request: &MonitorRequest,
    options: &LaunchOptions,
    Callers { signals, manager }: Callers<'_>,
) -> Result<(Outcome, Option<PidFile>), Error> {
    let Some(monitor) = guard.monitor.as_mut() else { return Ok((Outcome::Silent, None)) };
    let pid = monitor.child.pid();
    step!("monitor started, process {pid}");
    let identity = ProcessIdentity::of(pid).map_err(LaunchError::io("look at the monitor"))?;
    // The monitor has its copies; ours would keep the other ends open.
    fds::release_standard_streams(false).map_err(LaunchError::io("release the standard streams"))?;
    let creating = request.state.state(Status::Creating, identity);
    new.publish(&creating, &ExecBase::of(&request.plan))?;
    let mut pid_file = None;
    let mut awaited = Awaited::first();
    loop {
        wait(monitor, signals, pid, &awaited)?;
        let messages = match monitor.channel.receive().map_err(LaunchError::Encode)? {
            Heard::End => return Ok((Outcome::Silent, pid_file)),
            Heard::Messages(messages) => messages,
        };
        for message in messages {
            if !matches!(message, MonitorMessage::Notified(_)) {
                awaited = Awaited::after(&message);
            }
            step!("the monitor says: {message:?}");
            match &message {
                MonitorMessage::Prepared => {
                    run_first_hooks(&creating, request, signals)?;
                    // A monitor that is gone is noticed below.
                    let _ = monitor.channel.send(LauncherMessage::HooksDone);
                }
                MonitorMessage::Hooked | MonitorMessage::Booted | MonitorMessage::Ready => {}
                MonitorMessage::Notified(text) => {
                    manager.iter().for_each(|manager| manager.tell(text));
                    continue;
                }
                MonitorMessage::Created => {
                    if let Some(socket) = &options.pidfd_socket {
                        pidfd_socket::send(socket, pid)?;
                    }
                    if let Some(path) = &options.pid_file {
                        pid_file = Some(PidFile::write(path, pid)?);
                        step!("pid {pid} written to {}", path.display());
                    }
                }
                MonitorMessage::Started => poststart(new, request)?,
                MonitorMessage::Ended { .. } | MonitorMessage::Failed(_) => {
                    return Ok((Outcome::Reported(message), pid_file));
                }
            }
            if options.mode.is_over_at(&message, manager.is_some()) {
                manager.iter().for_each(|manager| manager.await_attention());
                return Ok((Outcome::Detached, pid_file));
            }
        }
    }
}

/// Waits until the monitor says something; passes signals on meanwhile.
fn wait(
    monitor: &Monitor,
    signals: Option<&Signals>,
    pid: i32,
    awaited: &Awaited,
) -> Result<(), LaunchError> {
    loop {
        let limit = awaited.left().map_or(PollTimeout::NONE, |left| {
            // Not before it is over.
            PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(monitor.channel.as_fd(), PollFlags::POLLIN)];
        fds.extend(signals.map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, limit) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(LaunchError::io("wait for the monitor")(errno.into())),
        }
        let heard = fds.first().and_then(PollFd::any).unwrap_or(false);
        while let Some(arrived) =
            signals.map_or(Ok(None), Signals::next).map_err(LaunchError::io("read a signal"))?
        {
            // What a terminal sends, it has sent to the monitor as well.
            if signals::is_forwarded(arrived.number) && !arrived.from_terminal {
                // Our child is not reaped yet, so the pid is still its.
                signals::send(pid, arrived.number);
            }
        }
        if heard {
            return Ok(());
        }
        if let Some(late) = awaited.missed(pid) {
            return Err(late);
        }
    }
}

/// The hooks that run here before the creation.
fn run_first_hooks(
    creating: &State,
    request: &MonitorRequest,
    signals: Option<&Signals>,
) -> Result<(), hooks::HookError> {
    let watch: Vec<_> = signals.map(Signals::ending).into_iter().collect();
    let at = Surroundings { watch: &watch, ..Surroundings::callers(&request.state.bundle) };
    hooks::run_all(&request.plan.host.hooks.create_runtime, &OciState::of(creating), &at)
}

/// A failure ends the container; its removal is the caller's.
fn poststart(new: &NewEntry, request: &MonitorRequest) -> Result<(), Error> {
    let hooks = &request.plan.host.hooks.poststart;
    if hooks.is_empty() {
        return Ok(());
    }
    let Ok(Some(state)) = new.entry().read() else { return Ok(()) };
    let at = Surroundings::callers(&request.state.bundle);
    if let Err(error) = hooks::run_all(hooks, &OciState::of(&state), &at) {
        end_container(new.entry(), &state)?;
        return Err(error.into());
    }
    Ok(())
}

/// Deletes a container whose monitor has ended, with the hooks for that if it ever had a state. One that has reported
/// has waited for its machine, and has let its network go.
fn put_away(new: NewEntry, request: &MonitorRequest, has_reported: bool) -> Result<(), Error> {
    let state = new.entry().read().ok().flatten();
    if !has_reported {
        await_machine(new.entry());
        state.iter().for_each(sweep_network);
    }
    // Else somebody has removed it, and its names may be another container's.
    if new.entry().is_current()?
        && let Some(left) = host_cgroup::remove(request.state.own_cgroup())?
    {
        log::warn(&left.to_string());
    }
    // The hooks are whose removal it was.
    let removed = new.remove()?;
    step!("removed from the store");
    if let (true, Some(state)) = (removed, state) {
        let shown = OciState { status: Status::Stopped, pid: 0, ..OciState::of(&state) };
        hooks::complain(&hooks::run_each(&state.poststop, &shown, &Surroundings::callers(&state.bundle)));
    }
    Ok(())
}

fn finish(outcome: Outcome, ended: ExitStatus, new: NewEntry, request: &MonitorRequest) -> Result<u8, Error> {
    let keep = request.keep && matches!(outcome, Outcome::Reported(MonitorMessage::Ended { .. }));
    if keep {
        new.keep();
    } else {
        put_away(new, request, matches!(outcome, Outcome::Reported(_)))?;
    }
    match outcome {
        Outcome::Reported(MonitorMessage::Failed(report)) => Err(Error::Reported(report)),
        Outcome::Reported(MonitorMessage::Ended { code, warnings }) => {
            for warning in warnings {
                log::warn(&warning);
            }
            Ok(code)
        }
        _ => match (ended.signal(), ended.code()) {
            (Some(signal), _) => Err(LaunchError::Killed { who: "monitor", signal }.into()),
            (None, code) => {
                Err(LaunchError::Silent { who: "monitor", code: code.unwrap_or_default() }.into())
            }
        },
    }
}
