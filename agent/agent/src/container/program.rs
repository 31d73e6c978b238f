//! The program of a process: found, and executed, in the container.
//!
//! [`Program::prepare`] comes when the container is complete and before the wait for the start,
//! [`Program::execute`] after it. So it is here, too, that the last privileges are dropped and that
//! `startContainer` hooks run. Failures are reported with the kind that the host's exit code
//! depends on.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve};
use oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp, Process};
use vmrun_proto::{ErrorKind, ErrorReply, Stage};

use super::adapt::AdaptError;
use super::create::keep_only_capabilities;
use super::start_hooks::StartHooks;
use super::{identity, seccomp};

/// Where programs are looked for when the process has no `PATH`, as `execvp` does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What to execute, and how.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    args: Vec<CString>,
    env: Vec<CString>,
    name: String,
    path: String,
    /// The user whose home directory becomes `HOME`, when the configuration sets none.
    home_of: Option<u32>,
    filter: Option<Filter>,
    hooks: Option<StartHooks>,
}

/// A seccomp filter, and when it is loaded.
#[derive(Clone, Debug)]
pub(crate) enum Filter {
    /// Right before `execve`, so that it need not allow more than the program needs.
    Last(LinuxSeccomp),
    /// While the process still may: before it keeps no more than these capabilities.
    Privileged(LinuxSeccomp, Box<LinuxCapabilities>),
}

/// Why a program cannot be executed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum LookupError {
    #[error("exec: {name:?}: executable file not found in $PATH ({path})")]
    NotInPath { name: String, path: String },
    #[error("exec: {name:?}: {}", words(*.cause))]
    Unusable { name: String, cause: Errno },
}

/// As runc, which is written in Go, says it: engines know "no such file or directory" and
/// "permission denied" in small letters only, and tell by them what became of a start.
fn words(cause: Errno) -> String {
    cause.desc().to_lowercase()
}

impl LookupError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotInPath { .. } => ErrorKind::ProgramNotFound,
            Self::Unusable { cause, .. } => kind_of(*cause),
        }
    }
}

/// As shells and runc tell them apart: not there, or there and not usable.
fn kind_of(cause: Errno) -> ErrorKind {
    match cause {
        Errno::ENOENT | Errno::ENOTDIR => ErrorKind::ProgramNotFound,
        // It is not the program's fault.
        Errno::E2BIG | Errno::ENOMEM => ErrorKind::Failed,
        _ => ErrorKind::ProgramNotExecutable,
    }
}

impl Program {
    /// The program of `process`.
    pub(crate) fn new(process: &Process) -> Result<Self, AdaptError> {
        let args = process.args().as_deref().unwrap_or_default();
        let name = args.first().filter(|name| !name.is_empty()).ok_or(AdaptError::NoArgs)?.clone();
        let env = last_values(process.env().as_deref().unwrap_or_default());
        let value = |key: &str| env.iter().find_map(|entry| entry.strip_prefix(key)?.strip_prefix('='));
        let path = value("PATH").unwrap_or(DEFAULT_PATH).to_owned();
        let has_home = value("HOME").is_some_and(|home| !home.is_empty());
        let kept = env.iter().copied().filter(|entry| has_home || !entry.starts_with("HOME="));
        Ok(Self {
            args: c_strings(args.iter(), "process.args")?,
            env: c_strings(kept, "process.env")?,
            name,
            path,
            home_of: (!has_home).then(|| process.user().uid()),
            filter: None,
            hooks: None,
        })
    }

    /// The same with a filter.
    pub(crate) fn with_filter(self, filter: Filter) -> Self {
        Self { filter: Some(filter), ..self }
    }

    /// The same with hooks that run before it.
    pub(crate) fn with_hooks(self, hooks: Option<StartHooks>) -> Self {
        Self { hooks, ..self }
    }

    #[cfg(test)]
    pub(crate) fn filter(&self) -> Option<&Filter> {
        self.filter.as_ref()
    }

