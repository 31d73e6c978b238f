//! One synchronous netlink socket (`netlink(7)`), of rtnetlink or of netfilter: requests, dumps, and
//! news of changes. The monitor reads a network namespace with it, the agent makes another one like it.
//!
//! A socket belongs to the network namespace of the thread that opens it, wherever that goes later.

pub mod attributes;
pub mod netfilter;

use std::convert::Infallible;
use std::ffi::CStr;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
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

/// How many changes are sent together: what the kernel says if all of them fail has room in a socket.
const BATCH: usize = 64;

/// And how many bytes of them: a socket takes no more at once than its buffer.
const BATCH_BYTES: usize = 32 << 10;

/// Marks an attribute as holding others, or as being in the network's order.
const NESTED: u16 = 0xc000;

/// Something that the kernel is to change, with the flags of its message (`NLM_F_CREATE`, …).
pub type Change = (RouteNetlinkMessage, u16);

/// A message's body, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    header: NetlinkHeader,
    body: Vec<u8>,
}

impl Answer {
    /// One of this kind, as the kernel would send it.
    pub fn new(kind: u16, body: Vec<u8>) -> Self {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        Self { header, body }
    }

    /// What it says.
    ///
    /// # Errors
    /// It holds something that is not known.
    pub fn message(&self) -> io::Result<RouteNetlinkMessage> {
        RouteNetlinkMessage::deserialize(&self.header, &self.body)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
    }

    /// Its kind (`RTM_*`).
    pub fn kind(&self) -> u16 {
        self.header.message_type
    }

    /// Its bytes behind netlink's header.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The number that is at `place` in its body.
    pub fn number(&self, place: Range<usize>) -> Option<u32> {
        Some(u32::from_ne_bytes(self.body.get(place)?.try_into().ok()?))
    }

    /// The value of the first attribute of this kind behind a header of `header` bytes.
    pub fn attribute(&self, header: usize, kind: u16) -> Option<&[u8]> {
        let mut rest = self.body.get(aligned(header)..)?;
        loop {
            let [length, found] = [rest.get(0..2)?, rest.get(2..4)?]
                .map(|field| u16::from_ne_bytes(field.try_into().unwrap_or_default()));
            let value = rest.get(4..usize::from(length))?;
            if found & !NESTED == kind {
                return Some(value);
            }
            rest = rest.get(aligned(length.into())..)?;
        }
    }

    /// The same without attributes of this kind behind a header of `header` bytes.
    #[must_use]
    pub fn without(&self, header: usize, kind: u16) -> Self {
        let (start, rest) = self.body.split_at(aligned(header).min(self.body.len()));
        let others = attributes::attributes(rest).filter(|attribute| attribute.kind != kind);
        let others = others.fold(attributes::Writer::default(), attributes::Writer::copy);
        let body = [start, &others.finish()].concat();
        Self { header: self.header, body }
    }

    /// An attribute that is text.
    pub fn text(&self, header: usize, kind: u16) -> Option<&str> {
        CStr::from_bytes_until_nul(self.attribute(header, kind)?).ok()?.to_str().ok()
    }

    /// The same, kept.
    pub fn into_body(self) -> Vec<u8> {
        self.body
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
        Self::with(SockProtocol::NetlinkRoute, SockFlag::SOCK_CLOEXEC, 0)
    }

    /// Opens one that hears of changes: see [`Netlink::drain`]. `groups` are bits of `RTMGRP_*`.
    ///
    /// # Errors
    /// The system's.
    pub fn listen(groups: u32) -> io::Result<Self> {
        Self::with(SockProtocol::NetlinkRoute, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, groups)
    }

    /// Opens one of netfilter for requests.
    ///
    /// # Errors
    /// The system's.
    pub fn open_netfilter() -> io::Result<Self> {
        Self::with(SockProtocol::NetlinkNetFilter, SockFlag::SOCK_CLOEXEC, 0)
    }

    /// Opens one of netfilter that hears of changes; `groups` are bits, the first one for the group 1.
    ///
    /// # Errors
    /// The system's.
    pub fn listen_netfilter(groups: u32) -> io::Result<Self> {
        Self::with(SockProtocol::NetlinkNetFilter, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, groups)
    }

    fn with(protocol: SockProtocol, flags: SockFlag, groups: u32) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
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

