//! The registers of one device, as the guest reads them.
//!
//! They lie in a page of memory that the machine maps read-only where the guest
//! expects the register window. So a read is a load from memory: no exit, and
//! the register that every interrupt handler reads (`InterruptStatus`) costs
//! nothing. A write still exits, and the transport puts what follows from it
//! into the page before the guest goes on.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::{Bytes, MmapRegion, VolatileMemory};

/// Size of the register window of one device, in bytes: a page.
pub const TRANSPORT_BYTES: u64 = PAGE_BYTES as u64;

const PAGE_BYTES: usize = 0x1000;

/// The page.
#[derive(Debug)]
pub struct RegisterPage {
    memory: MmapRegion<()>,
}

impl RegisterPage {
    /// A page of zeroes.
    pub fn new() -> io::Result<Self> {
        Ok(Self { memory: MmapRegion::new(PAGE_BYTES).map_err(io::Error::other)? })
    }

    /// Where it lies in this process: [`TRANSPORT_BYTES`] from here on, until it is dropped.
    pub fn host_address(&self) -> usize {
        self.memory.as_ptr().expose_provenance()
    }

    /// The register at `offset`, a multiple of 4 inside the page.
    fn word(&self, offset: u32) -> Option<&AtomicU32> {
        self.memory.get_atomic_ref(usize::try_from(offset).ok()?).ok()
    }

    pub(crate) fn load(&self, offset: u32) -> u32 {
        self.word(offset).map_or(0, |word| u32::from_le(word.load(Ordering::SeqCst)))
    }

    pub(crate) fn store(&self, offset: u32, value: u32) {
        if let Some(word) = self.word(offset) {
            word.store(value.to_le(), Ordering::SeqCst);
        }
    }

    pub(crate) fn set_bits(&self, offset: u32, bits: u32) {
        if let Some(word) = self.word(offset) {
            word.fetch_or(bits.to_le(), Ordering::SeqCst);
        }
    }

    pub(crate) fn clear_bits(&self, offset: u32, bits: u32) {
        if let Some(word) = self.word(offset) {
            word.fetch_and(!bits.to_le(), Ordering::SeqCst);
        }
    }

    /// Puts `bytes` at `offset`; what does not fit into the page is left out.
    pub(crate) fn put(&self, offset: usize, bytes: &[u8]) {
        let _ = self.memory.as_volatile_slice().write(bytes, offset);
    }

    /// What the guest reads at `offset`; zeroes behind the end of the page.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let offset = usize::try_from(offset).unwrap_or(PAGE_BYTES);
        let _ = self.memory.as_volatile_slice().read(data, offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_little_endian_and_bits_are_set_and_cleared() {
        let page = RegisterPage::new().unwrap();
        page.store(0x10, 0x1234_5678);
        page.set_bits(0x10, 1);
        page.clear_bits(0x10, 0x8);
        let mut bytes = [0; 4];
        page.read(0x10, &mut bytes);
        assert_eq!(bytes, [0x71, 0x56, 0x34, 0x12]);
        assert_eq!(page.load(0x10), 0x1234_5671);
    }

    #[test]
    fn nothing_reaches_beyond_the_page() {
        let page = RegisterPage::new().unwrap();
        page.put(PAGE_BYTES - 2, &[1, 2, 3, 4]);
        page.store(0x1000, 7);
        page.store(0x2, 7);
        let mut bytes = [9; 4];
        page.read(TRANSPORT_BYTES - 2, &mut bytes);
        assert_eq!(bytes, [1, 2, 0, 0]);
        page.read(u64::MAX, &mut bytes);
        assert_eq!(bytes, [0; 4]);
        assert_eq!((page.load(0x1000), page.load(0x2)), (0, 0));
    }
}
