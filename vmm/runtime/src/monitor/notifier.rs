//! What the container's program says of itself (`sd_notify(3)`), passed on to the service
//! manager that the caller named in `NOTIFY_SOCKET`.
//!
//! The guest is not trusted: only what is about the service's own state is passed on, and what
//! names something of the guest's, like a pid, is not, or the host's is put in its place.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::control_server::Caller;
use crate::control::ControlReply;

const READY: &str = "READY=1";
const RELOADING: &str = "RELOADING=1";

/// What is passed on: a whole line, or a variable with any value.
const PASSED: [&str; 8] =
    [READY, RELOADING, "STOPPING=1", "WATCHDOG=1", "STATUS=", "ERRNO=", "BUSERROR=", "EXTEND_TIMEOUT_USEC="];

/// How long a manager may leave a message waiting.
const SEND_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Notifier {
    socket: PathBuf,
    /// The process that the manager is to watch once the program is ready; none where the
    /// command that stays is that process.
    main_pid: Option<u32>,
    ready: bool,
    waiting: Vec<Caller>,
}

impl Notifier {
    pub(super) fn new(socket: PathBuf, main_pid: Option<u32>) -> Self {
        Self { socket, main_pid, ready: false, waiting: Vec::new() }
    }

    /// From now on it is this one that is told.
    pub(super) fn redirect(&mut self, socket: PathBuf) {
        self.socket = socket;
    }

    /// Answers `caller` when the program has said that it is ready.
    pub(super) fn tell_when_ready(&mut self, caller: Caller) {
        if self.ready { caller.answer(&ControlReply::Ok) } else { self.waiting.push(caller) }
    }

    /// Passes a message on. Whether it was the first that says that the program is ready, and
    /// whether the manager has taken it.
    pub(super) fn pass_on(&mut self, message: &str) -> (bool, io::Result<()>) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        let text = passed(message, self.main_pid, now);
        if text.is_empty() {
            return (false, Ok(()));
        }
        let sent = self.send(text.as_bytes());
        let ready = text.lines().any(|line| line == READY) && !self.ready;
        if ready {
            self.ready = true;
            for caller in self.waiting.drain(..) {
                caller.answer(&ControlReply::Ok);
            }
        }
        (ready, sent)
    }

    fn send(&self, text: &[u8]) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_LIMIT))?;
        socket.send_to(text, &self.socket).map(drop)
    }
}

/// What of a message is passed on. With the word that it is ready goes the process to watch, in one
/// message, so that there is no moment in which the manager knows half of it.
fn passed(message: &str, main_pid: Option<u32>, now: Duration) -> String {
    let is_passed = |line: &&str| {
        PASSED.iter().any(|word| if word.ends_with('=') { line.starts_with(word) } else { line == word })
    };
    let mut text = String::new();
    for line in message.lines().filter(is_passed) {
        text.push_str(line);
        text.push('\n');
        match (line, main_pid) {
            (READY, Some(pid)) => text.push_str(&format!("MAINPID={pid}\n")),
            // The guest's clock is another one.
            (RELOADING, _) => text.push_str(&format!("MONOTONIC_USEC={}\n", now.as_micros())),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_guests_is_not_passed_on() {
        let now = Duration::from_micros(1_234_567);
        let table = [
            ("READY=1", "READY=1\nMAINPID=42\n"),
            ("STATUS=up\nREADY=1\nMAINPID=7\n", "STATUS=up\nREADY=1\nMAINPID=42\n"),
            ("MAINPID=7", ""),
            ("BARRIER=1", ""),
            ("FDSTORE=1\nFDNAME=x", ""),
            ("READY=0", ""),
            ("RELOADING=1\nMONOTONIC_USEC=5", "RELOADING=1\nMONOTONIC_USEC=1234567\n"),
            ("WATCHDOG=trigger", ""),
            ("WATCHDOG=1", "WATCHDOG=1\n"),
        ];
        for (said, expected) in table {
            assert_eq!(passed(said, Some(42), now), expected, "{said:?}");
        }
        assert_eq!(passed("READY=1", None, now), "READY=1\n");
    }

    #[test]
    fn manager_hears_it_and_the_first_word_of_readiness_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manager");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut notifier = Notifier::new(path, None);
        assert!(matches!(notifier.pass_on("STATUS=coming"), (false, Ok(()))));
        assert!(matches!(notifier.pass_on("READY=1"), (true, Ok(()))));
        assert!(matches!(notifier.pass_on("READY=1"), (false, Ok(()))));
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STATUS=coming\n");
        drop(manager);
        assert!(notifier.pass_on("STOPPING=1").1.is_err());
    }
}
