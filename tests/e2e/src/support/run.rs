//! Running a bundle and looking at what came of it.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;
use std::{fmt, fs};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use super::output::Output;
use super::place::place;
use super::terminal::Terminal;
use super::wait::{self, LIMIT};
use super::{Bundle, leftovers};

/// Who runs a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    Vmrun,
    /// The measure of what vmrun has to do.
    Crun,
    /// The measure for terminals.
    Runc,
}

/// First the one that has to be right.
pub(crate) const BOTH: [Runtime; 2] = [Runtime::Crun, Runtime::Vmrun];

impl Runtime {
    fn command(self) -> Command {
        match self {
            Self::Vmrun => Command::new(&place().vmrun),
            Self::Crun => {
                let mut command = Command::new("crun");
                command.arg("--cgroup-manager=cgroupfs");
                command
            }
            Self::Runc => Command::new("runc"),
        }
    }
}

/// What the machine's process calls itself; its arguments are the monitor's.
const MACHINE: &str = "vmrun-machine";

/// Directory of the store where no other is named.
pub(crate) const STORE: &str = "/run/vmrun";

/// A name that no other container of this host has.
pub(crate) fn new_id() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// `vmrun run` in the making.
#[derive(Debug)]
pub(crate) struct Run<'b> {
    bundle: &'b Bundle,
    runtime: Runtime,
    verb: &'static str,
    id: String,
    store: Option<PathBuf>,
    options: Vec<OsString>,
    stdin: Option<Stdio>,
    input: Option<Vec<u8>>,
}

impl<'b> Run<'b> {
    pub(crate) fn of(bundle: &'b Bundle) -> Self {
        Self {
            bundle,
            runtime: Runtime::Vmrun,
            verb: "run",
            id: new_id(),
            store: None,
            options: Vec::new(),
            stdin: None,
            input: None,
        }
    }

    pub(crate) fn on(mut self, runtime: Runtime) -> Self {
        self.runtime = runtime;
        self
    }

    /// One more option of `run`.
    pub(crate) fn option(mut self, option: impl AsRef<OsStr>) -> Self {
        self.options.push(option.as_ref().to_owned());
        self
    }

    /// Several of them.
    pub(crate) fn options(self, options: &[&str]) -> Self {
        options.iter().fold(self, Self::option)
    }

    /// Another store than the usual.
    pub(crate) fn store(mut self, directory: &Path) -> Self {
        self.store = Some(directory.to_owned());
        self
    }

    /// Another id than a new one.
    pub(crate) fn id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self
    }

    /// Bytes for its standard input, which then ends.
    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Its standard input; nothing by default.
    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }

    /// The command line as it will be run.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.runtime.command();
        if let Some(store) = &self.store {
            command.arg("--root").arg(store);
        }
        command.arg(self.verb).args(&self.options).arg("--bundle").arg(self.bundle.path()).arg(&self.id);
        command
    }

    /// Starts it on a terminal, which becomes its controlling one.
    #[track_caller]
    pub(crate) fn start_on(self, terminal: &mut Terminal) -> Started {
        let inner = self.command();
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(inner.get_program()).args(inner.get_args());
        let before = leftovers::of(&self.id, &self.place(), self.bundle.path());
        let (child, output) = terminal.spawn(&mut command);
        self.started(child, output, Output::default().ended(), before)
    }

    /// Starts it with pipes at its streams.
    #[track_caller]
    pub(crate) fn start(mut self) -> Started {
        let before = leftovers::of(&self.id, &self.place(), self.bundle.path());
        let stdin = match (&self.input, self.stdin.take()) {
            (Some(_), _) => Stdio::piped(),
            (None, Some(stdin)) => stdin,
            (None, None) => Stdio::null(),
        };
        let mut command = self.command();
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if let Some(bytes) = self.input.take() {
            let mut pipe = child.stdin.take().unwrap();
            thread::spawn(move || {
                // A program that does not read to the end breaks the pipe.
                let _ = pipe.write_all(&bytes);
            });
        }
        let stdout = Output::collect(child.stdout.take().unwrap());
        let stderr = Output::collect(child.stderr.take().unwrap());
        self.started(child, stdout, stderr, before)
    }

    fn place(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(|| PathBuf::from(STORE))
    }

    fn started(self, child: Child, stdout: Output, stderr: Output, before: Vec<String>) -> Started {
        Started {
            runtime: self.runtime,
            store: self.place(),
            id: self.id,
            bundle: self.bundle.path().to_owned(),
            before,
            child,
            stdout,
            stderr,
        }
    }

    /// Starts it with `--detach`, and checks that the command succeeds.
    #[track_caller]
    pub(crate) fn detach(self) -> Detached {
        self.option("--detach").leave()
    }

    /// `vmrun create` instead of `run`, and checks that it succeeds.
    #[track_caller]
    pub(crate) fn create(self) -> Detached {
        self.creating().leave()
    }

    /// `vmrun create` instead of `run`.
    pub(crate) fn creating(mut self) -> Self {
        self.verb = "create";
        self
    }

    #[track_caller]
    fn leave(self) -> Detached {
        become_subreaper();
        let mut started = self.start();
        let status = wait::end_of(&mut started.child, LIMIT).expect("the command returns");
        assert!(status.success(), "{status}: {:?}", String::from_utf8_lossy(&started.stderr.so_far()));
        Detached { started }
    }

    /// Runs it to its end and checks that nothing is left.
    #[track_caller]
    pub(crate) fn finish(self) -> Outcome {
        self.start().finish()
    }
}

