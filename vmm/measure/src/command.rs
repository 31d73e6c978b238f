//! A command, and one run of it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::error::MeasureError;

/// How long one that is late may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(10);

/// So much of what a command has said is shown.
const TAIL: u64 = 600;

/// The words of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    words: Vec<String>,
}

impl CommandLine {
    /// By a shell's rules for words and quotes; nothing is expanded.
    ///
    /// # Errors
    /// There is no word, or a quote does not end.
    pub fn parse(text: &str) -> Result<Self, MeasureError> {
        let failed = |why| MeasureError::Command { text: text.to_owned(), why };
        let words = shlex::split(text).ok_or(failed("a quote does not end"))?;
        if words.is_empty() { Err(failed("there is no word")) } else { Ok(Self { words }) }
    }

    /// Of these words, of which there is one at least.
    pub(crate) fn of(words: Vec<String>) -> Self {
        Self { words }
    }

    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str)
    }

    /// Its program's name, without the folder.
    pub fn program(&self) -> &str {
        let first = self.words.first().map_or("", String::as_str);
        first.rsplit('/').next().unwrap_or(first)
    }

    /// Runs it to its end, without standard input, and gives the time that it took.
    pub(crate) fn run(&self, limit: Duration) -> Result<Duration, MeasureError> {
        let mut said = tempfile::tempfile().map_err(MeasureError::file("make", std::env::temp_dir()))?;
        let failed = |source| MeasureError::Start { command: self.to_string(), source };
        let error = said.try_clone().map_err(failed)?;
        let mut command = Command::new(self.words.first().map_or("", String::as_str));
        command.args(self.words.iter().skip(1)).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(error);
        let begin = Instant::now();
        let mut child = command.spawn().map_err(failed)?;
        let ended = wait(&mut child, begin + limit).map_err(failed)?;
        let time = begin.elapsed();
        match ended {
            Some(status) if status.success() => Ok(time),
            Some(status) => Err(MeasureError::Failed {
                command: self.to_string(),
                how: how(status),
                said: tail(&mut said),
            }),
            None => Err(MeasureError::Late { command: self.to_string(), limit, said: tail(&mut said) }),
        }
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Words with a zero byte cannot be typed.
        let words = shlex::try_join(self.words.iter().map(String::as_str)).unwrap_or_default();
        out.write_str(&words)
    }
}

/// Its status; nothing when it had to be ended, with what it has started.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    let group = rustix::process::Pid::from_child(child);
    let process = pidfd_open(group, PidfdFlags::empty())?;
    if has_ended(&process, deadline)? {
        return child.wait().map(Some);
    }
    // It is the first of its group. Who is asked can say where it stands, and clean up.
    let _ = kill_process_group(group, Signal::TERM);
    has_ended(&process, Instant::now() + GRACE)?;
    let _ = kill_process_group(group, Signal::KILL);
    child.wait()?;
    Ok(None)
}

/// Whether it does before the deadline.
fn has_ended(process: &OwnedFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // Not before it is over.
        let limit = PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last that was written to a file.
fn tail(said: &mut File) -> String {
    let length = said.metadata().map_or(0, |data| data.len());
    let mut bytes = Vec::new();
    // What cannot be read is not shown; that the command failed is.
    let _ =
        said.seek(SeekFrom::Start(length.saturating_sub(TAIL))).and_then(|_| said.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn words_are_a_shells() {
        let line = CommandLine::parse("/usr/bin/env 'A B' \"c d\" e").unwrap();
        assert_eq!(line.words, ["/usr/bin/env", "A B", "c d", "e"]);
        assert_eq!(line.program(), "env");
        assert_eq!(CommandLine::parse(&line.to_string()).unwrap(), line);
        for wrong in ["", "  ", "a 'b"] {
            assert!(CommandLine::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn command_that_fails_is_told_with_what_it_said() {
        assert!(CommandLine::parse("true").unwrap().run(LONG).unwrap() > Duration::ZERO);
        let error = CommandLine::parse("sh -c 'echo why >&2; exit 3'").unwrap().run(LONG).unwrap_err();
        assert!(error.to_string().ends_with("ended with code 3; it said: why"), "{error}");
        let error = CommandLine::parse("sh -c 'kill -9 $$'").unwrap().run(LONG).unwrap_err();
        assert!(error.to_string().contains("was killed by signal 9"), "{error}");
        let error = CommandLine::parse("/nowhere/at/all").unwrap().run(LONG).unwrap_err();
        assert!(matches!(error, MeasureError::Start { .. }), "{error}");
    }

    #[test]
    fn command_that_does_not_end_is_killed_with_its_children() {
        let line = CommandLine::parse("sh -c 'sleep 1000 & sleep 1000'").unwrap();
        let error = line.run(Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, MeasureError::Late { .. }), "{error}");
    }

    #[test]
    fn command_that_does_not_end_can_say_why_when_it_is_asked_to() {
        let line =
            CommandLine::parse("sh -c 'trap \"echo why >&2; exit 0\" TERM; sleep 1000 & wait'").unwrap();
        let error = line.run(Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().ends_with("to end; it said: why"), "{error}");
    }
}
