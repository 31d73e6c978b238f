//! Pages of guest memory that go back to the host.
#![allow(unsafe_code)]

use std::io;

use vm_memory::{GuestAddress, GuestMemory};

use super::BalloonError;
use crate::memory::Memory;

const PAGE_BYTES: usize = 4096;

/// Gives the whole pages of a range back to the host, and tells how many bytes these are; what is outside of memory is
/// an error. What the guest finds there afterwards is what was mapped in the beginning: zeros, or the pages of the file
/// with its kernel's text or of its template, which other machines have, too. Others' memory stays as it is:
/// all mappings are private.
pub(super) fn discard(memory: &Memory, start: GuestAddress, length: usize) -> Result<u64, BalloonError> {
    let mut given_back = 0;
    for slice in memory.get_slices(start, length) {
        let slice = slice?;
        let guard = slice.ptr_guard_mut();
        let skipped = guard.as_ptr().align_offset(PAGE_BYTES);
        let bytes = slice.len().saturating_sub(skipped) / PAGE_BYTES * PAGE_BYTES;
        if bytes == 0 {
            continue;
        }
        // SAFETY: the pages lie in the slice, which is guest memory: mapped until the process ends, and accessed by
        // reads and writes alone that reckon with the guest's changing it at any time. To lose its content is such a change.
        let result = unsafe { libc::madvise(guard.as_ptr().add(skipped).cast(), bytes, libc::MADV_DONTNEED) };
        if result != 0 {
            return Err(io::Error::last_os_error().into());
        }
        given_back += u64::try_from(bytes).unwrap_or(0);
    }
    Ok(given_back)
}
