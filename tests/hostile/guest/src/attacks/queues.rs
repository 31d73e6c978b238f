//! Queues set up as none should be: of odd sizes, outside the memory, one over the other, and taken back under way.

use crate::machine;
use crate::random::Random;
use crate::ring::{BUFFERS, Part, Ring};
use crate::virtio::{Device, register};

/// A queue may have come to nothing, or to an end of the machine: so there are few of those that end it.
const RUDE: u64 = 40;

pub(crate) fn attack(random: &mut Random, rounds: u64) {
    for _ in 0..rounds {
        let Some(device) = Device::any(random) else { return };
        if random.once_in(RUDE) { lay_out_badly(device, random) } else { come_and_go(device, random) }
    }
}

/// A place that may be nowhere, odd, or another queue's.
fn place(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => random.odd(),
        1 => BUFFERS + random.below(0x100),
        2 => (64 << 20) - random.below(0x2000),
        _ => 0x40_0000,
    }
}

fn lay_out_badly(device: Device, random: &mut Random) {
    device.negotiate(random.once_in(2));
    for queue in 0..device.queues() + 1 {
        let places = [place(random), place(random), place(random)];
        device.set_queue(queue, random.odd(), places);
    }
    device.write(register::STATUS, 15);
    for _ in 0..4 {
        device.write(register::QUEUE_NOTIFY, random.odd());
    }
}

/// Good queues with something in them, kicked, and reset before that is served, or set up a second time.
fn come_and_go(device: Device, random: &mut Random) {
    let [mut ring] = device.start::<1>(random.once_in(2));
    let fresh = |ring: &Ring, random: &mut Random| {
        machine::copy_in(BUFFERS, &[0; 64]);
        let written = random.once_in(2);
        ring.describe(0, Part { address: BUFFERS, bytes: 64, written }, 0, 0);
    };
    for _ in 0..random.below(4) {
        // No chain: a device that has nothing to say about nonsense is kicked all the same.
        fresh(&ring, random);
        ring.kick();
        match random.below(6) {
            0 => device.write(register::STATUS, 0),
            1 => device.write(register::QUEUE_READY, random.below(2)),
            2 => device.write(register::QUEUE_NUM, random.odd()),
            3 => device.write(register::STATUS, 0x8f),
            4 => device.write(register::QUEUE_DESC, random.odd()),
            _ => [ring] = device.start::<1>(false),
        }
    }
    device.write(register::STATUS, 0);
}
