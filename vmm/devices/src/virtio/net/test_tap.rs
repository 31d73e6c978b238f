//! A socket in place of a tap: what is written to one end as a whole is read from the other as a whole.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::c_uint;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::tap::Tap;

/// The device's end.
pub(super) struct SocketTap {
    socket: OwnedFd,
    offload: Arc<AtomicU32>,
}

/// The host's end.
pub(super) struct Host {
    socket: OwnedFd,
    /// What was set last.
    pub(super) offload: Arc<AtomicU32>,
}

pub(super) fn tap() -> (SocketTap, Host) {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let offload = Arc::new(AtomicU32::new(u32::MAX));
    (SocketTap { socket: ours, offload: Arc::clone(&offload) }, Host { socket: theirs, offload })
}

impl AsFd for SocketTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Tap for SocketTap {
    fn set_offload(&self, flags: c_uint) -> io::Result<()> {
        self.offload.store(flags, Ordering::SeqCst);
        Ok(())
    }
}

impl Host {
    /// False when there is no room.
    pub(super) fn send(&self, frame: &[u8]) -> bool {
        use std::os::fd::AsRawFd;
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).is_ok()
    }

    pub(super) fn receive(&self) -> Option<Vec<u8>> {
        use std::os::fd::AsRawFd;
        let mut frame = vec![0; 70_000];
        let length = recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()).ok()?;
        frame.truncate(length);
        Some(frame)
    }
}

/// A frame of `length` bytes, of which the header is zeroes.
pub(super) fn frame(length: usize) -> Vec<u8> {
    let body = (super::HEADER_BYTES..length).map(|at| u8::try_from(at % 251).unwrap() + 1);
    std::iter::repeat_n(0, super::HEADER_BYTES.min(length)).chain(body).collect()
}
