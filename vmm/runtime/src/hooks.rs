//! Hooks on the host: programs that get the container's state on standard input.

mod output;

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use vmrun_spec::Hook;

use self::output::{Output, Said};
use crate::error::chain;
use crate::log::{self, Listed};
use crate::verbs::OciState;
use crate::{signals, step};

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("error running {hook}: {}", .path.display())]
pub struct HookError {
    /// Which, as `poststop hook #0`: runc's words, which tools look for.
    hook: String,
    /// Its program.
    path: PathBuf,
    source: HookFailure,
}

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookFailure {
    /// It could not be run.
    #[error("cannot run it")]
    Run(#[source] io::Error),
    /// It said no.
    #[error("{status}{said}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        said: Box<Said>,
    },
    /// It took too long and was killed.
    #[error("killed after its timeout of {seconds} s{said}")]
    TimedOut {
        /// The limit.
        seconds: u64,
        /// What it said.
        said: Box<Said>,
    },
    /// Whoever wanted it wants it no more, and it was killed.
    #[error("interrupted")]
    Interrupted,
    /// The state has no JSON form.
    #[error("cannot encode the container's state")]
    Encode(#[source] serde_json::Error),
}

impl HookError {
    /// Whether one of those interrupted it that [`Surroundings::watch`] names.
    pub(crate) fn is_interruption(&self) -> bool {
        matches!(self.source, HookFailure::Interrupted)
    }
}

/// Where hooks run.
#[derive(Debug)]
pub(crate) struct Surroundings<'s> {
    /// Their working directory.
    pub(crate) directory: &'s Path,
    /// What ends the wait for them when it becomes readable, and them.
    pub(crate) watch: &'s [BorrowedFd<'s>],
}

impl<'s> Surroundings<'s> {
    /// Of a hook in the caller's namespaces.
    pub(crate) fn callers(bundle: &'s Path) -> Self {
        // An engine may have removed the bundle of a container that ends.
        let directory = if bundle.is_dir() { bundle } else { Path::new("/") };
        Self { directory, watch: &[] }
    }
}

/// Runs the hooks in order; the first failure ends it.
pub(crate) fn run_all(hooks: &[Hook], state: &OciState, at: &Surroundings<'_>) -> Result<(), HookError> {
    hooks.iter().try_for_each(|hook| run(hook, state, at))
}

/// Runs every hook, whatever the others do, and gives the failures.
pub(crate) fn run_each(hooks: &[Hook], state: &OciState, at: &Surroundings<'_>) -> Vec<HookError> {
    hooks.iter().filter_map(|hook| run(hook, state, at).err()).collect()
}

/// Tells of those whose failure changes nothing.
pub(crate) fn complain(errors: &[HookError]) {
    for error in errors {
        log::warn(&chain(error));
    }
}

fn run(hook: &Hook, state: &OciState, at: &Surroundings<'_>) -> Result<(), HookError> {
    attempt(hook, state, at).map_err(|source| HookError {
        hook: name(&hook.field),
        path: hook.path.clone(),
        source,
    })
}

/// `hooks.poststop[0]` is `poststop hook #0`.
fn name(field: &str) -> String {
    let parts = field.strip_prefix("hooks.").and_then(|rest| rest.strip_suffix(']')?.split_once('['));
    parts.map_or_else(|| field.to_owned(), |(kind, index)| format!("{kind} hook #{index}"))
}

fn attempt(hook: &Hook, state: &OciState, at: &Surroundings<'_>) -> Result<(), HookFailure> {
    let text = serde_json::to_vec(state).map_err(HookFailure::Encode)?;
    let stdin = readable(&text).map_err(HookFailure::Run)?;
    step!("{} {} starts, arguments {}", hook.field, hook.path.display(), Listed(&hook.args));
    let output = Output::new().map_err(HookFailure::Run)?;
    let mut running = Running(spawn(hook, stdin, &output, at).map_err(HookFailure::Run)?);
    let deadline = hook.timeout_s.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    match running.wait(deadline, at.watch).map_err(HookFailure::Run)? {
        Wait::Ended(status) if status.success() => Ok(()),
        Wait::Ended(status) => Err(HookFailure::Failed { status, said: output.said() }),
        Wait::Late => {
            let seconds = hook.timeout_s.unwrap_or_default();
            Err(HookFailure::TimedOut { seconds, said: output.said() })
        }
        Wait::Interrupted => Err(HookFailure::Interrupted),
    }
}

/// A file in memory: a hook need not read it, however long it is, and nobody has to wait until
/// it has.
fn readable(text: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"vmrun-state", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text)?;
    file.rewind()?;
    Ok(file)
}

