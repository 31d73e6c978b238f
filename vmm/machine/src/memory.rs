//! Guest memory.
//!
//! Anonymous memory that costs the host only the pages that the guest touches.
//! It is aligned to 2 MiB and asks for huge pages: a boot touches tens of MiB,
//! and each first touch of a page is a fault in the host *and* an exit from the
//! guest, so huge pages cut hundreds of thousands of them to a handful.
#![allow(unsafe_code)]

use std::io;
use std::ptr;

use vm_memory::mmap::{MmapRegionBuilder, NewBitmap};
use vm_memory::{GuestAddress, GuestRegionCollection};
use vmrun_devices::{GuestRegion, Memory};

use crate::error::MemoryError;
use crate::layout::{self, HUGE_PAGE_BYTES};

/// Maps `mib` MiB of memory at the guest addresses of [`layout::ram_ranges`]. It stays mapped
/// until the process ends, so that no clone of the result can outlive it; a
/// process has one machine.
pub(crate) fn map(mib: u32) -> Result<Memory, MemoryError> {
    let failed = |source| MemoryError { mib, source };
    let regions = layout::ram_ranges(u64::from(mib) << 20)
        .into_iter()
        .map(|(start, length)| region(start, length))
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed)?;
    GuestRegionCollection::from_regions(regions).map_err(|error| failed(io::Error::other(error)))
}

fn region(start: u64, length: u64) -> io::Result<GuestRegion> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let address = map_aligned(length)?;
    let builder = MmapRegionBuilder::new_with_bitmap(length, NewBitmap::with_len(length))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: `map_aligned` has mapped `length` bytes from `address` on, readable
    // and writable, and nothing ever unmaps them.
    let region = unsafe { builder.with_raw_mmap_pointer(address) }.build().map_err(io::Error::other)?;
    GuestRegion::new(region, GuestAddress(start)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Maps `length` bytes at a multiple of the huge page size.
fn map_aligned(length: usize) -> io::Result<*mut u8> {
    let room = length.checked_add(HUGE_PAGE_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            room,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let padding = start.cast::<u8>().align_offset(HUGE_PAGE_BYTES);
    // SAFETY: the padding is less than a huge page, by which `room` exceeds `length`.
    let aligned = unsafe { start.byte_add(padding) };
    // Without huge pages everything works as well, only slower.
    // SAFETY: advice on the mapping made above, which nobody else uses yet.
    let _ = unsafe { libc::madvise(aligned, length, libc::MADV_HUGEPAGE) };
    // What the program keeps secret is in there; a core file of this process is the host's.
    // SAFETY: as above.
    if unsafe { libc::madvise(aligned, length, libc::MADV_DONTDUMP) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(aligned.cast())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemory, GuestMemoryRegion};

    use super::*;

    #[test]
    fn memory_is_aligned_zeroed_and_writable_to_its_end() {
        let memory = map(64).unwrap();
        let address = memory.get_host_address(GuestAddress(0)).unwrap();
        assert_eq!(address.align_offset(HUGE_PAGE_BYTES), 0);
        assert_eq!(memory.iter().map(|region| region.len()).sum::<u64>(), 64 << 20);
        let last = GuestAddress((64 << 20) - 8);
        assert_eq!(memory.read_obj::<u64>(last).unwrap(), 0);
        memory.write_obj(7u64, last).unwrap();
        assert_eq!(memory.read_obj::<u64>(last).unwrap(), 7);
        assert!(memory.read_obj::<u64>(GuestAddress(64 << 20)).is_err());
    }

    #[test]
    fn more_than_the_gap_allows_goes_above_4_gib() {
        let memory = map(3100).unwrap();
        assert!(memory.read_obj::<u64>(GuestAddress(layout::RAM_GAP)).is_err());
        assert_eq!(memory.read_obj::<u64>(GuestAddress(layout::RAM_ABOVE_4G)).unwrap(), 0);
    }
}
