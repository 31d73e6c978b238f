//! Frames to a network interface (virtio 1.2, §5.1.6): headers that ask for sums and segments where there are none, of any length.

use crate::machine;
use crate::random::Random;
use crate::ring::{BUFFERS, Part, Ring};
use crate::virtio::{Device, id};

const HEADER_BYTES: u32 = 12;
const ROOM: u64 = BUFFERS + 0x10_0000;

pub(crate) fn attack(random: &mut Random, rounds: u64) {
    let Some(device) = Device::find(id::NET) else {
        return crate::console::say("FAULT: no network interface");
    };
    let [mut receive, mut transmit]: [Ring; 2] = device.start(false);
    let mut sent = 0;
    for _ in 0..rounds {
        let mut bytes = [0; 80];
        random.fill(&mut bytes);
        // Flags, kind of segments, length of the header, size of a segment, where the sum starts and goes.
        let fields = [random.odd() as u8 & 7, random.one_of(&[0, 1, 3, 4, 5, 0x81, 0xff])];
        bytes[..2].copy_from_slice(&fields);
        for field in bytes[2..10].chunks_exact_mut(2) {
            field.copy_from_slice(&(random.odd() as u16).to_le_bytes());
        }
        // As if to others on the link, of a protocol that they may know.
        bytes[24..26].copy_from_slice(&random.one_of(&[[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]]));
        machine::copy_in(BUFFERS, &bytes);
        let length = match random.below(8) {
            0 => random.below(HEADER_BYTES.into()) as u32,
            1 => 0x1_0000 + random.below(0x2000) as u32,
            _ => HEADER_BYTES + random.below(2000) as u32,
        };
        let frame = Part { address: BUFFERS, bytes: length, written: false };
        if random.once_in(16) {
            receive.call(&[Part { address: ROOM, bytes: random.odd() as u32 & 0xffff, written: true }]);
        }
        sent += u64::from(transmit.call(&[frame]).is_some());
    }
    crate::console::number("reached", sent);
}