/// What a command may take to end by itself once a test has failed.
const PARTING: Duration = Duration::from_secs(10);

/// A container that runs.
#[derive(Debug)]
pub(crate) struct Started {
    runtime: Runtime,
    pub(crate) id: String,
    pub(crate) store: PathBuf,
    bundle: PathBuf,
    before: Vec<String>,
    pub(crate) child: Child,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

impl Started {
    /// Sends a signal to the command.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end and checks that nothing is left.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Outcome {
        let Some(status) = wait::end_of(&mut self.child, LIMIT) else {
            panic!(
                "{:?} still runs after {} s; stdout so far: {:?}; stderr: {:?}",
                self.runtime,
                LIMIT.as_secs(),
                String::from_utf8_lossy(&self.stdout.so_far()),
                String::from_utf8_lossy(&self.stderr.so_far()),
            );
        };
        // With an open pipe left, something is left.
        let whole = |output: &Output| output.whole().expect("the standard streams stay open after the end");
        let outcome = Outcome {
            runtime: self.runtime,
            status,
            stdout: whole(&self.stdout),
            stderr: whole(&self.stderr),
        };
        if self.runtime == Runtime::Vmrun {
            let left = self.left();
            assert!(left.is_empty(), "left behind after {outcome:?}:\n{}", left.join("\n"));
        }
        outcome
    }

    /// What is on the host now and was not before.
    fn left(&self) -> Vec<String> {
        let mut left = leftovers::of(&self.id, &self.store, &self.bundle);
        left.retain(|line| !self.before.contains(line));
        left
    }

    /// Waits until nothing is left: for when somebody else than the command has cleaned up.
    #[track_caller]
    pub(crate) fn await_nothing_left(&self) {
        wait::until_or("nothing to be left behind", || {
            let left = self.left();
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        });
    }

    /// Waits until nothing is left, or the program, which says something first, runs. Then it is ended. Says whether it ran.
    #[track_caller]
    pub(crate) fn ends_or_runs(&self) -> bool {
        let ran = wait::until("the end or the program", || match self.stdout.so_far().is_empty() {
            true => self.left().is_empty().then_some(false),
            false => Some(true),
        });
        if ran {
            vmrun(&["--root", self.store.to_str().unwrap()], &["delete", "--force", &self.id]).ok();
        }
        ran
    }

    /// Pid of the monitor, once it is there.
    #[track_caller]
    pub(crate) fn monitor(&self) -> i32 {
        self.process("the monitor", |name| name != MACHINE)
    }

    /// Pid of the machine's process, once it is there.
    #[track_caller]
    pub(crate) fn machine(&self) -> i32 {
        self.process("the machine's process", |name| name == MACHINE)
    }

    /// That of the monitor's kind which has such a name.
    #[track_caller]
    fn process(&self, what: &str, is_it: impl Fn(&str) -> bool) -> i32 {
        wait::until(what, || {
            let mine = leftovers::processes(&self.id).into_iter();
            let mut monitors = mine.filter(|(_, line)| line.contains("__monitor")).map(|(pid, _)| pid);
            let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            monitors.find(|pid| is_it(name(pid).trim_end()))
        })
    }
}

impl Drop for Started {
    /// After a failed assertion: the next test shall not pay for this one.
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        // What has said its last word on standard output says why on the other stream.
        if self.stdout.has_ended() && matches!(self.child.try_wait(), Ok(None)) {
            let _ = wait::end_of(&mut self.child, PARTING);
        }
        for (pid, _) in leftovers::processes(&self.id) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let status = self.child.wait();
        // A program of another runtime may hold it open.
        let stderr = self.stderr.whole_within(PARTING).unwrap_or_else(|| self.stderr.so_far());
        eprintln!("{:?} {}: {status:?}; stderr: {}", self.runtime, self.id, String::from_utf8_lossy(&stderr));
    }
}

/// A container whose command has returned.
#[derive(Debug)]
pub(crate) struct Detached {
    pub(crate) started: Started,
}

impl Detached {
    /// `vmrun VERB ID WORD…`, to its end.
    #[track_caller]
    pub(crate) fn verb(&self, verb: &str, words: &[&str]) -> Outcome {
        let words: Vec<_> = [verb, &self.started.id].iter().chain(words).copied().collect();
        vmrun(&["--root", self.started.store.to_str().unwrap()], &words)
    }

