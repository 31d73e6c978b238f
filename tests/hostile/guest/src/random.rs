//! Random numbers from a seed: xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators").

/// A generator.
pub(crate) struct Random(u64);

/// Values at which sums and comparisons go wrong.
const EDGES: [u64; 20] = [
    0,
    1,
    2,
    3,
    7,
    8,
    0xff,
    0x100,
    0xfff,
    0x1000,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    u64::MAX / 2 + 1,
    u64::MAX,
];

impl Random {
    /// The same numbers for the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        // Zero would stay zero; close seeds are to begin far from each other.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xd134_2543_de82_ef95) | 1)
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number less than `end`, which is not zero.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of `values`, which are not none.
    pub(crate) fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    /// A number that a program may not have thought of.
    pub(crate) fn odd(&mut self) -> u64 {
        match self.below(4) {
            0 => self.next(),
            1 => self.below(64),
            _ => self.one_of(&EDGES).wrapping_add(self.below(3)).wrapping_sub(1),
        }
    }

    /// Any bytes.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next() as u8);
    }
}
