//! Hooks on the host: programs that get the container's state on standard input.

use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vmrun_spec::Hook;

use crate::log::Listed;
use crate::verbs::OciState;
use crate::{signals, step};

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be run.
    #[error("{field} {}", .path.display())]
    Run {
        /// Which.
        field: String,
        /// Its program.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It said no.
    #[error("{field} {}: {status}", .path.display())]
    Failed {
        /// Which.
        field: String,
        /// Its program.
        path: std::path::PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// It took too long and was killed.
    #[error("{field} {}: killed after its timeout of {seconds} s", .path.display())]
    TimedOut {
        /// Which.
        field: String,
        /// Its program.
        path: std::path::PathBuf,
        /// The limit.
        seconds: u64,
    },
    /// The state has no JSON form.
    #[error("cannot encode the state for {field}")]
    Encode {
        /// Which.
        field: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// Runs the hooks in order; the first failure ends it.
pub(crate) fn run_all(hooks: &[Hook], state: &OciState, bundle: &Path) -> Result<(), HookError> {
    hooks.iter().try_for_each(|hook| run(hook, state, bundle))
}

/// Runs every hook, whatever the others do, and gives the failures.
pub(crate) fn run_each(hooks: &[Hook], state: &OciState, bundle: &Path) -> Vec<HookError> {
    hooks.iter().filter_map(|hook| run(hook, state, bundle).err()).collect()
}

fn run(hook: &Hook, state: &OciState, bundle: &Path) -> Result<(), HookError> {
    let text = serde_json::to_vec(state)
        .map_err(|source| HookError::Encode { field: hook.field.clone(), source })?;
    let failed = |source| HookError::Run { field: hook.field.clone(), path: hook.path.clone(), source };
    step!("{} {} starts, arguments {}", hook.field, hook.path.display(), Listed(&hook.args));
    let mut child = spawn(hook, bundle).map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read its state.
        let _ = stdin.write_all(&text);
    }
    let status = match hook.timeout_s {
        None => child.wait().map_err(failed)?,
        Some(seconds) => wait_limited(child, seconds).map_err(failed)?.ok_or_else(|| {
            HookError::TimedOut { field: hook.field.clone(), path: hook.path.clone(), seconds }
        })?,
    };
    step!("{} ended: {status}", hook.field);
    if status.success() {
        return Ok(());
    }
    Err(HookError::Failed { field: hook.field.clone(), path: hook.path.clone(), status })
}

fn spawn(hook: &Hook, bundle: &Path) -> io::Result<Child> {
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    let variables = hook.env.iter().filter_map(|entry| entry.split_once('='));
    // An engine may have removed the bundle of a container that ends.
    let directory = if bundle.is_dir() { bundle } else { Path::new("/") };
    command.env_clear().envs(variables).current_dir(directory);
    // Its output is talk: standard output belongs to the container.
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
    signals::free_in(&mut command).spawn()
}

/// `None` when the limit passed; the child is dead and reaped either way.
fn wait_limited(mut child: Child, seconds: u64) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let (sender, receiver) = channel();
    let waiter = thread::Builder::new().name("hook-wait".to_owned()).spawn(move || {
        let _ = sender.send(child.wait());
    })?;
    let result = match receiver.recv_timeout(Duration::from_secs(seconds)) {
        Ok(status) => status.map(Some),
        Err(RecvTimeoutError::Disconnected) => Err(io::ErrorKind::BrokenPipe.into()),
        Err(RecvTimeoutError::Timeout) => {
            let _ = kill(pid, Signal::SIGKILL);
            receiver.recv().map_err(io::Error::other)?.map(|status| {
                // It may have ended by itself at the last moment.
                (status.signal() != Some(libc::SIGKILL)).then_some(status)
            })
        }
    };
    let _ = waiter.join();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::ProcessIdentity;
    use crate::signals::Signals;
    use crate::status::Status;
    use crate::store::StateSource;

    fn state() -> OciState {
        let me = ProcessIdentity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        OciState::of(&StateSource::plain("x").state(Status::Creating, me))
    }

    #[test]
    fn hook_starts_with_no_signal_blocked() {
        let directory = tempfile::tempdir().unwrap();
        let script = "grep SigBlk /proc/self/status >mask";
        let hook = Hook {
            field: "hooks.poststop[0]".to_owned(),
            path: "/bin/sh".into(),
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["PATH=/usr/bin:/bin".to_owned()],
            timeout_s: Some(60),
        };
        let _signals = Signals::take().unwrap();
        run(&hook, &state(), directory.path()).unwrap();
        let mask = std::fs::read_to_string(directory.path().join("mask")).unwrap();
        assert_eq!(mask, "SigBlk:\t0000000000000000\n");
    }
}
