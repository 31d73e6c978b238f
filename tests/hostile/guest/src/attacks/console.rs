//! More on the console than anybody reads: text, and bytes that a terminal would obey.

use crate::console::PORT;
use crate::machine;
use crate::random::Random;

const PIECE: usize = 4096;

pub(crate) fn attack(random: &mut Random, rounds: u64) {
    let mut piece = [b'x'; PIECE];
    for _ in 0..rounds {
        random.fill(&mut piece[..64]);
        // Lines without an end, and no end but those.
        let end = if random.once_in(2) { b'\n' } else { 0x1b };
        piece[random.below(PIECE as u64) as usize] = end;
        machine::port_write_all(PORT, &piece);
    }
}
