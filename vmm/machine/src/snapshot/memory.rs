//! The content of guest memory: which pages are in a file, and where.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryRegion};
use vmrun_devices::Memory;

use super::SnapshotError;
use super::pagemap::{self, PAGE, PageEntry};
use crate::mapped::{self, MappedPages};

/// Pages that are alike in a new machine and lie between two that are not: so many are saved with them, since each
/// extent is a mapping of its own.
const GAP_PAGES: usize = 16;

/// Pages of guest memory that stand in the file one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Guest physical address, a multiple of the page size.
    pub address: u64,
    /// Where in the file, likewise.
    pub offset: u64,
    /// How many bytes, likewise.
    pub bytes: u64,
}

/// Where the pages of a machine go, and how it is told which.
#[derive(Debug)]
pub struct SavedPages<'a> {
    /// Takes them.
    pub file: &'a File,
    /// What a new machine has in its memory, too.
    pub kernel: &'a [MappedPages],
    /// `/proc/self/pagemap` of this process, which tells which pages there are: also those that are swapped out.
    pub pagemap: &'a File,
}

/// So much is copied at a time.
const COPIED: usize = 256 * PAGE;

/// Writes what of `memory` differs from that of a machine which has nothing but the kernel in it. The
/// guest and its devices stand still.
pub(crate) fn save(memory: &Memory, pages: &SavedPages<'_>) -> Result<Vec<Extent>, SnapshotError> {
    let failed = |act| move |source: io::Error| SnapshotError::Memory { act, source };
    let mut extents = Vec::new();
    let mut offset = 0;
    let mut buffer = vec![0; COPIED];
    for region in memory.iter() {
        let start = region.start_addr().raw_value();
        let length = usize::try_from(region.len()).map_err(|_| SnapshotError::Foreign("its size"))?;
        let slice = memory.get_slice(region.start_addr(), length);
        let slice = slice.map_err(|error| failed("look at")(io::Error::other(error)))?;
        let own = own_pages(start, slice.ptr_guard().as_ptr(), length, pages).map_err(failed("look at"))?;
        for (first, count) in runs(&own) {
            let (at, bytes) = (first * PAGE, count * PAGE);
            for done in (0..bytes).step_by(COPIED) {
                let part = buffer.get_mut(..COPIED.min(bytes - done)).unwrap_or_default();
                let source = slice.offset(at + done);
                source.map_err(|error| failed("read")(io::Error::other(error)))?.copy_to(part);
                pages.file.write_all_at(part, offset + done as u64).map_err(failed("write"))?;
            }
            extents.push(Extent { address: start + at as u64, offset, bytes: bytes as u64 });
            offset += bytes as u64;
        }
    }
    Ok(extents)
}

/// Which pages of the mapping at `host`, which is at `start` for the guest, are not as in a new machine.
fn own_pages(start: u64, host: *const u8, length: usize, pages: &SavedPages<'_>) -> io::Result<Vec<bool>> {
    let there = pagemap::entries(host.addr(), length, pages.pagemap)?;
    let fresh = |address: u64| {
        pages.kernel.iter().find_map(|pages| {
            let at = usize::try_from(address.checked_sub(pages.address)?).ok()?;
            pages.bytes.get(at..at.checked_add(PAGE)?)
        })
    };
    let own = there.iter().copied().map(PageEntry::is_there).enumerate().map(|(number, there)| {
        let at = number * PAGE;
        let fresh = fresh(start + at as u64);
        if fresh.is_none() && !there {
            return false;
        }
        // SAFETY: the page is in the mapping, which is readable and stays; the guest and its devices, which could change
        // it, stand still, and nobody else writes there.
        let page = unsafe { std::slice::from_raw_parts(host.add(at), PAGE) };
        fresh.map_or_else(|| page != ZEROES, |fresh| page != fresh)
    });
    Ok(own.collect())
}

const ZEROES: [u8; PAGE] = [0; PAGE];

/// The runs of pages to be saved: where each begins and how many there are.
fn runs(own: &[bool]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (page, _) in own.iter().enumerate().filter(|(_, own)| **own) {
        match runs.last_mut() {
            Some((first, count)) if page - (*first + *count) <= GAP_PAGES => *count = page + 1 - *first,
            _ => runs.push((page, 1)),
        }
    }
    runs
}

