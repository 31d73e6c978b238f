//! What the test outside is told, by the serial port.

use crate::machine;

/// The first serial port of a PC.
pub(crate) const PORT: u16 = 0x3f8;

/// One line, which nothing else looks like.
pub(crate) fn say(line: &str) {
    for part in ["\nhostile: ", line, "\n"] {
        machine::port_write_all(PORT, part.as_bytes());
    }
}

/// One line with a number.
pub(crate) fn number(what: &str, value: u64) {
    let mut digits = [b' '; 17];
    for (at, digit) in digits.iter_mut().skip(1).enumerate() {
        *digit = b"0123456789abcdef"[(value >> (60 - 4 * at) & 15) as usize];
    }
    say(what);
    machine::port_write_all(PORT, &digits);
    machine::port_write_all(PORT, b"\n");
}
