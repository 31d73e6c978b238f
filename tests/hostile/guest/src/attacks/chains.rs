//! Chains of descriptors that go in circles, lie outside the memory, are of no bytes or of one byte each, within tables
//! of their own, and rings that lie about how much there is.

use crate::machine;
use crate::random::Random;
use crate::ring::{BUFFERS, INDIRECT, NEXT, Part, Ring};
use crate::virtio::Device;

/// Where a table of indirect descriptors is.
const TABLE: u64 = BUFFERS + 0x1_0000;

pub(crate) fn attack(random: &mut Random, rounds: u64) {
    for _ in 0..rounds {
        let Some(device) = Device::any(random) else { return };
        let mut rings: [Ring; 3] = device.start(random.once_in(2));
        let count = device.queues().clamp(1, 3);
        for _ in 0..random.below(16) {
            let ring = &mut rings[random.below(count) as usize];
            one(ring, random);
            ring.kick();
            if random.once_in(4) {
                ring.wait();
            }
        }
    }
}

fn part(random: &mut Random) -> Part {
    let address = match random.below(6) {
        0 => random.odd(),
        1 => (64 << 20) - random.below(64),
        _ => BUFFERS + random.below(0x1000),
    };
    let bytes = if random.once_in(3) { random.odd() as u32 } else { random.below(256) as u32 };
    Part { address, bytes, written: random.once_in(2) }
}

fn one(ring: &mut Ring, random: &mut Random) {
    let mut first = [0; 64];
    random.fill(&mut first);
    machine::copy_in(BUFFERS, &first);
    match random.below(6) {
        0 => circle(ring, random),
        1 => one_byte_each(ring, random),
        2 => indirect(ring, random),
        3 => ring.set_available(random.next() as u16),
        4 => wild(ring, random),
        _ => ring.put(&[part(random), part(random), part(random)]),
    }
}

fn circle(ring: &mut Ring, random: &mut Random) {
    let length = 1 + random.below(4) as u16;
    for index in 0..length {
        ring.describe(index, part(random), NEXT, (index + 1) % length);
    }
    ring.offer(0);
}

fn one_byte_each(ring: &mut Ring, random: &mut Random) {
    let size = ring.size();
    let written = random.once_in(2);
    for index in 0..size {
        let flags = if index + 1 < size { NEXT } else { 0 };
        let address = BUFFERS + u64::from(index);
        ring.describe(index, Part { address, bytes: 1, written: written && index > 40 }, flags, index + 1);
    }
    ring.offer(0);
}

/// A table that is 64 KiB of one byte each, or not of whole descriptors, or that has tables of its own.
fn indirect(ring: &mut Ring, random: &mut Random) {
    let count = random.one_of(&[0u64, 1, 3, 255, 4096]);
    for index in 0..count {
        let at = TABLE + index * 16;
        machine::write(at, 3, BUFFERS + random.below(0x1000));
        machine::write(at + 8, 2, random.one_of(&[0, 1, 1, 64]));
        let deeper = if random.once_in(64) { INDIRECT } else { 0 };
        machine::write(at + 12, 1, u64::from(NEXT | deeper) | (random.below(2) << 1));
        machine::write(at + 14, 1, if random.once_in(16) { random.next() } else { index + 1 });
    }
    let bytes = (count * 16) as u32 + if random.once_in(4) { random.below(16) as u32 } else { 0 };
    let next = if random.once_in(4) { NEXT } else { 0 };
    ring.describe(0, Part { address: TABLE, bytes, written: random.once_in(4) }, INDIRECT | next, 0);
    ring.offer(0);
}

fn wild(ring: &mut Ring, random: &mut Random) {
    for index in 0..ring.size() {
        ring.describe(index, part(random), random.next() as u16 & 7, random.next() as u16);
    }
    ring.offer(random.next() as u16);
}
