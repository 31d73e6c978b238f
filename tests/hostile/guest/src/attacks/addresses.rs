//! Memory where there is none: behind the RAM, between and behind the windows, far above, and the interrupt controllers.

use crate::machine::{self, FAR, LOW_END};
use crate::random::Random;
use crate::virtio::WINDOWS;

const IO_APIC: u64 = 0xfec0_0000;
const LOCAL_APIC: u64 = 0xfee0_0000;
/// Behind the memory that the test gives.
const HOLE: u64 = 0x4000_0000;

/// Registers of the local interrupt controller by which it would stop the processor itself: spurious vector, and commands.
const STOPS: [u64; 3] = [0xf0, 0x300, 0x310];

pub(crate) fn attack(random: &mut Random, rounds: u64) {
    for _ in 0..rounds {
        let width = random.below(4) as u32;
        let address = match random.below(6) {
            0 => HOLE + random.below(WINDOWS - HOLE),
            1 => WINDOWS + 48 * 0x1000 + random.below(0x10_0000),
            2 => FAR + random.below(1 << 30),
            3 => LOW_END - 1 - random.below(0x1000),
            4 if random.once_in(4) => IO_APIC + random.below(0x1000),
            // Which register, and its value.
            4 => IO_APIC + random.one_of(&[0, 0x10, 0x40]),
            _ => LOCAL_APIC + random.below(0x1000),
        };
        let stops = STOPS.contains(&(address & 0xff0)) && address >= LOCAL_APIC;
        if random.once_in(3) || stops {
            machine::read(address, width);
        } else {
            machine::write(address, width, random.odd());
        }
    }
}
