//! The boot image.

use vm_memory::{Bytes, GuestAddress};
use vmrun_devices::Memory;

use crate::error::BootError;
use crate::layout;

const PAGE: u64 = 4096;

/// The boot image in guest memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Initramfs {
    pub(crate) address: u32,
    pub(crate) length: u32,
}

impl Initramfs {
    /// Puts `image` at the end of the RAM below 4 GiB, out of the kernel's way.
    pub(crate) fn load(memory: &Memory, image: &[u8], ram: u64, kernel_end: u64) -> Result<Self, BootError> {
        let length = u64::try_from(image.len()).unwrap_or(u64::MAX);
        let end = ram.min(layout::RAM_GAP);
        let too_small = || BootError::TooSmall {
            needed: kernel_end.saturating_add(length).div_ceil(1 << 20),
            given: ram >> 20,
        };
        let address = end
            .checked_sub(length)
            .map(|address| address & !(PAGE - 1))
            .filter(|&address| address >= kernel_end);
        let address = address.ok_or_else(too_small)?;
        memory.write_slice(image, GuestAddress(address))?;
        Ok(Self {
            address: u32::try_from(address).map_err(|_| too_small())?,
            length: u32::try_from(length).map_err(|_| too_small())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_ends_up_page_aligned_below_the_end() {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let loaded = Initramfs::load(&memory, &[7; 5000], 4 << 20, 1 << 20).unwrap();
        assert_eq!((loaded.address, loaded.length), ((4 << 20) - 8192, 5000));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(u64::from(loaded.address))).unwrap(), 7);
    }

    #[test]
    fn image_that_meets_the_kernel_is_refused_with_the_size_needed() {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let error = Initramfs::load(&memory, &[0; 2 << 20], 4 << 20, 3 << 20).unwrap_err();
        assert!(matches!(error, BootError::TooSmall { needed: 5, given: 4 }));
    }
}
