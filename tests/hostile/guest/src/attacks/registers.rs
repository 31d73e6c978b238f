//! Any access, of any width, to the registers of every window, and to windows without a device.

use crate::machine;
use crate::random::Random;
use crate::virtio::{COUNT, Device, WINDOW_BYTES, WINDOWS, register};

pub(crate) fn attack(random: &mut Random, rounds: u64) {
    for _ in 0..rounds {
        let window = match Device::any(random) {
            Some(device) if !random.once_in(4) => device.base(),
            _ => WINDOWS + random.below(COUNT) * WINDOW_BYTES,
        };
        let offset = match random.below(4) {
            0 => random.below(WINDOW_BYTES - 8),
            1 => 0x100 + random.below(0x80),
            _ => random.below(0x40) * 4,
        };
        // Each device is to be reached in each of its states: most handshakes end where others begin.
        if random.once_in(8) {
            let status = random.one_of(&[0, 1, 3, 11, 15, 128]);
            machine::write(window + register::STATUS, 2, status);
        }
        let width = random.below(4) as u32;
        if random.once_in(4) {
            machine::read(window + offset, width);
        } else {
            machine::write(window + offset, width, random.odd());
        }
    }
}
