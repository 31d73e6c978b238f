//! Which pages of this process there are, and whose (Documentation/admin-guide/mm/pagemap.rst).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub(super) const PAGE: usize = 4096;

/// What `/proc/self/pagemap` says of one page. Without privileges it has no page frame number, and these bits still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageEntry(u64);

impl PageEntry {
    const BYTES: usize = 8;
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    /// It is a file's, or of memory that is shared.
    const FILE: u64 = 1 << 61;

    /// It has ever been written or read, and is in memory or in swap space.
    pub(super) fn is_there(self) -> bool {
        self.0 & (Self::PRESENT | Self::SWAPPED) != 0
    }

    /// It is this process's alone: of a private mapping of a file it is one that has been written.
    pub(super) fn is_own(self) -> bool {
        self.is_there() && self.0 & Self::FILE == 0
    }
}

/// The entries of the `length` bytes from `address` on.
pub(super) fn entries(address: usize, length: usize, pagemap: &File) -> io::Result<Vec<PageEntry>> {
    let mut bytes = vec![0; length.div_ceil(PAGE) * PageEntry::BYTES];
    pagemap.read_exact_at(&mut bytes, (address / PAGE * PageEntry::BYTES) as u64)?;
    let entry = |bytes: &[u8]| PageEntry(bytes.try_into().map_or(0, u64::from_ne_bytes));
    Ok(bytes.chunks_exact(PageEntry::BYTES).map(entry).collect())
}
