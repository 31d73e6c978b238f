//! `vmrun kill`.

use nix::sys::signal::Signal;

use crate::control::{self, ControlRequest};
use crate::error::Error;
use crate::status::{Act, Status};
use crate::store::Store;

/// Which of the container's processes get the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillTarget {
    /// Its init process.
    Init,
    /// Every one.
    All,
}

/// Why a text is not a signal.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown signal {0:?}: use a name like TERM or a number from 0 to 64")]
pub struct SignalError(String);

/// Reads a signal as runc does: a number, or a name with or without `SIG`. The number 0 is no
/// signal; it asks whether one could be sent.
///
/// # Errors
/// It is neither.
pub fn parse_signal(text: &str) -> Result<i32, SignalError> {
    let unknown = || SignalError(text.to_owned());
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = real_time(name) {
        return Ok(number);
    }
    format!("SIG{name}").parse::<Signal>().map(|signal| signal as i32).map_err(|_| unknown())
}

/// `RTMIN+3` and `RTMAX-1` as the C library counts them.
fn real_time(name: &str) -> Option<i32> {
    let (base, rest): (i32, _) = if let Some(rest) = name.strip_prefix("RTMIN") {
        (34, rest)
    } else {
        (64, name.strip_prefix("RTMAX")?)
    };
    let offset: i32 = if rest.is_empty() { 0 } else { rest.parse().ok()? };
    base.checked_add(offset).filter(|number| (34..=64).contains(number))
}

/// Sends a signal to a container; 0 only asks whether its init process is alive.
///
/// # Errors
/// It does not run, or its monitor or agent does not answer. A signal for every process of a
/// container that has stopped is for none, and no error, as with runc.
pub fn kill(store: &Store, id: &str, signal: i32, target: KillTarget) -> Result<(), Error> {
    match send(store, id, signal, target) {
        Err(Error::WrongState { act: Act::Signal, status: Status::Stopped }) if target == KillTarget::All => {
            Ok(())
        }
        sent => sent,
    }
}

fn send(store: &Store, id: &str, signal: i32, target: KillTarget) -> Result<(), Error> {
    let (entry, state) = super::find_for(store, id, Act::Signal)?;
    let request = ControlRequest::Signal { signal, all: target == KillTarget::All };
    control::ask(&entry, &state, &request).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_runc_reads_them() {
        let table = [
            ("0", 0),
            ("9", 9),
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sighup", 1),
            ("64", 64),
            ("RTMIN+3", 37),
            ("SIGRTMAX", 64),
        ];
        for (text, number) in table {
            assert_eq!(parse_signal(text), Ok(number), "{text}");
        }
        for bad in ["", "65", "-1", "NOPE", "SIG", "RTMIN+99", "TERM "] {
            assert!(parse_signal(bad).is_err(), "{bad:?}");
        }
    }
}