fn spawn(hook: &Hook, stdin: File, output: &Output, at: &Surroundings<'_>) -> io::Result<Child> {
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    if let Some(variables) = &hook.env {
        command.env_clear().envs(variables.iter().filter_map(|entry| entry.split_once('=')));
    }
    command.current_dir(at.directory).stdin(stdin);
    command.stdout(output.stdout.try_clone()?).stderr(output.stderr.try_clone()?);
    signals::free_in(&mut command).spawn()
}

/// A hook that was started. It does not outlive this value.
struct Running(Child);

/// What a hook was waited for to do.
enum Wait {
    Ended(ExitStatus),
    Late,
    Interrupted,
}

impl Running {
    fn wait(&mut self, deadline: Option<Instant>, watch: &[BorrowedFd<'_>]) -> io::Result<Wait> {
        // Not reaped yet, so the pid is still its.
        let pidfd = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty())?;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let limit = left.map_or(PollTimeout::NONE, |left| {
                // Not before it is over.
                PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
            });
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds: Vec<_> =
                [pidfd.as_fd()].into_iter().chain(watch.iter().copied()).map(readable).collect();
            match poll(&mut fds, limit) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
            if ready.next() == Some(true) {
                return Ok(Wait::Ended(self.0.wait()?));
            }
            let wait = if ready.any(|ready| ready) { Wait::Interrupted } else { Wait::Late };
            if matches!(wait, Wait::Interrupted) || left.is_some_and(|left| left.is_zero()) {
                return self.kill(wait);
            }
        }
    }

    fn kill(&mut self, why: Wait) -> io::Result<Wait> {
        self.0.kill()?;
        let status = self.0.wait()?;
        // It may have ended by itself at the last moment.
        Ok(if status.signal() == Some(libc::SIGKILL) { why } else { Wait::Ended(status) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Neither does anything to one that was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::process::ProcessIdentity;
    use crate::signals::Signals;
    use crate::status::Status;
    use crate::store::StateSource;

    fn state() -> OciState {
        let me = ProcessIdentity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        OciState::of(&StateSource::plain("x").state(Status::Creating, me))
    }

    fn hook(script: &str) -> Hook {
        Hook {
            field: "hooks.poststop[1]".to_owned(),
            path: "/bin/sh".into(),
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: Some(vec!["PATH=/usr/bin:/bin".to_owned()]),
            timeout_s: None,
        }
    }

    #[test]
    fn hook_starts_with_no_signal_blocked() {
        let directory = tempfile::tempdir().unwrap();
        let hook = hook("grep SigBlk /proc/self/status >mask");
        let _signals = Signals::take().unwrap();
        run(&hook, &state(), &Surroundings::callers(directory.path())).unwrap();
        let mask = std::fs::read_to_string(directory.path().join("mask")).unwrap();
        assert_eq!(mask, "SigBlk:\t0000000000000000\n");
    }

    #[test]
    fn time_is_over_for_one_that_reads_no_state_however_long_it_is() {
        let mut state = state();
        state.annotations.insert("long".to_owned(), "x".repeat(1 << 20));
        let deaf = Hook { timeout_s: Some(1), ..hook("sleep 1000") };
        let error = run(&deaf, &state, &Surroundings::callers(Path::new("/"))).unwrap_err();
        assert_eq!(
            chain(&error),
            "error running poststop hook #1: /bin/sh: killed after its timeout of 1 s, stdout: , stderr: "
        );
        run(&hook("wc -c | grep -q .......$"), &state, &Surroundings::callers(Path::new("/"))).unwrap();
    }

    #[test]
    fn what_is_left_of_a_hook_keeps_nobody_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let hook = hook("sleep 1000 & echo $! >child; echo reason; echo why >&2; exit 3");
        let error = run(&hook, &state(), &Surroundings::callers(directory.path())).unwrap_err();
        assert_eq!(
            chain(&error),
            "error running poststop hook #1: /bin/sh: exit status: 3, stdout: reason, stderr: why"
        );
        let child = std::fs::read_to_string(directory.path().join("child")).unwrap();
        signals::send(child.trim().parse().unwrap(), libc::SIGKILL);
    }

    #[test]
    fn without_a_list_the_environment_is_the_callers() {
        let inherits = Hook { env: None, ..hook("test \"$CARGO_PKG_NAME\" = vmrun-runtime") };
        run(&inherits, &state(), &Surroundings::callers(Path::new("/"))).unwrap();
        let empty = Hook { env: Some(Vec::new()), ..hook("test -z \"$CARGO_PKG_NAME\"") };
        run(&empty, &state(), &Surroundings::callers(Path::new("/"))).unwrap();
    }

    #[test]
    fn hook_ends_with_who_wants_it() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let watch = [ours.as_fd()];
        let at = Surroundings { watch: &watch, ..Surroundings::callers(Path::new("/")) };
        assert!(run(&hook("sleep 1000"), &state(), &at).unwrap_err().is_interruption());
    }
}
