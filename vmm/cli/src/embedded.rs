//! Kernel and boot image inside this binary; see `build/`.

use vmrun_runtime::Embedded;

/// The machine may map the bytes instead of copying them, so they start on a page.
#[repr(align(4096))]
struct PageAligned<T: ?Sized>(T);

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

pub(crate) fn embedded() -> Embedded {
    Embedded { kernel: &KERNEL.0, initramfs: &INITRAMFS.0 }
}
