//! The way of packets to the host and back (virtio 1.2, §5.10).

use crate::machine;
use crate::ring::{BUFFERS, Part, Ring};
use crate::virtio::{Device, id};

pub(crate) const HOST: u64 = 2;
/// The one port of the host's that a guest reaches, and the agent's own.
pub(crate) const PORT: u32 = 1024;

pub(crate) const HEADER_BYTES: u32 = 44;
const ROOM: u64 = BUFFERS + 0x10_0000;
const ROOM_BYTES: u32 = 4096;
const ROOMS: u16 = 32;
const SENT: u64 = BUFFERS + 0x20_0000;

/// What packets are for.
pub(crate) mod op {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const RESPONSE: u16 = 2;
    pub(crate) const RST: u16 = 3;
    pub(crate) const RW: u16 = 5;
    pub(crate) const CREDIT_UPDATE: u16 = 6;
}

/// A packet's header.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) from_port: u32,
    pub(crate) to_port: u32,
    pub(crate) length: u32,
    pub(crate) kind: u16,
    pub(crate) op: u16,
    pub(crate) flags: u32,
    pub(crate) room: u32,
    pub(crate) taken: u32,
}

/// The device, with room for what comes.
pub(crate) struct Sockets {
    receive: Ring,
    transmit: Ring,
    own: u64,
    came: u64,
    /// Bytes that have come, of all connections.
    taken: u32,
}

impl Sockets {
    pub(crate) fn open() -> Option<Self> {
        let device = Device::find(id::VSOCK)?;
        let [receive, transmit] = device.start(false);
        let own = device.read(0x100);
        let mut sockets = Self { receive, transmit, own, came: 0, taken: 0 };
        for room in 0..ROOMS {
            sockets.offer_room(room.into());
        }
        sockets.receive.kick();
        Some(sockets)
    }

    fn room(number: u64) -> u64 {
        ROOM + number % u64::from(ROOMS) * 2 * u64::from(ROOM_BYTES)
    }

    fn offer_room(&mut self, number: u64) {
        let address = Self::room(number);
        self.receive.put(&[Part { address, bytes: HEADER_BYTES + ROOM_BYTES, written: true }]);
    }

    /// The header of a packet to a port of the host's, as it should be.
    pub(crate) fn header(&self, from_port: u32, to_port: u32, op: u16) -> Header {
        let (from, to) = (self.own, HOST);
        Header {
            from,
            to,
            from_port,
            to_port,
            length: 0,
            kind: 1,
            op,
            flags: 0,
            room: 1 << 20,
            taken: self.taken,
        }
    }

    /// Sends it, with `bytes` behind it, which need not be as long as it says.
    pub(crate) fn send(&mut self, header: &Header, bytes: &[u8]) {
        let at = SENT;
        machine::write(at, 3, header.from);
        machine::write(at + 8, 3, header.to);
        let words = [
            header.from_port,
            header.to_port,
            header.length,
            u32::from(header.kind) | u32::from(header.op) << 16,
            header.flags,
            header.room,
            header.taken,
        ];
        for (place, word) in (at + 16..).step_by(4).zip(words) {
            machine::write(place, 2, word.into());
        }
        machine::copy_in(at + u64::from(HEADER_BYTES), bytes);
        self.send_raw(HEADER_BYTES + bytes.len() as u32);
    }

    /// Sends so much of what lies where the last packet did.
    pub(crate) fn send_raw(&mut self, bytes: u32) {
        self.transmit.call(&[Part { address: SENT, bytes, written: false }]);
    }

    /// The next packet of the host's: its header, and how many of its bytes are in `into`.
    pub(crate) fn receive(&mut self, into: &mut [u8]) -> Option<(Header, usize)> {
        let (_, written) = self.receive.wait()?;
        let at = Self::room(self.came);
        let word = |offset: u64| machine::read(at + offset, 2) as u32;
        let header = Header {
            from: machine::read(at, 3),
            to: machine::read(at + 8, 3),
            from_port: word(16),
            to_port: word(20),
            length: word(24),
            kind: word(28) as u16,
            op: (word(28) >> 16) as u16,
            flags: word(32),
            room: word(36),
            taken: word(40),
        };
        let count = into.len().min(written.saturating_sub(HEADER_BYTES) as usize);
        machine::copy_out(at + u64::from(HEADER_BYTES), &mut into[..count]);
        self.taken = self.taken.wrapping_add(header.length);
        self.offer_room(self.came);
        self.receive.kick();
        self.came += 1;
        Some((header, count))
    }
}