    /// `vmrun exec OPTION… ID WORD…`, not started yet.
    pub(crate) fn exec(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = self.started.runtime.command();
        command.arg("--root").arg(&self.started.store).arg("exec").args(options).arg(&self.started.id);
        command.args(words);
        command
    }

    /// `vmrun state`.
    #[track_caller]
    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.verb("state", &[]).ok()).unwrap()
    }

    /// Waits until `vmrun state` says so.
    #[track_caller]
    pub(crate) fn await_status(&self, status: &str) {
        wait::until_or(status, || {
            let state = self.state();
            if state["status"] == status { Ok(()) } else { Err(state.to_string()) }
        });
    }

    /// The monitor's exit code, which an engine gets as its reaper.
    #[track_caller]
    pub(crate) fn reap(&self, pid: i32) -> WaitStatus {
        wait::until("the monitor's end", || {
            match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)).unwrap() {
                WaitStatus::StillAlive => None,
                status => Some(status),
            }
        })
    }

    /// Ends and deletes it, whoever runs it.
    #[track_caller]
    pub(crate) fn end(&self) -> Outcome {
        let mut command = self.started.runtime.command();
        end_of(command.arg("--root").arg(&self.started.store).args(["delete", "--force", &self.started.id]))
    }

    /// Deletes it and checks that nothing is left.
    #[track_caller]
    pub(crate) fn delete(self) {
        self.verb("delete", &[]).prints("");
        self.started.await_nothing_left();
    }
}

/// Adopts the monitors of detached containers, as engines do.
fn become_subreaper() {
    static DONE: Once = Once::new();
    DONE.call_once(|| nix::sys::prctl::set_child_subreaper(true).unwrap());
}

/// `vmrun` with these global options and words, to its end.
#[track_caller]
pub(crate) fn vmrun(global: &[&str], words: &[&str]) -> Outcome {
    let mut command = Runtime::Vmrun.command();
    end_of(command.args(global).args(words))
}

/// Any command that runs `vmrun` in the end.
#[track_caller]
pub(crate) fn end_of(command: &mut Command) -> Outcome {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = Output::collect(child.stdout.take().unwrap());
    let stderr = Output::collect(child.stderr.take().unwrap());
    let status = wait::end_of(&mut child, LIMIT).unwrap_or_else(|| panic!("{command:?} does not end"));
    let (stdout, stderr) = (stdout.whole().unwrap(), stderr.whole().unwrap());
    Outcome { runtime: Runtime::Vmrun, status, stdout, stderr }
}

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) runtime: Runtime,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Outcome {
    /// Standard output as text.
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        self
    }

    /// Asserts standard output, exit code 0 and silence otherwise.
    #[track_caller]
    pub(crate) fn prints(&self, expected: &str) -> &Self {
        assert_eq!(self.out(), expected, "{self:?}");
        assert_eq!(self.err(), "", "{self:?}");
        self.exits(0)
    }

    /// Asserts standard output, and that standard error has these parts.
    #[track_caller]
    pub(crate) fn prints_with_errors(&self, expected: &str, errors: &[&str]) -> &Self {
        assert_eq!(self.out(), expected, "{self:?}");
        for error in errors {
            assert!(self.err().contains(error), "no {error:?} in {self:?}");
        }
        self.exits(0)
    }

    /// Asserts that standard output has this text.
    #[track_caller]
    pub(crate) fn shows(&self, expected: &str) -> &Self {
        assert!(self.out().contains(expected), "no {expected:?} in {self:?}");
        self
    }

    /// Asserts success and gives standard output.
    #[track_caller]
    pub(crate) fn ok(&self) -> String {
        self.exits(0);
        self.out()
    }

    /// Asserts a failure with one line on standard error that has these parts, in this order.
    #[track_caller]
    pub(crate) fn fails_with(&self, code: i32, parts: &[&str]) -> &Self {
        self.exits(code);
        assert_eq!(self.out(), "", "{self:?}");
        let err = self.err();
        let line = err.lines().next().unwrap_or_default();
        assert!(line.starts_with("vmrun: error: "), "{self:?}");
        parts.iter().fold(line, |rest, part| match rest.find(part) {
            Some(at) => &rest[at + part.len()..],
            None => panic!("no {part:?} in {rest:?}, all of which is {err:?}"),
        });
        for line in err.lines().skip(1) {
            assert!(line.starts_with("  | "), "more than one line of error: {err:?}");
        }
        self
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signal = self.status.signal().map(|signal| format!(" by signal {signal}")).unwrap_or_default();
        write!(
            formatter,
            "{:?} ended{signal} with {:?}\n--- stdout\n{}\n--- stderr\n{}\n---",
            self.runtime,
            self.status.code(),
            self.out(),
            self.err()
        )
    }
}