    /// Finds the file to execute; relative names are relative to the working directory.
    fn find(&self) -> Result<PathBuf, LookupError> {
        let unusable = |cause| LookupError::Unusable { name: self.name.clone(), cause };
        if self.name.contains('/') {
            let file = PathBuf::from(&self.name);
            return executable(&file).map(|()| file).map_err(unusable);
        }
        let mut denied = None;
        for directory in self.path.split(':') {
            let directory = if directory.is_empty() { "." } else { directory };
            let file = Path::new(directory).join(&self.name);
            match executable(&file) {
                Ok(()) => return Ok(file),
                Err(Errno::EACCES) => denied = Some(Errno::EACCES),
                Err(_) => {}
            }
        }
        Err(denied.map_or_else(
            || LookupError::NotInPath { name: self.name.clone(), path: self.path.clone() },
            unusable,
        ))
    }

    fn environment(&self) -> Vec<CString> {
        let mut env = self.env.clone();
        if let Some(uid) = self.home_of {
            let passwd = read_users().unwrap_or_default();
            let home = identity::home_directory(&passwd, uid).unwrap_or_else(|| "/".to_owned());
            env.extend(CString::new(format!("HOME={home}")).ok());
        }
        env
    }

    /// Gives up what the process needed to become what it is.
    fn drop_privileges(&self) -> Result<(), String> {
        let Some(Filter::Privileged(profile, capabilities)) = &self.filter else { return Ok(()) };
        load_filter(profile)?;
        keep_only_capabilities(capabilities)
    }

    fn run_hooks(&self, environment: &[CString]) -> Result<(), String> {
        self.hooks.as_ref().map_or(Ok(()), |hooks| hooks.run(environment))
    }

    fn load_last_filter(&self) -> Result<(), String> {
        match &self.filter {
            Some(Filter::Last(profile)) => load_filter(profile),
            _ => Ok(()),
        }
    }

    /// Does what comes before the wait for the start, and looks whether there is a program at all.
    pub(crate) fn prepare(&self) -> Result<(), ErrorReply> {
        let failed = |message: String| ErrorReply { kind: ErrorKind::Failed, stage: Stage::Create, message };
        self.hooks.as_ref().map_or(Ok(()), StartHooks::prepare).map_err(failed)?;
        self.drop_privileges().map_err(failed)?;
        let found = self.find().map_err(|error| (error.kind(), error.to_string()));
        found.map(drop).map_err(|(kind, message)| ErrorReply { kind, stage: Stage::Exec, message })
    }

    /// Becomes the program; returns when that cannot be.
    pub(crate) fn execute(&self) -> ErrorReply {
        let Err((kind, message)) = self.run();
        ErrorReply { kind, stage: Stage::Exec, message }
    }

    fn run(&self) -> Result<Infallible, (ErrorKind, String)> {
        let failed = |message: String| (ErrorKind::Failed, message);
        let environment = self.environment();
        if self.hooks.is_some() {
            // They are the container's programs, too.
            self.load_last_filter().map_err(failed)?;
        }
        self.run_hooks(&environment).map_err(failed)?;
        let file = self.find().map_err(|error| (error.kind(), error.to_string()))?;
        let display = file.display().to_string();
        let file = CString::new(display.as_str()).map_err(|_| {
            (ErrorKind::InvalidConfig, format!("the program's path {display:?} holds a NUL byte"))
        })?;
        if self.hooks.is_none() {
            self.load_last_filter().map_err(failed)?;
        }
        match execve(&file, &self.args, &environment) {
            Ok(never) => Ok(never),
            Err(cause) => {
                let step = if cause == Errno::E2BIG { "; shorten process.args or process.env" } else { "" };
                Err((kind_of(cause), format!("exec: {display:?}: {}{step}", words(cause))))
            }
        }
    }
}

