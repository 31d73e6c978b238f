//! `startContainer` hooks: in the container, right before its program.

use std::cell::OnceCell;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use libcontainer::container::{ContainerStatus, State};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use oci_spec::runtime::{Hook, Spec, State as OciState};

use super::program::chain;

/// The hooks, and what they are told.
#[derive(Clone, Debug)]
pub(crate) struct StartHooks {
    hooks: Vec<Hook>,
    state: State,
    /// Their standard inputs, once [`StartHooks::prepare`] has made them.
    stdin: Rc<OnceCell<Vec<OwnedFd>>>,
}

impl StartHooks {
    /// Takes the hooks out of the configuration of `container`: libcontainer tells them a
    /// state of the guest's. `bundle` is the host's path.
    pub(crate) fn take(spec: &mut Spec, container: &str, bundle: &str) -> Option<Self> {
        let hooks = spec.hooks().as_ref()?.start_container().clone()?;
        spec.set_hooks(None);
        let mut state = State::new(container, ContainerStatus::Created, None, bundle.into());
        spec.version().clone_into(&mut state.oci_version);
        state.annotations = Some(spec.annotations().clone().unwrap_or_default());
        Some(Self { hooks, state, stdin: Rc::default() })
    }

    /// Makes what they read, as the process that is to become the program: the container's
    /// filter, which they are under, need not allow it.
    pub(crate) fn prepare(&self) -> Result<(), String> {
        let mut state = self.state.clone();
        state.pid = Some(getpid().as_raw());
        let text = OciState::try_from(&state)
            .map_err(|error| chain(&error))
            .and_then(|state| serde_json::to_vec(&state).map_err(|error| error.to_string()))
            .map_err(|error| format!("cannot tell startContainer hooks the state: {error}"))?;
        let files: io::Result<Vec<_>> = self.hooks.iter().map(|_| readable(&text)).collect();
        let files =
            files.map_err(|error| format!("cannot make the input of startContainer hooks: {error}"))?;
        // A second time changes nothing: the process is the same.
        let _ = self.stdin.set(files);
        Ok(())
    }

    /// Runs them. `environment`, the program's, is for those that have none of their own.
    pub(crate) fn run(&self, environment: &[CString]) -> Result<(), String> {
        let inputs = self.stdin.get().map(Vec::as_slice).unwrap_or_default();
        self.hooks.iter().zip(inputs).enumerate().try_for_each(|(index, (hook, stdin))| {
            run(hook, stdin, environment).map_err(|cause| {
                format!("error running startContainer hook #{index}: {}: {cause}", hook.path().display())
            })
        })
    }
}

/// A file in memory: a hook need not read it, however long it is.
fn readable(text: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"state", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text)?;
    file.rewind()?;
    Ok(file.into())
}

fn run(hook: &Hook, stdin: &OwnedFd, environment: &[CString]) -> Result<(), String> {
    let cannot = |error: io::Error| format!("cannot run it: {error}");
    let mut child =
        command(hook, stdin, environment).and_then(|mut command| command.spawn()).map_err(cannot)?;
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    let status = match limit {
        None => child.wait().map_err(cannot)?,
        Some(seconds) => wait_limited(child, Duration::from_secs(seconds))
            .map_err(cannot)?
            .ok_or_else(|| format!("killed after its timeout of {seconds} s"))?,
    };
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

fn command(hook: &Hook, stdin: &OwnedFd, environment: &[CString]) -> io::Result<Command> {
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = hook.args().as_deref().and_then(|args| args.split_first()) {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    match hook.env() {
        Some(own) => command.envs(own.iter().filter_map(|entry| entry.split_once('='))),
        None => command.envs(environment.iter().filter_map(variable)),
    };
    command.stdin(stdin.try_clone()?).stdout(Stdio::null()).stderr(Stdio::inherit());
    Ok(command)
}

fn variable(entry: &CString) -> Option<(&std::ffi::OsStr, &std::ffi::OsStr)> {
    let bytes = entry.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=')?;
    let (name, value) = bytes.split_at_checked(at)?;
    Some((std::ffi::OsStr::from_bytes(name), std::ffi::OsStr::from_bytes(value.get(1..)?)))
}

/// `None` when the limit passed; the child is dead and reaped either way. With a thread, since
/// the container's filter has to allow what waits, and allows threads to whoever may start programs.
fn wait_limited(mut child: Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let (sender, receiver) = channel();
    let waiter = thread::Builder::new().name("hook-wait".to_owned()).spawn(move || {
        let _ = sender.send(child.wait());
    })?;
    let result = match receiver.recv_timeout(limit) {
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
    use std::fs;
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn hooks(annotation: &str, hook: &Value) -> StartHooks {
        let mut spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.1.0-rc.1",
            "annotations": {"org.example": annotation},
            "hooks": {"startContainer": [hook]},
        }))
        .unwrap();
        let taken = StartHooks::take(&mut spec, "web", "/host/bundle").unwrap();
        assert_eq!(spec.hooks(), &None);
        taken.prepare().unwrap();
        taken
    }

    fn script(text: &str) -> Value {
        json!({"path": "/bin/sh", "args": ["sh", "-c", text]})
    }

    fn said(file: &Path) -> String {
        fs::read_to_string(file).unwrap()
    }

    #[test]
    fn hook_is_told_the_state_and_has_the_programs_environment() {
        let directory = tempfile::tempdir().unwrap();
        let (state, env) = (directory.path().join("state"), directory.path().join("env"));
        let text = format!("cat >{}; echo $A $HOME >{}", state.display(), env.display());
        let environment = [c"PATH=/usr/bin:/bin".to_owned(), c"A=1".to_owned(), c"HOME=/h".to_owned()];
        hooks("1", &script(&text)).run(&environment).unwrap();
        let expected = json!({
            "ociVersion": "1.1.0-rc.1",
            "id": "web",
            "status": "created",
            "pid": std::process::id(),
            "bundle": "/host/bundle",
            "annotations": {"org.example": "1"},
        });
        assert_eq!(serde_json::from_str::<Value>(&said(&state)).unwrap(), expected);
        assert_eq!(said(&env), "1 /h\n");
    }

    #[test]
    fn own_environment_is_the_only_one_and_failure_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("env");
        let mut hook = script(&format!("echo $A $B >{}; exit 3", file.display()));
        hook["env"] = json!(["B=2"]);
        let error = hooks("1", &hook).run(&[c"A=1".to_owned()]).unwrap_err();
        assert_eq!(error, "error running startContainer hook #0: /bin/sh: exit status: 3");
        assert_eq!(said(&file), "2\n");
    }

    #[test]
    fn time_is_over_for_one_that_reads_no_state_however_long_it_is() {
        let mut hook = script("sleep 1000");
        hook["timeout"] = json!(1);
        let error = hooks(&"x".repeat(1 << 20), &hook).run(&[c"PATH=/usr/bin:/bin".to_owned()]).unwrap_err();
        assert_eq!(error, "error running startContainer hook #0: /bin/sh: killed after its timeout of 1 s");
    }
}
