//! One synchronous rtnetlink socket (`rtnetlink(7)`): requests, dumps, and news of changes. The
//! monitor reads a network namespace with it, the agent makes another one like it.
//!
//! A socket belongs to the network namespace of the thread that opens it, wherever that goes later.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

pub use netlink_packet_core as core;
pub use netlink_packet_route as route;

use route::RouteNetlinkMessage;

/// The kernel fills messages of a dump up to this.
const BUFFER_BYTES: usize = 64 << 10;

/// How often a dump is begun anew that a change has made inconsistent.
const MOST_DUMPS: usize = 8;

/// A message's body, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    header: NetlinkHeader,
    body: Vec<u8>,
}

impl Answer {
    /// What it says.
    ///
    /// # Errors
    /// It holds something that is not known.
    pub fn message(&self) -> io::Result<RouteNetlinkMessage> {
        RouteNetlinkMessage::deserialize(&self.header, &self.body)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
    }

    /// Its bytes behind netlink's header.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// Keeps the bytes: who needs no answers links no parser.
#[derive(Debug)]
struct Raw(Vec<u8>);

impl NetlinkDeserializable for Raw {
    type Error = Infallible;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self(payload.to_vec()))
    }
}

/// A socket in the namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens one for requests.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        Self::with(SockFlag::SOCK_CLOEXEC, 0)
    }

    /// Opens one that hears of changes: see [`Netlink::drain`]. `groups` are bits of `RTMGRP_*`.
    ///
    /// # Errors
    /// The system's.
    pub fn listen(groups: u32) -> io::Result<Self> {
        Self::with(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, groups)
    }

    fn with(flags: SockFlag, groups: u32) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Has the kernel change something.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(message, flags | NLM_F_ACK).map(drop)
    }

    /// Asks for one thing.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<Answer>> {
        self.ask(message, NLM_F_ACK)
    }

    /// Asks for all things of a kind, as they are at one moment.
    ///
    /// # Errors
    /// What the kernel says, or they change faster than they can be told.
    pub fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<Answer>> {
        for _ in 0..MOST_DUMPS {
            match self.ask(message.clone(), NLM_F_DUMP) {
                Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                result => return result,
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "it changes all the time"))
    }

    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Answer>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        self.answers()
    }

    fn answers(&mut self) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let count = self.receive()?;
            let mut rest = self.buffer.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                let message = NetlinkMessage::<Raw>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                let header = message.header;
                rest = rest.get(aligned(header.length)..).unwrap_or_default();
                if header.sequence_number != self.sequence {
                    // Of a request that was broken off.
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(Raw(body)) => answers.push(Answer { header, body }),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) if interrupted => {
                        return Err(Errno::EINTR.into());
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Takes all news that there are, of a socket that listens; says whether there were any. News
    /// that were lost for want of room are news, too.
    ///
    /// # Errors
    /// The system's.
    pub fn drain(&mut self) -> io::Result<bool> {
        let mut any = false;
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(_) | Err(Errno::ENOBUFS) => any = true,
                Err(Errno::EAGAIN) => return Ok(any),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where the next message begins.
fn aligned(length: u32) -> usize {
    // A header's length is at least its own, else it would not have been read.
    usize::try_from(length).unwrap_or(usize::MAX).saturating_add(3) & !3
}

#[cfg(test)]
mod tests {
    use route::link::LinkMessage;

    use super::*;

    #[test]
    fn next_message_begins_at_a_multiple_of_four() {
        assert_eq!([16, 17, 20].map(aligned), [16, 20, 20]);
    }

    #[test]
    fn loopback_is_among_the_links_and_what_is_not_there_is_an_error() {
        let mut netlink = Netlink::open().unwrap();
        let links = netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap();
        assert!(links.iter().any(|link| matches!(
            link.message().unwrap(),
            RouteNetlinkMessage::NewLink(link) if link.header.index == 1
        )));
        let mut none = LinkMessage::default();
        none.header.index = 0x7fff_fff0;
        let error = netlink.get(RouteNetlinkMessage::GetLink(none)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ENODEV as i32));
    }

    #[test]
    fn without_changes_there_are_no_news() {
        assert!(!Netlink::listen(0).unwrap().drain().unwrap());
    }
}