/// Puts the pages of `file` into the memory of a new machine, copy-on-write.
pub(crate) fn place(memory: &Memory, extents: &[Extent], file: &File) -> Result<(), SnapshotError> {
    check(memory, extents)?;
    for &Extent { address, offset, bytes } in extents {
        let length = usize::try_from(bytes).map_err(|_| SnapshotError::Foreign("its memory"))?;
        let target = memory.get_slice(GuestAddress(address), length);
        let target = target.map_err(|_| SnapshotError::Foreign("its memory"))?;
        mapped::map_file_at(target.ptr_guard_mut().as_ptr(), length, file, offset)
            .map_err(|source| SnapshotError::Memory { act: "map", source })?;
    }
    Ok(())
}

/// Whether `extents` are whole pages of `memory`, in its order, and stand in a file one behind the other.
pub(crate) fn check(memory: &Memory, extents: &[Extent]) -> Result<(), SnapshotError> {
    let page = PAGE as u64;
    let (mut end, mut behind) = (0, 0);
    for &Extent { address, offset, bytes } in extents {
        let aligned = [address, offset, bytes].iter().all(|value| value.is_multiple_of(page));
        let length = usize::try_from(bytes).ok().filter(|_| aligned && bytes > 0);
        let is_there = length.is_some_and(|length| memory.get_slice(GuestAddress(address), length).is_ok());
        if !is_there || address < end || offset != behind {
            return Err(SnapshotError::Foreign("its memory"));
        }
        end = address.saturating_add(bytes);
        behind = offset.saturating_add(bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn runs_swallow_small_gaps() {
        let mut own = vec![false; 100];
        for page in [0, 1, 3, 40, 99] {
            own[page] = true;
        }
        assert_eq!(runs(&own), [(0, 4), (40, 1), (99, 1)]);
        assert_eq!(runs(&[false; 3]), []);
    }

    #[test]
    fn pages_that_were_written_come_back_and_the_file_does_not_change() {
        let memory = crate::memory::map(64).unwrap();
        let write = |memory: &Memory, at, value: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
        let read = |memory: &Memory, at| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
        write(&memory, 0x10_0008, 7);
        write(&memory, (64 << 20) - 8, 8);
        write(&memory, 0x40_0000, 0);
        let file = tempfile::tempfile().unwrap();
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let extents = save(&memory, &SavedPages { file: &file, kernel: &[], pagemap: &pagemap }).unwrap();
        assert_eq!(
            extents.iter().map(|extent| (extent.address, extent.bytes)).collect::<Vec<_>>(),
            [(0x10_0000, 4096), ((64 << 20) - 4096, 4096)]
        );
        for _ in 0..2 {
            let other = crate::memory::map(64).unwrap();
            place(&other, &extents, &file).unwrap();
            assert_eq!(
                (read(&other, 0x10_0008), read(&other, (64 << 20) - 8), read(&other, 0x20_0000)),
                (7, 8, 0)
            );
            write(&other, 0x10_0008, 9);
        }
    }

    #[test]
    fn extents_that_cannot_be_are_refused() {
        let memory = crate::memory::map(64).unwrap();
        let file = tempfile::tempfile().unwrap();
        let extent = |address, offset, bytes| Extent { address, offset, bytes };
        for extents in [
            vec![extent(1, 0, 4096)],
            vec![extent(0, 1, 4096)],
            vec![extent(0, 0, 4095)],
            vec![extent(0, 0, 0)],
            vec![extent(64 << 20, 0, 4096)],
            vec![extent((64 << 20) - 4096, 0, 8192)],
            vec![extent(0, 0, 8192), extent(4096, 8192, 4096)],
            vec![extent(0, 4096, 4096)],
            vec![extent(0, 0, 4096), extent(4096, 0, 4096)],
            vec![extent(u64::MAX - 4095, 0, 4096)],
        ] {
            assert!(place(&memory, &extents, &file).is_err(), "{extents:?}");
        }
    }
}
