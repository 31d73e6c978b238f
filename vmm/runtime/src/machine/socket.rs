//! One message at a time, whole or not at all: a socket of `SOCK_SEQPACKET`.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, send,
    sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::{MOST_BYTES, Numbered};
use crate::fds;

/// So many may be beside a message (`SCM_MAX_FD`). With room for all of them, each has an owner, who closes it.
const MOST_DESCRIPTORS: usize = 253;

/// A message, and the descriptor beside it.
pub(super) type Heard<M> = (Numbered<M>, Option<OwnedFd>);

/// Why a message has not come, or not gone.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error("the other side has closed the conversation")]
    Closed,
    #[error("a message of {0} bytes is too long")]
    Long(usize),
    #[error("a message is none: {0}")]
    Malformed(serde_json::Error),
    #[error("a message came with descriptors that nobody has asked for")]
    Descriptors,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<nix::Error> for SocketError {
    fn from(errno: nix::Error) -> Self {
        match errno {
            nix::Error::EPIPE | nix::Error::ECONNRESET => Self::Closed,
            other => Self::Io(other.into()),
        }
    }
}

/// Its two ends.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends a message, with a descriptor beside it if there is one. `flags` may say not to wait for room.
pub(super) fn tell<M: Serialize>(
    socket: &OwnedFd,
    number: u64,
    message: &M,
    beside: Option<BorrowedFd<'_>>,
    flags: MsgFlags,
) -> Result<(), SocketError> {
    let bytes = encode(number, message)?;
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    match beside {
        // Whoever has no descriptor to send needs no right to send one.
        None => send(socket.as_raw_fd(), &bytes, flags)?,
        Some(descriptor) => {
            let descriptors = [descriptor.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&descriptors)];
            sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], &rights, flags, None)?
        }
    };
    Ok(())
}

fn encode<M: Serialize>(number: u64, message: &M) -> Result<Vec<u8>, SocketError> {
    let bytes = serde_json::to_vec(&Numbered { number, message }).map_err(SocketError::Malformed)?;
    if bytes.len() > MOST_BYTES { Err(SocketError::Long(bytes.len())) } else { Ok(bytes) }
}

fn decode<M: DeserializeOwned>(bytes: &[u8], count: usize) -> Result<Numbered<M>, SocketError> {
    match bytes.get(..count) {
        Some([]) => Err(SocketError::Closed),
        Some(bytes) if count <= MOST_BYTES => serde_json::from_slice(bytes).map_err(SocketError::Malformed),
        _ => Err(SocketError::Long(count)),
    }
}

/// The next message, into which no descriptor comes: the kernel closes those that were sent. Nothing where none is there.
pub(super) fn hear<M: DeserializeOwned>(socket: &OwnedFd) -> Result<Option<Numbered<M>>, SocketError> {
    let mut bytes = vec![0; MOST_BYTES + 1];
    let mut receive = || recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC);
    // Of one who has ended without reading all, that is told first, and then what it has said.
    let received = match receive() {
        Err(nix::Error::ECONNRESET) => receive(),
        received => received,
    };
    match received {
        Ok(count) => decode(&bytes, count).map(Some),
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The same, with the one descriptor that may be beside it.
pub(super) fn hear_with<M: DeserializeOwned>(socket: &OwnedFd) -> Result<Option<Heard<M>>, SocketError> {
    let mut bytes = vec![0; MOST_BYTES + 1];
    let mut data = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = match recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut space), flags) {
        Ok(received) => received,
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            descriptors.extend(fds::received(&numbers));
        }
    }
    let count = received.bytes;
    let message = decode(&bytes, count)?;
    let descriptor = descriptors.pop();
    if descriptors.is_empty() { Ok(Some((message, descriptor))) } else { Err(SocketError::Descriptors) }
}
