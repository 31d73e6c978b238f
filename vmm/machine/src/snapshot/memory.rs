//! The content of guest memory: which pages are in a file, and where.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryRegion};
use vmrun_devices::Memory;

use super::SnapshotError;
use crate::mapped::{self, MappedPages};

const PAGE: usize = 4096;

/// Pages that are alike in a new machine and lie between two that are not: so many are saved with them, since each
/// extent is a mapping of its own.
const GAP_PAGES: usize = 16;

/// What a huge page takes, bytes, and its address is a multiple of.
const BLOCK: u64 = 2 << 20;
const BLOCK_PAGES: usize = 512;

/// A block of memory with no more pages than these that are not zero becomes a huge page: copying them costs less than
/// an exit for each page that the guest then takes from the block, and two more for each that it reads first and writes later.
const FEW_PAGES: usize = 192;

/// Pages of guest memory that stand in the file one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Guest physical address, a multiple of the page size.
    pub address: u64,
    /// Where in the file, likewise.
    pub offset: u64,
    /// How many bytes, likewise.
    pub bytes: u64,
    /// How they come back.
    pub way: Way,
}

/// How pages come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// Mapped from the file, copy-on-write.
    Mapped,
    /// Copied into a huge page, which has zeros besides.
    Copied,
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
        let found = look_at(start, slice.ptr_guard().as_ptr(), length, pages).map_err(failed("look at"))?;
        for (first, count, way) in to_save(&found) {
            let (at, bytes) = (first * PAGE, count * PAGE);
            for done in (0..bytes).step_by(COPIED) {
                let part = buffer.get_mut(..COPIED.min(bytes - done)).unwrap_or_default();
                let source = slice.offset(at + done);
                source.map_err(|error| failed("read")(io::Error::other(error)))?.copy_to(part);
                pages.file.write_all_at(part, offset + done as u64).map_err(failed("write"))?;
            }
            extents.push(Extent { address: start + at as u64, offset, bytes: bytes as u64, way });
            offset += bytes as u64;
        }
    }
    Ok(extents)
}

/// What is in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// The same as in a new machine: zeros.
    Nothing,
    /// The same as in a new machine: the kernel's.
    Kernel,
    /// Zeros, where a new machine has none.
    Zeros,
    /// Its own.
    Own,
}

/// What is in the pages of the mapping at `host`, which is at `start` for the guest.
fn look_at(start: u64, host: *const u8, length: usize, pages: &SavedPages<'_>) -> io::Result<Vec<Content>> {
    let there = touched(host.addr(), length, pages.pagemap)?;
    let fresh = |address: u64| {
        pages.kernel.iter().find_map(|pages| {
            let at = usize::try_from(address.checked_sub(pages.address)?).ok()?;
            pages.bytes.get(at..at.checked_add(PAGE)?)
        })
    };
    let content = there.iter().enumerate().map(|(number, &there)| {
        let at = number * PAGE;
        let fresh = fresh(start + at as u64);
        if fresh.is_none() && !there {
            return Content::Nothing;
        }
        // SAFETY: the page is in the mapping, which is readable and stays; the guest and its devices, which could change
        // it, stand still, and nobody else writes there.
        let page = unsafe { std::slice::from_raw_parts(host.add(at), PAGE) };
        match fresh {
            Some(fresh) if page == fresh => Content::Kernel,
            Some(_) if page == ZEROES => Content::Zeros,
            None if page == ZEROES => Content::Nothing,
            _ => Content::Own,
        }
    });
    Ok(content.collect())
}

/// Which pages of this process from `address` on have ever been written or read, in memory or in swap space
/// (Documentation/admin-guide/mm/pagemap.rst).
fn touched(address: usize, length: usize, pagemap: &File) -> io::Result<Vec<bool>> {
    const ENTRY: usize = 8;
    const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;
    let mut entries = vec![0; length.div_ceil(PAGE) * ENTRY];
    pagemap.read_exact_at(&mut entries, (address / PAGE * ENTRY) as u64)?;
    let entry = |bytes: &[u8]| bytes.try_into().map_or(u64::MAX, u64::from_ne_bytes);
    Ok(entries.chunks_exact(ENTRY).map(|bytes| entry(bytes) & PRESENT_OR_SWAPPED != 0).collect())
}

const ZEROES: [u8; PAGE] = [0; PAGE];

