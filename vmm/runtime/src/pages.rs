//! Gives pages of this binary back.
#![allow(unsafe_code)]

use libc::{MADV_DONTNEED, madvise};

const PAGE_BYTES: usize = 4096;

/// Lets go of the pages that reading `bytes` has brought into this process:
/// kernel and boot image are needed once, and a monitor lives long. A later read
/// gets them again from the file.
pub(crate) fn release(bytes: &'static [u8]) {
    let start = bytes.as_ptr().align_offset(PAGE_BYTES);
    let Some(length) = bytes.len().checked_sub(start).map(|rest| rest / PAGE_BYTES * PAGE_BYTES) else {
        return;
    };
    let first = bytes.as_ptr().wrapping_add(start).cast_mut().cast();
    // SAFETY: whole pages inside a read-only static, which are a private mapping
    // of this program's file that nobody has written to: dropped, they are read
    // from the file again. Failing leaves them where they are.
    let _ = unsafe { madvise(first, length, MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_the_same_after_their_pages_were_released() {
        static BYTES: [u8; 3 * super::PAGE_BYTES] = [7; 3 * super::PAGE_BYTES];
        super::release(&BYTES);
        assert!(BYTES.iter().all(|&byte| byte == 7));
    }
}
