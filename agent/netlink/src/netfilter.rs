//! The kernel's nf_tables: its messages as bytes, and transactions, of which all or nothing is done
//! (`linux/netfilter/nf_tables.h`).

use std::io;
use std::os::fd::AsRawFd;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkPayload, NetlinkSerializable};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};

use crate::{Netlink, next, put};

/// Subsystem of the messages' kinds.
const NF_TABLES: u16 = 10;

/// Frame of a transaction (`NFNL_MSG_BATCH_*`).
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;

/// Version of the header behind netlink's.
const VERSION: u8 = 0;

/// Room in a socket beside what is sent.
const SPARE_BYTES: usize = 4 << 10;

/// What a message is about: `NFT_MSG_NEW*`. What gets or removes it is numbered after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Kind {
    /// A table.
    Table = 0,
    /// A chain.
    Chain = 3,
    /// A rule.
    Rule = 6,
    /// A set or a map.
    Set = 9,
    /// Elements of one.
    Elements = 12,
    /// A counter, a quota, ... with a name.
    Object = 18,
    /// A flow table.
    FlowTable = 22,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    kind: u16,
    body: Vec<u8>,
}

impl Packet {
    /// Makes what it is about.
    pub fn new(kind: Kind, family: u8, attributes: &[u8]) -> Self {
        Self::of(kind as u16, family, attributes)
    }

    /// Asks for it.
    pub fn get(kind: Kind, family: u8, attributes: &[u8]) -> Self {
        Self::of((kind as u16).saturating_add(1), family, attributes)
    }

    /// Removes it.
    pub fn delete(kind: Kind, family: u8, attributes: &[u8]) -> Self {
        Self::of((kind as u16).saturating_add(2), family, attributes)
    }

    fn of(kind: u16, family: u8, attributes: &[u8]) -> Self {
        Self { kind: NF_TABLES << 8 | kind, body: [&[family, VERSION, 0, 0], attributes].concat() }
    }

    fn frame(kind: u16) -> Self {
        let [high, low] = NF_TABLES.to_be_bytes();
        Self { kind, body: vec![0, VERSION, high, low] }
    }

    fn len(&self) -> usize {
        self.body.len().saturating_add(16).next_multiple_of(4)
    }
}

impl NetlinkSerializable for Packet {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

/// What the kernel tells of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told<'b> {
    /// `NFPROTO_*`.
    pub family: u8,
    /// Of which state of all tables it is.
    pub generation: u16,
    /// Everything about it.
    pub attributes: &'b [u8],
}

impl<'b> Told<'b> {
    /// From an answer's [body](crate::Answer::body).
    pub fn read(body: &'b [u8]) -> Option<Self> {
        let [family, _, high, low, attributes @ ..] = body else { return None };
        Some(Self { family: *family, generation: u16::from_be_bytes([*high, *low]), attributes })
    }
}

impl Netlink {
    /// Has the kernel do all of `packets`, with the flags of each, or nothing: what it says of each.
    ///
    /// # Errors
    /// It has not said that.
    pub fn transact(&mut self, packets: Vec<(Packet, u16)>) -> io::Result<Vec<io::Result<()>>> {
        let mut results: Vec<_> = packets.iter().map(|_| Ok(())).collect();
        if packets.is_empty() {
            return Ok(results);
        }
        let room = packets.iter().map(|(packet, _)| packet.len()).fold(SPARE_BYTES, usize::saturating_add);
        // Rights for that there may not be; what is not much goes without.
        let _ = setsockopt(&self.socket, sockopt::SndBufForce, &room.saturating_mul(2));
        let _ = setsockopt(&self.socket, sockopt::RcvBufForce, &room.saturating_mul(4));
        let mut bytes = Vec::new();
        let mut put = |packet: Packet, flags: u16, sequence: u32| {
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | flags;
            header.sequence_number = sequence;
            put(&mut bytes, header, NetlinkPayload::InnerMessage(packet));
        };
        let begin = self.sequence.wrapping_add(1);
        let mut sequence = begin;
        put(Packet::frame(BEGIN), 0, sequence);
        let last = packets.len().saturating_sub(1);
        for (number, (packet, flags)) in packets.into_iter().enumerate() {
            sequence = sequence.wrapping_add(1);
            // Of those before the last one the kernel tells only what has failed.
            put(packet, if number == last { flags | NLM_F_ACK } else { flags }, sequence);
        }
        sequence = sequence.wrapping_add(1);
        put(Packet::frame(END), 0, sequence);
        self.sequence = sequence;
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        // All of it is done by now, and said.
        let mut said = false;
        loop {
            let count = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) if said => return Ok(results),
                Err(Errno::EAGAIN) => return Err(io::Error::other("the kernel has not answered")),
                Err(errno) => return Err(errno.into()),
            };
            let mut rest = self.buffer.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                let message = next(&mut rest)?;
                let NetlinkPayload::Error(error) = message.payload else { continue };
                let number = message.header.sequence_number.wrapping_sub(begin);
                if number > sequence.wrapping_sub(begin) {
                    // Of what was broken off.
                    continue;
                }
                said = true;
                if error.code.is_none() {
                    continue;
                }
                let number = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
                match number.and_then(|number| results.get_mut(number)) {
                    Some(result) => *result = Err(error.to_io()),
                    // It is the transaction's.
                    None => return Err(error.to_io()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_has_its_header_and_its_number() {
        let packet = Packet::delete(Kind::Rule, 2, &[4, 0, 1, 0]);
        assert_eq!(packet, Packet { kind: 0x0a08, body: vec![2, 0, 0, 0, 4, 0, 1, 0] });
        assert_eq!(Packet::get(Kind::FlowTable, 0, &[]).kind, 0x0a17);
        assert_eq!(Packet::frame(BEGIN).body, [0, 0, 0, 10]);
    }

    #[test]
    fn what_is_told_has_family_and_generation() {
        let told = Told::read(&[10, 0, 1, 2, 4, 0, 1, 0]).unwrap();
        assert_eq!(told, Told { family: 10, generation: 0x102, attributes: &[4, 0, 1, 0] });
        assert_eq!(Told::read(&[10, 0, 1]), None);
    }

    #[test]
    fn no_change_is_no_transaction() {
        assert!(Netlink::open().unwrap().transact(Vec::new()).unwrap().is_empty());
    }
}
