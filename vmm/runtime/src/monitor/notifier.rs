//! What the container's program says of itself (`sd_notify(3)`), passed on to the service
//! manager that the caller named in `NOTIFY_SOCKET`.
//!
//! The guest is not trusted: only what is about the service's own state is passed on, and what
//! names something of the guest's, like a pid, is not, or the host's is put in its place.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
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

/// Most messages that are kept for a verb that is about to ask.
const MOST_KEPT: usize = 64;

/// Who tells the manager: it need not listen to any process but the one that it has started, or was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Teller {
    /// The launcher, for as long as it is there.
    Launcher {
        /// It goes when the program is ready.
        leaves: bool,
    },
    /// The verb that starts the program, until that is ready.
    Verbs,
}

#[derive(Debug)]
pub(super) struct Notifier {
    teller: Teller,
    socket: Option<UnixDatagram>,
    ready: bool,
    waiting: Vec<Caller>,
    /// What was said before there was a verb to tell it.
    kept: Vec<String>,
}

impl Notifier {
    /// `socket` is for the time when nobody else tells the manager.
    pub(super) fn new(teller: Teller, socket: Option<UnixDatagram>) -> Self {
        Self { teller, socket, ready: false, waiting: Vec::new(), kept: Vec::new() }
    }

    /// From now on it is this one that is told. A socket without a file may be out of reach here: then
    /// it is the one that the caller had at the creation.
    pub(super) fn redirect(&mut self, name: &Path) {
        let socket = UnixDatagram::unbound().and_then(|socket| socket.connect(name).map(|()| socket));
        if let Ok(socket) = socket {
            self.socket = Some(socket);
        }
    }

    /// Tells `caller` what the program says, and answers it when that has said that it is ready.
    pub(super) fn tell_when_ready(&mut self, caller: Caller) {
        let mut kept = std::mem::take(&mut self.kept).into_iter();
        if !kept.by_ref().all(|text| caller.tell(&ControlReply::Notified(text))) {
            self.kept = kept.collect();
            return;
        }
        if self.ready { caller.answer(&ControlReply::Ok) } else { self.waiting.push(caller) }
    }

    /// Passes a message on. Whether it was the first that says that the program is ready, and
    /// whether the manager has taken it.
    pub(super) fn pass_on(
        &mut self,
        message: &str,
        launcher: impl FnOnce(&str) -> io::Result<()>,
    ) -> (bool, io::Result<()>) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        // The process that the manager is to watch once the program is ready: none where the command
        // that stays is that process.
        let main_pid = (self.teller != Teller::Launcher { leaves: false }).then(std::process::id);
        let text = passed(message, main_pid, now);
        if text.is_empty() {
            return (false, Ok(()));
        }
        let first = text.lines().any(|line| line == READY) && !self.ready;
        let sent = match self.teller {
            Teller::Launcher { leaves } if !(leaves && self.ready) => launcher(&text),
            Teller::Verbs if !self.ready || !self.kept.is_empty() => {
                self.tell_verbs(text);
                Ok(())
            }
            _ => self.send(text.as_bytes()),
        };
        if first {
            self.ready = true;
            for caller in self.waiting.drain(..) {
                caller.answer(&ControlReply::Ok);
            }
        }
        (first, sent)
    }

    /// The manager hears it once, whoever waits.
    fn tell_verbs(&mut self, text: String) {
        let reply = ControlReply::Notified(text);
        while let Some(caller) = self.waiting.first() {
            if caller.tell(&reply) {
                return;
            }
            self.waiting.remove(0);
        }
        if let (ControlReply::Notified(text), true) = (reply, self.kept.len() < MOST_KEPT) {
            self.kept.push(text);
        }
    }

    fn send(&self, text: &[u8]) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        socket.set_write_timeout(Some(SEND_LIMIT))?;
        socket.send(text).map(drop)
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

    fn pair() -> (UnixDatagram, UnixDatagram) {
        UnixDatagram::pair().unwrap()
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn launcher_tells_the_manager_until_it_leaves() {
        let (manager, ours) = pair();
        let mut notifier = Notifier::new(Teller::Launcher { leaves: true }, Some(ours));
        let mut relayed = Vec::new();
        let mut say = |text: &str| {
            notifier.pass_on(text, |text| {
                relayed.push(text.to_owned());
                Ok(())
            })
        };
        assert!(matches!(say("STATUS=coming"), (false, Ok(()))));
        assert!(matches!(say("READY=1"), (true, Ok(()))));
        assert!(matches!(say("STATUS=there"), (false, Ok(()))));
        assert_eq!(relayed, ["STATUS=coming\n", &format!("READY=1\nMAINPID={}\n", std::process::id())]);
        assert_eq!(heard(&manager), "STATUS=there\n");
        let mut stays = Notifier::new(Teller::Launcher { leaves: false }, None);
        assert!(matches!(stays.pass_on("READY=1", |_| Ok(())), (true, Ok(()))));
        assert!(stays.pass_on("STOPPING=1", |_| Err(io::ErrorKind::BrokenPipe.into())).1.is_err());
    }

    #[test]
    fn what_is_said_before_a_verb_asks_is_kept_for_it() {
        let (manager, ours) = pair();
        let mut notifier = Notifier::new(Teller::Verbs, Some(ours));
        let nobody = |_: &str| Err(io::ErrorKind::NotConnected.into());
        assert!(matches!(notifier.pass_on("STATUS=coming", nobody), (false, Ok(()))));
        assert!(matches!(notifier.pass_on("READY=1", nobody), (true, Ok(()))));
        assert_eq!(notifier.kept.len(), 2);
        notifier.kept.clear();
        assert!(matches!(notifier.pass_on("STATUS=there", nobody), (false, Ok(()))));
        assert_eq!(heard(&manager), "STATUS=there\n");
    }
}
