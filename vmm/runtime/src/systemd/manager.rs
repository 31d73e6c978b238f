//! The conversation with systemd's manager over its own socket, which needs no message bus.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::wire::{Call, Message, Reader, Writer};

/// There when systemd has booted this host.
const BOOTED: &str = "/run/systemd/system";

const OF_THE_HOST: &str = "/run/systemd/private";

/// Below the user's directory for the like.
const OF_THE_USER: &str = "systemd/private";

const NAME: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The signal that tells the end of a job, and its result if all went well.
const JOB_REMOVED: &str = "JobRemoved";
const DONE: &str = "done";

/// As long as runc waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// We are who the socket says; the server may ask for more, which is nothing.
const AUTHENTICATION: &[u8] = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";

/// Longer than any answer to it.
const MOST_LINE_BYTES: usize = 512;

/// Why systemd did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// It cannot be talked to.
    #[error("cannot talk to systemd over {}", .socket.display())]
    Io {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It says no.
    #[error("systemd refuses {member}: {text} ({name})")]
    Refused {
        /// What was asked for.
        member: &'static str,
        /// The error's name.
        name: String,
        /// In its words.
        text: String,
    },
    /// It has tried.
    #[error("systemd did not get through with {member}: the result is {result:?}")]
    Job {
        /// What was asked for.
        member: &'static str,
        /// Its word for it.
        result: String,
    },
}

impl SystemdError {
    pub(super) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name.rsplit('.').next() == Some(wanted))
    }
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Whose {
    /// The host's.
    Host,
    /// The caller's own.
    User,
}

impl Whose {
    /// Where it listens, if it runs.
    pub(super) fn socket(self) -> Option<PathBuf> {
        match self {
            Self::Host => Path::new(BOOTED).is_dir().then(|| OF_THE_HOST.into()),
            Self::User => {
                let directory = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
                let socket = directory.filter(|path| path.is_absolute())?.join(OF_THE_USER);
                socket.exists().then_some(socket)
            }
        }
    }
}

/// A connection.
pub(super) struct Manager {
    socket: PathBuf,
    stream: UnixStream,
    serial: u32,
    /// The jobs that have ended since: object path and result.
    ended: Vec<(String, String)>,
}

impl Manager {
    pub(super) fn connect(socket: PathBuf) -> Result<Self, SystemdError> {
        match open(&socket) {
            Ok(stream) => Ok(Self { socket, stream, serial: 0, ended: Vec::new() }),
            Err(source) => Err(SystemdError::Io { socket, source }),
        }
    }

    /// Asks for something that is a job, and waits for its end.
    pub(super) fn job(
        &mut self,
        member: &'static str,
        signature: &str,
        body: Writer,
    ) -> Result<(), SystemdError> {
        let reply = self.call(member, signature, body)?;
        let job = Reader::new(&reply).text().map_err(|source| self.io(source))?;
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(ended, _)| *ended == job) {
                let result = result.clone();
                return if result == DONE { Ok(()) } else { Err(SystemdError::Job { member, result }) };
            }
            self.hear()?;
        }
    }

    /// Asks for something and takes the answer's values.
    pub(super) fn call(
        &mut self,
        member: &'static str,
        signature: &str,
        body: Writer,
    ) -> Result<Vec<u8>, SystemdError> {
        self.ask(INTERFACE, member, signature, body)
    }

    /// A property of the manager's that is a text.
    pub(super) fn property(&mut self, name: &str) -> Result<String, SystemdError> {
        let mut body = Writer::default();
        body.text(INTERFACE);
        body.text(name);
        let reply = self.ask(PROPERTIES, "Get", "ss", body)?;
        let mut reply = Reader::new(&reply);
        reply.signature().and_then(|_| reply.text()).map_err(|source| self.io(source))
    }

    fn ask(
        &mut self,
        interface: &str,
        member: &'static str,
        signature: &str,
        body: Writer,
    ) -> Result<Vec<u8>, SystemdError> {
        self.serial += 1;
        let call = Call { destination: NAME, path: OBJECT, interface, member, signature, body };
        let message = call.message(self.serial);
        self.stream.write_all(&message).map_err(|source| self.io(source))?;
        loop {
            match self.hear()? {
                Message::Reply { to, body } if to == self.serial => return Ok(body),
                Message::Error { to, name, body } if to == self.serial => {
                    let text = Reader::new(&body).text().unwrap_or_default();
                    return Err(SystemdError::Refused { member, name, text });
                }
                _ => {}
            }
        }
    }

    fn hear(&mut self) -> Result<Message, SystemdError> {
        let message = Message::read(&mut self.stream).map_err(|source| self.io(source))?;
        if let Message::Signal { member, body } = &message
            && member == JOB_REMOVED
        {
            let ended = job_removed(body).map_err(|source| self.io(source))?;
            self.ended.push(ended);
        }
        Ok(message)
    }

    fn io(&self, source: io::Error) -> SystemdError {
        SystemdError::Io { socket: self.socket.clone(), source }
    }
}

/// `uoss`: number, object path, unit, result.
fn job_removed(body: &[u8]) -> io::Result<(String, String)> {
    let mut body = Reader::new(body);
    body.u32()?;
    let job = body.text()?;
    body.text()?;
    Ok((job, body.text()?))
}

fn open(socket: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(AUTHENTICATION)?;
    // An older systemd takes us without a question, and its answer to `DATA` is then a second one.
    for _ in 0..2 {
        let line = line(&mut stream)?;
        if !(line.starts_with(b"OK") || line.starts_with(b"DATA")) {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it answers {text:?}")));
        }
    }
    Ok(stream)
}

/// Not a byte beyond it: what follows is binary.
fn line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.extend(byte);
        if line.len() > MOST_LINE_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(line)
}
