//! What a service manager hands to whom it starts: a socket to tell it how the service is, and
//! sockets that it listens on for it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::{env, fs};

use super::LaunchError;
use crate::error::Error;

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
const LISTEN_FDS: &str = "LISTEN_FDS";
const LISTEN_PID: &str = "LISTEN_PID";

/// The first descriptor that a manager hands on.
const FIRST: u32 = 3;

/// The socket on which the caller wants to hear of the program.
///
/// # Errors
/// Nobody listens there.
pub(crate) fn notify_socket() -> Result<Option<PathBuf>, LaunchError> {
    match env::var_os(NOTIFY_SOCKET).filter(|name| !name.is_empty()) {
        Some(name) => checked(&name).map(Some),
        None => Ok(None),
    }
}

/// Whether the caller wants to hear of the program.
pub(crate) fn is_asked_to_notify() -> bool {
    env::var_os(NOTIFY_SOCKET).is_some_and(|name| !name.is_empty())
}

fn checked(name: &OsStr) -> Result<PathBuf, LaunchError> {
    let failed = |source| LaunchError::NotifySocket { path: name.into(), source };
    if name.as_bytes().starts_with(b"@") {
        // Its name belongs to a network namespace, and the container's is another one.
        let why = "a socket without a file is out of reach from the container's network namespace";
        return Err(failed(std::io::Error::other(why)));
    }
    // Before there is anything to put back.
    UnixDatagram::unbound().and_then(|socket| socket.connect(name)).map_err(failed)?;
    std::path::absolute(Path::new(name)).map_err(failed)
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
    fn socket_that_nobody_listens_on_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manager");
        let error = checked(path.as_os_str()).unwrap_err().to_string();
        assert!(error.contains("NOTIFY_SOCKET") && error.contains("manager"), "{error}");
        let _manager = UnixDatagram::bind(&path).unwrap();
        assert_eq!(checked(path.as_os_str()).unwrap(), path);
        assert!(checked(OsStr::new("@abstract")).is_err());
    }
}
