//! Packets of nobody, to nobody, of unknown kinds, with lengths and credit that lie, and floods of connections half open.

use super::sockets::{HEADER_BYTES, PORT, Sockets, op};
use crate::random::Random;

/// A packet is cut short within its header: one in so many of 64 each.
const RUDE: u64 = 64;

pub(crate) fn attack(random: &mut Random, rounds: u64) {
    let Some(mut sockets) = Sockets::open() else {
        return crate::console::say("FAULT: no sockets");
    };
    let mut bytes = [0; 512];
    let mut answers = 0;
    for _ in 0..rounds {
        let other = random.odd() as u32;
        let from_port = random.one_of(&[1, PORT, 5000, other]);
        let to_port = random.one_of(&[PORT, PORT, PORT, 1 << 30, other]);
        let kind = if random.once_in(2) { op::REQUEST } else { random.below(9) as u16 };
        let mut header = sockets.header(from_port, to_port, kind);
        random.fill(&mut bytes);
        let count = random.below(bytes.len() as u64) as usize;
        header.length = count as u32;
        match random.below(16) {
            0 => header.from = random.odd(),
            1 => header.to = random.odd(),
            2 => header.kind = random.odd() as u16,
            3 => header.op = random.odd() as u16,
            4 => header.flags = random.odd() as u32,
            5 => header.room = random.odd() as u32,
            6 => header.taken = random.odd() as u32,
            7 => header.length = random.odd() as u32,
            _ => {}
        }
        match random.below(64) {
            // Which ends the machine.
            0 if random.once_in(RUDE) => sockets.send_raw(random.below(HEADER_BYTES.into()) as u32),
            1 => flood(&mut sockets, random),
            _ => sockets.send(&header, &bytes[..count]),
        }
        if random.once_in(4) {
            answers += u64::from(sockets.receive(&mut bytes).is_some());
        }
    }
    crate::console::number("reached", answers);
}

/// Connections that begin, from as many ports, and do nothing more; nobody takes the refusals.
fn flood(sockets: &mut Sockets, random: &mut Random) {
    let to_port = random.one_of(&[PORT, PORT + 1]);
    for from_port in 0..256 {
        let header = sockets.header(from_port, to_port, op::REQUEST);
        sockets.send(&header, &[]);
    }
}
