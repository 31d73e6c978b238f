//! The socket on which a container's program says how it is (`sd_notify(3)`).
//!
//! A socket of the host cannot be connected to from the guest, so the agent binds one in the
//! container's own place and tells the host what comes in.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use vmrun_proto::{Event, Message};

use super::Server;
use super::names::describe;
use super::poller::Token;
use crate::container::NOTIFY_SOCKET;
use crate::log;

/// As much of a message as systemd takes.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Messages that are taken in one turn; a program that says more has to wait for the next.
const BATCH: usize = 16;

/// Binds the socket in `directory`, which is made.
pub(super) fn bind(directory: &Path) -> io::Result<UnixDatagram> {
    fs::create_dir(directory)?;
    let path = directory.join(NOTIFY_SOCKET);
    let socket = UnixDatagram::bind(&path)?;
    socket.set_nonblocking(true)?;
    // Whatever user the program is.
    fs::set_permissions(&path, Permissions::from_mode(0o777))?;
    Ok(socket)
}

impl Server {
    /// Tells the host what has come in on the socket of the process `id`.
    pub(super) fn notified(&mut self, id: u64) {
        for _ in 0..BATCH {
            let Some(message) = self.next_notification(id) else { return };
            let Some(process) = self.processes.get(&id) else { return };
            let owner = process.owner;
            let event = Event::Notified { process: process.reference.clone(), message };
            // Only the host that has asked for it knows this kind of event.
            self.send(owner, &Message::Event(event));
        }
    }

    /// A descriptor that comes along is closed here: with that a barrier (`BARRIER=1`) is passed.
    fn next_notification(&mut self, id: u64) -> Option<String> {
        let process = self.processes.get_mut(&id)?;
        let mut bytes = [0; MAX_MESSAGE_BYTES];
        match process.notify.as_ref()?.recv(&mut bytes) {
            Ok(length) => Some(String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                let who = describe(&process.reference);
                log::warn(format_args!("cannot read what {who} notifies of: {error}"));
                // It would be ready for ever.
                process.notify = None;
                None
            }
        }
    }

    /// Watches the socket of a process that has one.
    pub(super) fn watch_notify_socket(&mut self, id: u64) -> io::Result<()> {
        match self.processes.get(&id).and_then(|process| process.notify.as_ref()) {
            Some(socket) => Ok(self.poller.watch_input(socket, Token::Notify(id))?),
            None => Ok(()),
        }
    }
}
