//! Kernel and boot image inside this binary; see `build/`.

use vmrun_runtime::{Embedded, MappedPages};

/// What the machine maps instead of copying it starts on a page.
#[repr(align(4096))]
struct PageAligned<T: ?Sized>(T);

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

pub(crate) fn embedded() -> Embedded {
    Embedded { kernel: &KERNEL.0, kernel_pages: MAPPED, initramfs: &INITRAMFS.0, digest: DIGEST }
}
