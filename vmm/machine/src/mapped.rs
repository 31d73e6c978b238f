//! Pages of this program's file in the guest's memory.
//!
//! The kernel's text is the same in every sandbox. Mapped
//! copy-on-write from the file that carries it, it costs neither copying nor
//! memory: the host's page cache holds it once, and only the pages that a
//! kernel patches become its own.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use vm_memory::{Bytes, GuestAddress, GuestMemory};
use vmrun_devices::Memory;

const PAGE_BYTES: usize = 4096;

/// Whole pages that belong at one guest physical address.
#[derive(Clone, Copy, Debug)]
pub struct MappedPages {
    /// Where, in bytes; a multiple of the page size.
    pub address: u64,
    /// What: a static of this program, aligned to a page.
    pub bytes: &'static [u8],
}

impl MappedPages {
    /// Puts the pages into `memory`: maps them, or copies them where they cannot
    /// be mapped.
    pub(crate) fn place(&self, memory: &Memory) -> Result<(), vm_memory::GuestMemoryError> {
        let address = GuestAddress(self.address);
        let target = memory.get_slice(address, self.bytes.len())?;
        match self.map_at(target.ptr_guard_mut().as_ptr()) {
            Ok(()) => Ok(()),
            // A copy does as well; it only costs memory.
            Err(_) => memory.write_slice(self.bytes, address),
        }
    }

    /// Maps the pages over the `self.bytes.len()` bytes of guest memory at `target`.
    fn map_at(&self, target: *mut u8) -> io::Result<()> {
        let aligned = |address: usize| address.is_multiple_of(PAGE_BYTES);
        let start = self.bytes.as_ptr().addr();
        if !(aligned(start) && aligned(target.addr()) && aligned(self.bytes.len())) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let program = File::open("/proc/self/exe")?;
        let offset = offset_in(&program, start, self.bytes.len())?;
        map_file_at(target, self.bytes.len(), &program, offset)
    }
}

/// Maps `length` bytes of `file` from `offset` on over guest memory at `target`, copy-on-write. All are multiples of the
/// page size.
pub(crate) fn map_file_at(target: *mut u8, length: usize, file: &File, offset: u64) -> io::Result<()> {
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the range is guest memory that was mapped for this machine alone and
    // stays mapped until the process ends; nothing refers into it yet but the
    // memory's own pointer, which reads and writes these pages as it did those
    // before. The mapping is private: the file never changes.
    let mapped = unsafe {
        libc::mmap(
            target.cast(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // A mapping begins without the advice that the memory below it had.
    // SAFETY: advice on the mapping made above.
    if unsafe { libc::madvise(mapped, length, libc::MADV_DONTDUMP) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes the `length` bytes of guest memory at `target`, whole pages, this process's own, as if somebody had written to each of
/// them what is there (`MADV_POPULATE_WRITE`, Linux 5.14).
pub(crate) fn populate(target: *mut u8, length: usize) -> io::Result<()> {
    // SAFETY: the range is guest memory that stays mapped until the process ends; no byte of it changes.
    match unsafe { libc::madvise(target.cast(), length, libc::MADV_POPULATE_WRITE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a child of this process would have the `length` bytes of guest memory at `target`, whole pages, too
/// (`MADV_DOFORK`, `MADV_DONTFORK`). It has none.
pub(crate) fn set_inherited(target: *mut u8, length: usize, inherited: bool) -> io::Result<()> {
    let advice = if inherited { libc::MADV_DOFORK } else { libc::MADV_DONTFORK };
    // SAFETY: advice on guest memory that stays mapped until the process ends; no byte of it changes.
    match unsafe { libc::madvise(target.cast(), length, advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where in the file `program` the `length` bytes lie that this process has mapped at `start`.
fn offset_in(program: &File, start: usize, length: usize) -> io::Result<u64> {
    let inode = program.metadata()?.ino();
    for line in BufReader::new(File::open("/proc/self/maps")?).lines() {
        if let Some(mapping) = Mapping::parse(&line?)
            && mapping.inode == inode
            && mapping.start <= start
            && mapping.end.checked_sub(start).is_some_and(|rest| rest >= length)
        {
            let offset = mapping.offset.checked_add((start - mapping.start) as u64);
            return offset.ok_or(io::ErrorKind::InvalidData.into());
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// A line of `/proc/self/maps` (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    offset: u64,
    inode: u64,
}

impl Mapping {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let offset = fields.nth(1)?;
        let inode = fields.nth(1)?;
        Some(Self {
            start: usize::from_str_radix(start, 16).ok()?,
            end: usize::from_str_radix(end, 16).ok()?,
            offset: u64::from_str_radix(offset, 16).ok()?,
            inode: inode.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Aligned([u8; 3 * PAGE_BYTES]);

    static PAGES: Aligned = {
        let mut bytes = [7; 3 * PAGE_BYTES];
        bytes[PAGE_BYTES] = 8;
        Aligned(bytes)
    };

    #[test]
    fn pages_are_in_place_and_writing_to_them_changes_nothing_else() {
        let memory = crate::memory::map(64).unwrap();
        let pages = MappedPages { address: 0x20_0000, bytes: &PAGES.0 };
        pages.place(&memory).unwrap();
        let target = memory.get_slice(GuestAddress(0x20_0000), PAGES.0.len()).unwrap();
        pages.map_at(target.ptr_guard_mut().as_ptr()).unwrap();
        let read = |address| memory.read_obj::<u8>(GuestAddress(address)).unwrap();
        assert_eq!((read(0x20_0fff), read(0x20_1000), read(0x20_2fff), read(0x20_3000)), (7, 8, 7, 0));
        memory.write_obj(9u8, GuestAddress(0x20_1000)).unwrap();
        assert_eq!((read(0x20_1000), PAGES.0[PAGE_BYTES]), (9, 8));
    }

    #[test]
    fn pages_outside_memory_are_refused() {
        let memory = crate::memory::map(64).unwrap();
        assert!(MappedPages { address: 64 << 20, bytes: &PAGES.0 }.place(&memory).is_err());
    }

    #[test]
    fn what_is_not_of_the_file_is_copied() {
        let leaked: &'static [u8] = Box::leak(vec![5; PAGE_BYTES].into_boxed_slice());
        let memory = crate::memory::map(64).unwrap();
        MappedPages { address: 0x1000, bytes: leaked }.place(&memory).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1000)).unwrap(), 5);
    }

    #[test]
    fn line_of_the_map_is_read() {
        let line = "00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/vmrun";
        let expected = Mapping { start: 0x40_0000, end: 0x45_2000, offset: 0x1000, inode: 173_521 };
        assert_eq!(Mapping::parse(line), Some(expected));
        assert_eq!(Mapping::parse("nonsense"), None);
    }
}
