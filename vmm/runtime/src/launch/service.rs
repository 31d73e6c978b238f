//! What a service manager hands to whom it starts: a socket to tell it how the service is, and
//! sockets that it listens on for it.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::error::{Error, chain};
use crate::{log, step};

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
const LISTEN_FDS: &str = "LISTEN_FDS";
const LISTEN_PID: &str = "LISTEN_PID";

/// The first descriptor that a manager hands on.
const FIRST: u32 = 3;

/// How long a manager may leave a message waiting.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// How long it may take to look at all that it was told: as runc waits.
const BARRIER_LIMIT: Duration = Duration::from_secs(30);

/// A service manager that wants to hear how the program is.
#[derive(Debug)]
pub(crate) struct Manager {
    name: PathBuf,
    socket: UnixDatagram,
    /// It was told something.
    told: Cell<bool>,
}

/// The service manager that started this process. One that cannot be reached is told of, and the
/// container runs without.
pub(crate) fn manager() -> Option<Manager> {
    let name = env::var_os(NOTIFY_SOCKET).filter(|name| !name.is_empty())?;
    match Manager::at(&name) {
        Ok(manager) => Some(manager),
        Err(error) => {
            let (name, why) = (Path::new(&name).display(), chain(&error));
            log::warn(&format!(
                "NOTIFY_SOCKET {name} cannot be reached, nobody hears how the program is: {why}"
            ));
            None
        }
    }
}

/// Whether the caller wants to hear of the program.
pub(crate) fn is_asked_to_notify() -> bool {
    env::var_os(NOTIFY_SOCKET).is_some_and(|name| !name.is_empty())
}

impl Manager {
    /// Opened here, since a socket without a file is that of a network namespace, and the container's
    /// is another one.
    fn at(name: &OsStr) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        let absolute = match name.as_bytes() {
            [b'@', hidden @ ..] => {
                socket.connect_addr(&SocketAddr::from_abstract_name(hidden)?)?;
                name.into()
            }
            _ => {
                socket.connect(name)?;
                std::path::absolute(name)?
            }
        };
        socket.set_write_timeout(Some(SEND_LIMIT))?;
        Ok(Self { name: absolute, socket, told: Cell::new(false) })
    }

    /// Its socket's path, or `@` and its name.
    pub(crate) fn name(&self) -> &Path {
        &self.name
    }

    pub(crate) fn copy(&self) -> io::Result<UnixDatagram> {
        self.socket.try_clone()
    }

    /// Says something as this process. One that has gone is no reason to end the container.
    pub(crate) fn tell(&self, text: &str) {
        self.told.set(true);
        if let Err(error) = self.socket.send(text.as_bytes()) {
            log::warn(&format!("cannot tell NOTIFY_SOCKET how the program is: {}", chain(&error)));
        }
    }

    /// Waits until it has looked at all that it was told: who has said it may end only then, since a
    /// manager cannot tell any more whose process that was.
    pub(crate) fn await_attention(&self) {
        if self.told.get() && self.try_await_attention(BARRIER_LIMIT).is_err() {
            step!("the service manager knows no barrier");
        }
    }

    /// The protocol of sd_notify_barrier(3): it closes the descriptor when it comes to the message.
    fn try_await_attention(&self, limit: Duration) -> io::Result<()> {
        let (ours, theirs) = io::pipe()?;
        let fds = [theirs.as_raw_fd()];
        let message = [IoSlice::new(b"BARRIER=1")];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(self.socket.as_raw_fd(), &message, &rights, MsgFlags::empty(), None)?;
        drop(theirs);
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(ours.as_fd(), PollFlags::POLLIN)], limit) {
                Ok(0) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Refuses sockets that a manager has opened for the program: they cannot enter the guest. To be
/// called before this process opens anything, which would have the number of one of them.
///
/// # Errors
/// There are some.
pub fn refuse_sockets() -> Result<(), Error> {
    let variable = |name| env::var(name).ok();
    let is_open = |number: u32| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
    if are_handed(variable(LISTEN_FDS), variable(LISTEN_PID), std::process::id(), is_open) {
        let why = "sockets of a service manager cannot enter a virtual machine; start the container \
                   without socket activation, so that its program opens them itself";
        return Err(Error::Option { option: LISTEN_FDS, why });
    }
    Ok(())
}

/// The variables may have leaked from somebody for whom they were: then they name another process,
/// or what they speak of is not open.
fn are_handed(count: Option<String>, pid: Option<String>, me: u32, is_open: impl Fn(u32) -> bool) -> bool {
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<u32>().ok());
    let ours = pid.is_none() || number(pid) == Some(me);
    let count = number(count).unwrap_or(0);
    ours && (FIRST..FIRST.saturating_add(count)).take(1024).any(is_open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_that_are_there_and_ours_count() {
        let text = |text: &str| Some(text.to_owned());
        let open = |number: u32| number == 4;
        assert!(are_handed(text("2"), text("7"), 7, open));
        assert!(are_handed(text("2"), None, 7, open));
        assert!(!are_handed(text("1"), text("7"), 7, open));
        assert!(!are_handed(text("2"), text("8"), 7, open));
        assert!(!are_handed(None, text("7"), 7, open));
        assert!(!are_handed(text("x"), None, 7, open));
    }

    #[test]
    fn manager_is_reached_by_its_file_or_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manager");
        assert!(Manager::at(path.as_os_str()).is_err());
        let listener = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::at(path.as_os_str()).unwrap();
        assert_eq!(manager.name(), path);
        manager.tell("READY=1");
        let mut buffer = [0; 64];
        assert_eq!(listener.recv(&mut buffer).unwrap(), 7);
        let hidden = format!("vmrun-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&hidden).unwrap();
        let _listener = UnixDatagram::bind_addr(&address).unwrap();
        Manager::at(OsStr::new(&format!("@{hidden}"))).unwrap();
    }

    #[test]
    fn manager_has_looked_when_the_descriptor_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manager");
        let listener = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::at(path.as_os_str()).unwrap();
        assert!(manager.try_await_attention(Duration::ZERO).is_err());
        // Descriptors that are not asked for are closed.
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            let _ = (listener.recv(&mut buffer), listener.recv(&mut buffer));
            buffer
        });
        manager.try_await_attention(BARRIER_LIMIT).unwrap();
        assert!(reader.join().unwrap().starts_with(b"BARRIER=1"));
    }
}
