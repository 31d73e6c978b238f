//! `startContainer` hooks: in the container, right before its program.

use std::cell::OnceCell;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::rc::Rc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use oci_spec::runtime::{ContainerState, Hook, Spec, State, StateBuilder};

use super::program::chain;

/// Of each stream of a hook that fails as much is told, in bytes.
const MOST_SAID: u64 = 4096;

/// The hooks, and what they are told.
#[derive(Clone, Debug)]
pub(crate) struct StartHooks {
    hooks: Vec<Hook>,
    state: State,
    /// Their standard streams, once [`StartHooks::prepare`] has made them.
    streams: Rc<OnceCell<Vec<Streams>>>,
}

/// The standard streams of a hook: files in memory. It need not read the state, however long that
/// is, and nobody need read what it says.
#[derive(Debug)]
struct Streams {
    stdin: OwnedFd,
    stdout: File,
    stderr: File,
}

impl StartHooks {
    /// Takes the hooks out of the configuration of `container`. `bundle` is the host's path.
    pub(crate) fn take(spec: &mut Spec, container: &str, bundle: &str) -> Result<Option<Self>, String> {
        let Some(hooks) = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().clone()) else {
            return Ok(None);
        };
        spec.set_hooks(None);
        let state = StateBuilder::default()
            .version(spec.version().as_str())
            .id(container)
            .status(ContainerState::Created)
            .bundle(bundle)
            .annotations(spec.annotations().clone().unwrap_or_default())
            .build()
            .map_err(|error| {
                format!("cannot describe the container to startContainer hooks: {}", chain(&error))
            })?;
        Ok(Some(Self { hooks, state, streams: Rc::default() }))
    }

    /// Makes what they read and write to, as the process that is to become the program: the container's
    /// filter, which they are under, need not allow it.
    pub(crate) fn prepare(&self) -> Result<(), String> {
        let mut state = self.state.clone();
        state.set_pid(Some(getpid().as_raw()));
        let text = serde_json::to_vec(&state)
            .map_err(|error| format!("cannot tell startContainer hooks the state: {error}"))?;
        let streams: io::Result<Vec<_>> = self.hooks.iter().map(|_| Streams::new(&text)).collect();
        let streams =
            streams.map_err(|error| format!("cannot make the streams of startContainer hooks: {error}"))?;
        // A second time changes nothing: the process is the same.
        let _ = self.streams.set(streams);
        Ok(())
    }

    /// Runs them. `environment`, the program's, is for those that have none of their own.
    pub(crate) fn run(&self, environment: &[CString]) -> Result<(), String> {
        let streams = self.streams.get().map(Vec::as_slice).unwrap_or_default();
        self.hooks.iter().zip(streams).enumerate().try_for_each(|(index, (hook, streams))| {
            run(hook, streams, environment).map_err(|cause| {
                format!("error running startContainer hook #{index}: {}: {cause}", hook.path().display())
            })
        })
    }
}

impl Streams {
    fn new(state: &[u8]) -> io::Result<Self> {
        let mut stdin = memory(c"state")?;
        stdin.write_all(state)?;
        stdin.rewind()?;
        Ok(Self { stdin: stdin.into(), stdout: memory(c"stdout")?, stderr: memory(c"stderr")? })
    }

    /// What the hook has said, in runc's form.
    fn said(&self) -> String {
        format!(", stdout: {}, stderr: {}", end_of(&self.stdout), end_of(&self.stderr))
    }
}

fn memory(name: &CStr) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?))
}

/// The end tells most. What cannot be read, or a filter does not allow to, changes nothing.
fn end_of(file: &File) -> String {
    let mut file = file;
    let length = file.seek(SeekFrom::End(0)).unwrap_or_default();
    let first = length.saturating_sub(MOST_SAID);
    let mut bytes = Vec::new();
    let _ = file.seek(SeekFrom::Start(first)).and_then(|_| file.take(MOST_SAID).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    if first > 0 { format!("...{text}") } else { text }
}

fn run(hook: &Hook, streams: &Streams, environment: &[CString]) -> Result<(), String> {
    let cannot = |error: io::Error| format!("cannot run it: {error}");
    let mut child =
        command(hook, streams, environment).and_then(|mut command| command.spawn()).map_err(cannot)?;
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    let status = match limit {
        None => child.wait().map_err(cannot)?,
        Some(seconds) => wait_limited(child, Duration::from_secs(seconds))
            .map_err(cannot)?
            .ok_or_else(|| format!("killed after its timeout of {seconds} s{}", streams.said()))?,
    };
    if status.success() { Ok(()) } else { Err(format!("{status}{}", streams.said())) }
}

fn command(hook: &Hook, streams: &Streams, environment: &[CString]) -> io::Result<Command> {
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = hook.args().as_deref().and_then(|args| args.split_first()) {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    match hook.env() {
        Some(own) => command.envs(own.iter().filter_map(|entry| entry.split_once('='))),
        None => command.envs(environment.iter().filter_map(variable)),
    };
    command.stdin(streams.stdin.try_clone()?);
    command.stdout(streams.stdout.try_clone()?).stderr(streams.stderr.try_clone()?);
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
        let taken = taken.unwrap();
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
        let mut hook = script(&format!("echo $A $B >{}; echo reason; echo why >&2; exit 3", file.display()));
        hook["env"] = json!(["B=2"]);
        let error = hooks("1", &hook).run(&[c"A=1".to_owned()]).unwrap_err();
        assert_eq!(
            error,
            "error running startContainer hook #0: /bin/sh: exit status: 3, stdout: reason, stderr: why"
        );
        assert_eq!(said(&file), "2\n");
    }

    #[test]
    fn time_is_over_for_one_that_reads_no_state_however_long_it_is() {
        let mut hook = script("sleep 1000");
        hook["timeout"] = json!(1);
        let error = hooks(&"x".repeat(1 << 20), &hook).run(&[c"PATH=/usr/bin:/bin".to_owned()]).unwrap_err();
        assert_eq!(
            error,
            "error running startContainer hook #0: /bin/sh: killed after its timeout of 1 s, stdout: , stderr: "
        );
    }
}