fn load_filter(profile: &LinuxSeccomp) -> Result<(), String> {
    seccomp::load(profile).map_err(|error| format!("cannot load the seccomp filter: {error}"))
}

/// One entry for each name, with its last value: `getenv` finds the first, and engines
/// append what the user asks for. Entries without a name stay as they are.
fn last_values(env: &[String]) -> Vec<&String> {
    let named = env.iter().filter_map(|entry| Some((entry.split_once('=')?.0, entry)));
    let mut last: HashMap<&str, &String> = named.collect();
    let kept = env.iter().filter_map(|entry| match entry.split_once('=') {
        Some((name, _)) => last.remove(name),
        None => Some(entry),
    });
    kept.collect()
}

fn c_strings<'a>(
    texts: impl Iterator<Item = &'a String>,
    what: &'static str,
) -> Result<Vec<CString>, AdaptError> {
    texts.map(|text| CString::new(text.as_str())).collect::<Result<_, _>>().map_err(|_| AdaptError::Nul(what))
}

/// Whether this process may execute `file`.
fn executable(file: &Path) -> Result<(), Errno> {
    let metadata =
        fs::metadata(file).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    if metadata.is_dir() {
        return Err(Errno::EACCES);
    }
    access(file, AccessFlags::X_OK)
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// `/etc/passwd`, which is the image's: whatever it is, it neither holds the process up nor fills its memory.
fn read_users() -> io::Result<Vec<u8>> {
    const MOST_BYTES: u64 = 1 << 20;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open("/etc/passwd")?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn program(args: &[&str], env: &[&str]) -> Program {
        let process = json!({"user": {"uid": 7, "gid": 0}, "cwd": "/", "args": args, "env": env});
        Program::new(&serde_json::from_value(process).unwrap()).unwrap()
    }

    fn file(directory: &Path, name: &str, mode: u32) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn first_executable_of_the_path_is_taken() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        file(first.path(), "tool", 0o644);
        let wanted = file(second.path(), "tool", 0o755);
        let path = format!("PATH={}:{}", first.path().display(), second.path().display());
        assert_eq!(program(&["tool"], &[&path]).find().unwrap(), wanted);
    }

    #[test]
    fn last_path_counts() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = file(directory.path(), "tool", 0o755);
        let path = format!("PATH={}", directory.path().display());
        assert_eq!(program(&["tool"], &["PATH=/none", &path]).find().unwrap(), wanted);
    }

    #[test]
    fn missing_program_and_forbidden_program_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        file(directory.path(), "tool", 0o644);
        let path = format!("PATH={}", directory.path().display());
        let forbidden = program(&["tool"], &[&path]).find().unwrap_err();
        assert_eq!(forbidden.kind(), ErrorKind::ProgramNotExecutable);
        let missing = program(&["other"], &[&path]).find().unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::ProgramNotFound);
        let missing = program(&["/no/such/file"], &[]).find().unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::ProgramNotFound);
        assert_eq!(missing.to_string(), "exec: \"/no/such/file\": no such file or directory");
        let directory = program(&["/etc"], &[]).find().unwrap_err();
        assert_eq!(directory.to_string(), "exec: \"/etc\": permission denied");
        assert_eq!(directory.kind(), ErrorKind::ProgramNotExecutable);
    }

    #[test]
    fn environment_keeps_its_order_and_gets_a_home() {
        let entries = |env: &[&str]| {
            let env = program(&["x"], env).environment();
            env.into_iter().map(|entry| entry.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(entries(&["B=2", "A=1", "HOME=/h"]), ["B=2", "A=1", "HOME=/h"]);
        assert_eq!(
            entries(&["A=1", "B=2", "odd", "HOME=/h", "A=3", "odd"]),
            ["A=3", "B=2", "odd", "HOME=/h", "odd"]
        );
        let defaulted = entries(&["HOME=", "B=2"]);
        assert_eq!(defaulted[0], "B=2");
        assert!(defaulted[1].starts_with("HOME=/"));
    }
}