/// The runs of pages to be saved: where each begins, how many there are, and how they come back. A region of memory begins
/// with a block.
fn to_save(pages: &[Content]) -> Vec<(usize, usize, Way)> {
    let mut found = Vec::new();
    let mut mapped = vec![false; pages.len()];
    for (number, block) in pages.chunks(BLOCK_PAGES).enumerate() {
        let first = number * BLOCK_PAGES;
        let differs = |page: &Content| matches!(page, Content::Own | Content::Zeros);
        let is_something = |page: &Content| matches!(page, Content::Own | Content::Kernel);
        let few = block.iter().filter(|page| is_something(page)).count() <= FEW_PAGES;
        if few && block.len() == BLOCK_PAGES && block.iter().any(differs) {
            let mut own: Vec<_> = block.iter().map(is_something).collect();
            // One of zeros says that it is a block of its own.
            if let Some(page) = own.first_mut().filter(|_| !block.iter().any(is_something)) {
                *page = true;
            }
            found.extend(runs(&own).into_iter().map(|(at, count)| (first + at, count, Way::Copied)));
        } else {
            let places = mapped.iter_mut().skip(first);
            places.zip(block).for_each(|(place, page)| *place = differs(page));
        }
    }
    // No gap that they swallow is as long as a block.
    found.extend(runs(&mapped).into_iter().map(|(at, count)| (at, count, Way::Mapped)));
    found.sort_unstable_by_key(|(first, ..)| *first);
    found
}

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

/// Puts the pages of `file` into the memory of a new machine.
pub(crate) fn place(memory: &Memory, extents: &[Extent], file: &File) -> Result<(), SnapshotError> {
    let foreign = || SnapshotError::Foreign("its memory");
    let page = PAGE as u64;
    let (mut end, mut behind, mut block) = (0, 0, None);
    for &Extent { address, offset, bytes, way } in extents {
        let aligned = [address, offset, bytes].iter().all(|value| value.is_multiple_of(page));
        if !aligned || bytes == 0 || address < end || offset != behind {
            return Err(foreign());
        }
        let length = usize::try_from(bytes).map_err(|_| foreign())?;
        let target = memory.get_slice(GuestAddress(address), length).map_err(|_| foreign())?;
        match way {
            Way::Mapped => mapped::map_file_at(target.ptr_guard_mut().as_ptr(), length, file, offset)
                .map_err(|source| SnapshotError::Memory { act: "map", source })?,
            Way::Copied => {
                let own = address - address % BLOCK;
                let fits = BLOCK.checked_sub(bytes).is_some_and(|room| address - own <= room);
                if !fits || (block != Some(own) && end > own) {
                    return Err(foreign());
                }
                if block.replace(own) != Some(own) {
                    empty(memory, own)?;
                }
                let mut content = vec![0u8; length];
                file.read_exact_at(&mut content, offset)
                    .map_err(|source| SnapshotError::Memory { act: "read", source })?;
                target.copy_from(&content);
            }
        }
        end = address.saturating_add(bytes);
        behind = offset.saturating_add(bytes);
    }
    Ok(())
}

/// Makes the block zeros that are no file's.
fn empty(memory: &Memory, block: u64) -> Result<(), SnapshotError> {
    let length = BLOCK_PAGES * PAGE;
    let target = memory.get_slice(GuestAddress(block), length);
    let target = target.map_err(|_| SnapshotError::Foreign("its memory"))?;
    mapped::map_nothing_at(target.ptr_guard_mut().as_ptr(), length)
        .map_err(|source| SnapshotError::Memory { act: "map", source })
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
    fn blocks_with_little_in_them_are_copied_and_others_mapped() {
        use Content::{Kernel, Nothing, Own, Zeros};
        let block = |content, count| {
            let mut block = vec![Nothing; BLOCK_PAGES];
            block[100..100 + count].fill(content);
            block
        };
        let saved = |blocks: &[Vec<Content>]| to_save(&blocks.concat());
        assert_eq!(
            saved(&[block(Own, 10), block(Own, FEW_PAGES + 1)]),
            [(100, 10, Way::Copied), (BLOCK_PAGES + 100, FEW_PAGES + 1, Way::Mapped)]
        );
        // What the kernel was and is zeros now is a block's first page; a kernel that has not changed is no news.
        assert_eq!(saved(&[block(Zeros, 300)]), [(0, 1, Way::Copied)]);
        assert_eq!(saved(&[block(Kernel, 100), block(Nothing, 100)]), []);
        // One that is no whole block is mapped.
        assert_eq!(to_save(&[Own]), [(0, 1, Way::Mapped)]);
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
        let extent = |address, offset, bytes| Extent { address, offset, bytes, way: Way::Mapped };
        let copied = |address, offset, bytes| Extent { way: Way::Copied, ..extent(address, offset, bytes) };
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
            vec![copied(BLOCK - 4096, 0, 8192)],
            vec![copied(0, 0, BLOCK + 4096)],
            vec![extent(0, 0, 4096), copied(4096, 4096, 4096)],
        ] {
            assert!(place(&memory, &extents, &file).is_err(), "{extents:?}");
        }
    }
}
