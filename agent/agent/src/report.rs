//! What a maker and the process it makes tell the agent.
//!
//! A `SOCK_SEQPACKET` pair for each process: one datagram, one [`Report`]. The
//! far end is close-on-exec in the process that will run the program, so its end
//! of file after [`Report::Made`] says that `execve` has succeeded.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use serde::{Deserialize, Serialize};
use vmrun_proto::{ErrorKind, ErrorReply, Stage};

use crate::sys;

/// One datagram must hold a whole report.
const MAX_REPORT_BYTES: usize = 16 << 10;
/// Longest text that is sent; longer ones are cut.
const MAX_TEXT_BYTES: usize = 4 << 10;

/// One message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The process cannot be made or its program cannot be executed.
    Failed(ErrorReply),
    /// The process is there and waits to be started. With a terminal, its
    /// controlling side comes along as a descriptor.
    Made {
        /// Pid in the guest's root pid namespace.
        pid: i32,
    },
}

/// What [`receive`] found.
#[derive(Debug)]
pub(crate) enum Received {
    /// A report, and the descriptor that came along.
    Report(Report, Option<OwnedFd>),
    /// No report now.
    Nothing,
    /// Every far end is closed.
    End,
}

/// The far end, in the maker and its children; for [`send_panic`].
static FAR_END: AtomicI32 = AtomicI32::new(-1);

/// Makes a pair: the agent's end (non-blocking) and the far end.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (near, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    crate::stdio::set_nonblocking(&near)?;
    Ok((near, far))
}

/// Declares this process the sender of reports on `far`.
pub(crate) fn become_sender(far: BorrowedFd<'_>) {
    FAR_END.store(far.as_raw_fd(), Ordering::Relaxed);
}

/// Sends a report, with a descriptor if there is one.
pub(crate) fn send(report: &Report, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let far = FAR_END.load(Ordering::Relaxed);
    if far < 0 {
        return Err(io::ErrorKind::NotConnected.into());
    }
    let bytes = serde_json::to_vec(report)?;
    let descriptors: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<()>(far, &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Sends a failure. It is lost when it cannot be sent; the agent then sees the end of file.
pub(crate) fn send_failure(kind: ErrorKind, stage: Stage, message: &str) {
    let _ = send(&Report::Failed(ErrorReply { kind, stage, message: cut(message) }), None);
}

/// Tells the agent about a panic, if this process is a maker or one of its children.
pub(crate) fn send_panic(message: &str) {
    send_failure(ErrorKind::Failed, Stage::Create, message);
}

/// Lets the process at the far end, which waits for it, run its program.
pub(crate) fn start(near: BorrowedFd<'_>) -> io::Result<()> {
    sendmsg::<()>(near.as_raw_fd(), &[IoSlice::new(&[1])], &[], MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Waits for that in the process; false if there is nobody who could say it any more. With a call that
/// every filter allows, since the process may be under its own already.
pub(crate) fn wait_for_start() -> bool {
    sys::read_byte(FAR_END.load(Ordering::Relaxed)).unwrap_or(false)
}

fn cut(text: &str) -> String {
    let end = (0..=MAX_TEXT_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

/// Takes the next report from the agent's end.
pub(crate) fn receive(near: BorrowedFd<'_>) -> io::Result<Received> {
    let mut bytes = vec![0; MAX_REPORT_BYTES];
    let (length, descriptor) = match sys::receive_with_descriptor(near, &mut bytes) {
        Ok(received) => received,
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(Received::Nothing),
                Some(libc::ECONNRESET) => Ok(Received::End),
                _ => Err(error),
            };
        }
    };
    if length == 0 {
        return Ok(Received::End);
    }
    let report = serde_json::from_slice(bytes.get(..length).unwrap_or_default())?;
    Ok(Received::Report(report, descriptor))
}
