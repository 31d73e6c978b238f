//! The registers of devices, as the guest reads them.
//!
//! They lie in pages of memory that the machine maps read-only where the guest
//! expects the register windows. So a read is a load from memory: no exit, and
//! the register that every interrupt handler reads (`InterruptStatus`) costs
//! nothing. A write still exits, and the transport puts what follows from it
//! into the page before the guest goes on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::{Bytes, MmapRegion, VolatileMemory, VolatileSlice};

/// Size of the register window of one device, in bytes: a page.
pub const TRANSPORT_BYTES: u64 = PAGE_BYTES as u64;

const PAGE_BYTES: usize = 0x1000;

/// The windows of a machine, side by side in one mapping: so they cost it one slot of memory.
#[derive(Debug)]
pub struct RegisterBoard {
    memory: Arc<MmapRegion<()>>,
}

impl RegisterBoard {
    /// `windows` pages of zeroes.
    pub fn new(windows: usize) -> io::Result<Self> {
        let bytes = windows.checked_mul(PAGE_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        let memory = MmapRegion::new(bytes).map_err(io::Error::other)?;
        Ok(Self { memory: Arc::new(memory) })
    }

    /// Where it lies in this process until it and its pages are dropped.
    pub fn host_address(&self) -> usize {
        self.memory.as_ptr().expose_provenance()
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.memory.size()
    }

    /// The page of window number `window`.
    pub fn page(&self, window: usize) -> Option<RegisterPage> {
        let base = window.checked_mul(PAGE_BYTES).filter(|&base| base < self.bytes())?;
        Some(RegisterPage { memory: Arc::clone(&self.memory), base })
    }
}

/// The page of one window.
#[derive(Debug)]
pub struct RegisterPage {
    memory: Arc<MmapRegion<()>>,
    base: usize,
}

impl RegisterPage {
    fn slice(&self) -> Option<VolatileSlice<'_>> {
        self.memory.get_slice(self.base, PAGE_BYTES).ok()
    }

    /// The register at `offset`, a multiple of 4 inside the page.
    fn word(&self, offset: u32) -> Option<&AtomicU32> {
        let offset = usize::try_from(offset).ok().filter(|&offset| offset < PAGE_BYTES)?;
        self.memory.get_atomic_ref(self.base + offset).ok()
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
        if let Some(page) = self.slice() {
            let _ = page.write(bytes, offset);
        }
    }

    /// Makes it all zeroes.
    pub(crate) fn clear(&self) {
        self.put(0, &[0; PAGE_BYTES]);
    }

    /// What the guest reads at `offset`; zeroes behind the end of the page.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let offset = usize::try_from(offset).unwrap_or(PAGE_BYTES);
        if let Some(page) = self.slice() {
            let _ = page.read(data, offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> RegisterPage {
        // One between two others.
        RegisterBoard::new(3).unwrap().page(1).unwrap()
    }

    #[test]
    fn words_are_little_endian_and_bits_are_set_and_cleared() {
        let page = page();
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
        let page = page();
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

    #[test]
    fn windows_do_not_overlap() {
        let board = RegisterBoard::new(2).unwrap();
        assert_eq!(board.bytes(), 2 * PAGE_BYTES);
        let pages = [0, 1].map(|window| board.page(window).unwrap());
        assert!(board.page(2).is_none());
        pages[0].put(PAGE_BYTES - 2, &[1; 4]);
        assert_eq!(pages[1].load(0), 0);
        pages[1].store(0, 7);
        pages[0].clear();
        assert_eq!((pages[0].load(0xffc), pages[1].load(0)), (0, 7));
    }
}
