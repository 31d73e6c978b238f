//! Every I/O port with every width, those before all by which a machine may be reset, timed or saved.

use crate::machine;
use crate::random::Random;

/// PCI, keyboard controller, marks of a timeline, checkpoint, interrupt controllers, timer, clock.
const KNOWN: [u16; 14] =
    [0xcf8, 0xcfc, 0x60, 0x64, 0xe8, 0xea, 0x20, 0x21, 0xa0, 0xa1, 0x40, 0x43, 0x70, 0x71];

const UART: u16 = 0x3f8;
const KEYBOARD: u16 = 0x64;

pub(crate) fn attack(random: &mut Random, rounds: u64) {
    for _ in 0..rounds {
        let port = match random.below(4) {
            0 => random.next() as u16,
            // Not its data, for what that gets is read by the test.
            1 => UART + 1 + random.below(8) as u16,
            _ => random.one_of(&KNOWN),
        };
        let width = random.below(3) as u32;
        let value = random.odd() as u32;
        // The one command that ends the machine.
        let resets = port == KEYBOARD && value & 0xff == 0xfe;
        // Nor what makes another register of that, or a loop, by which what is printed comes back.
        let silences = [UART, UART + 3, UART + 4].contains(&port);
        match random.below(3) {
            0 => drop(machine::port_read(port, width)),
            1 if !silences && !resets && port != UART - 1 => machine::port_write_all(port, &[value as u8; 5]),
            _ if !resets && !silences && !(UART - 3..UART).contains(&port) => {
                machine::port_write(port, width, value);
            }
            _ => {}
        }
    }
}