    /// Has the kernel change many things, one after the other, whether or not some fail: what it says
    /// of each.
    ///
    /// # Errors
    /// It has not said that.
    pub fn change_all(&mut self, changes: Vec<Change>) -> io::Result<Vec<io::Result<()>>> {
        let mut results = Vec::with_capacity(changes.len());
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while let Some(change) = changes.next_if(|(message, _)| {
                bytes += message.buffer_len();
                batch.is_empty() || (batch.len() < BATCH && bytes <= BATCH_BYTES)
            }) {
                batch.push(change);
            }
            results.extend(self.change_batch(batch)?);
        }
        Ok(results)
    }

    fn change_batch(&mut self, batch: Vec<Change>) -> io::Result<Vec<io::Result<()>>> {
        let first = self.sequence.wrapping_add(1);
        let last = batch.len().saturating_sub(1);
        let mut results: Vec<_> = batch.iter().map(|_| Ok(())).collect();
        let mut bytes = Vec::new();
        for (number, (message, flags)) in batch.into_iter().enumerate() {
            // Of those before the last one the kernel tells only what has failed.
            let acknowledge = if number == last { NLM_F_ACK } else { 0 };
            self.put(&mut bytes, message, flags | acknowledge);
        }
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        loop {
            let count = self.receive()?;
            let mut rest = self.buffer.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                let message = next(&mut rest)?;
                let number = usize::try_from(message.header.sequence_number.wrapping_sub(first));
                let (Ok(number), NetlinkPayload::Error(error)) = (number, message.payload) else { continue };
                let Some(result) = results.get_mut(number) else { continue };
                if error.code.is_some() {
                    *result = Err(error.to_io());
                }
                if number == last {
                    return Ok(results);
                }
            }
        }
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
    pub fn dump<M>(&mut self, message: &M) -> io::Result<Vec<Answer>>
    where
        M: NetlinkSerializable + Clone,
    {
        for _ in 0..MOST_DUMPS {
            match self.ask(message.clone(), NLM_F_DUMP) {
                Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                result => return result,
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "it changes all the time"))
    }

    fn ask(&mut self, message: impl NetlinkSerializable, flags: u16) -> io::Result<Vec<Answer>> {
        let mut bytes = Vec::new();
        self.put(&mut bytes, message, flags);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        self.answers()
    }

    /// Appends a request to `bytes`.
    fn put(&mut self, bytes: &mut Vec<u8>, message: impl NetlinkSerializable, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        put(bytes, header, NetlinkPayload::InnerMessage(message));
    }

    fn answers(&mut self) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let count = self.receive()?;
            let mut rest = self.buffer.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                let message = next(&mut rest)?;
                let header = message.header;
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

    /// Takes all news that there are, of a socket that listens; says whether there were any that
    /// `counts`. News that were lost for want of room count, too.
    ///
    /// # Errors
    /// The system's.
    pub fn drain(&mut self, mut counts: impl FnMut(&Answer) -> bool) -> io::Result<bool> {
        let mut any = false;
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(count) => match self.buffer.get(..count) {
                    Some(mut rest) => {
                        while !rest.is_empty() {
                            let message = next(&mut rest)?;
                            any |= match message.payload {
                                NetlinkPayload::InnerMessage(Raw(body)) => {
                                    counts(&Answer { header: message.header, body })
                                }
                                _ => false,
                            };
                        }
                    }
                    None => any = true,
                },
                Err(Errno::ENOBUFS) => any = true,
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

/// Appends a message to `bytes`.
fn put<M: NetlinkSerializable>(bytes: &mut Vec<u8>, header: NetlinkHeader, payload: NetlinkPayload<M>) {
    let mut request = NetlinkMessage::new(header, payload);
    request.finalize();
    let start = bytes.len();
    bytes.resize(start + request.buffer_len().next_multiple_of(4), 0);
    if let Some(room) = bytes.get_mut(start..) {
        request.serialize(room);
    }
}

/// Takes a message off the front of what the kernel has sent.
fn next(rest: &mut &[u8]) -> io::Result<NetlinkMessage<Raw>> {
    let message = NetlinkMessage::<Raw>::deserialize(rest)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    // A header's length is at least its own, else it would not have been read.
    let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
    *rest = rest.get(aligned(length)..).unwrap_or_default();
    Ok(message)
}

/// Where the next message or attribute begins.
fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
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
    fn each_of_many_changes_has_its_own_result() {
        let change = |index| {
            let mut link = LinkMessage::default();
            link.header.index = index;
            (RouteNetlinkMessage::SetLink(link), 0)
        };
        // Nothing is changed of what is there; more than a batch, and the last one fails.
        let mut changes: Vec<_> = (0..=BATCH).map(|_| change(0x7fff_fff0)).collect();
        changes[3].0 = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let results = Netlink::open().unwrap().change_all(changes).unwrap();
        assert_eq!(results.len(), BATCH + 1);
        assert!(Netlink::open().unwrap().change_all(Vec::new()).unwrap().is_empty());
        for result in results {
            assert!(result.is_err());
        }
    }

    #[test]
    fn without_changes_there_are_no_news() {
        assert!(!Netlink::listen(0).unwrap().drain(|_| true).unwrap());
    }

    #[test]
    fn attribute_is_found_behind_others_and_what_is_cut_off_is_none() {
        // A header of one byte, an attribute of one byte, one that is text, and one that claims too much.
        let mut body = vec![2, 0, 0, 0, 5, 0, 7, 0, 9, 0, 0, 0, 6, 0, 3, 0x80, b'a', 0, 0, 0];
        body.extend([200, 0, 5, 0, 1]);
        let answer = Answer { header: NetlinkHeader::default(), body };
        assert_eq!(answer.attribute(1, 7), Some(&[9][..]));
        assert_eq!(answer.text(4, 3), Some("a"));
        assert_eq!(answer.text(4, 7), None);
        assert_eq!((answer.attribute(4, 5), answer.attribute(100, 7)), (None, None));
        assert_eq!((answer.number(4..8), answer.number(100..104)), (Some(0x0007_0005), None));
        // An attribute of no length would be looked at for ever.
        let endless = Answer { header: NetlinkHeader::default(), body: vec![0; 64] };
        assert_eq!(endless.attribute(0, 1), None);
    }
}
