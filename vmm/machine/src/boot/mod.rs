//! From images to a vCPU that stands at the kernel's entry.
//!
//! | step | needs | writes |
//! |---|---|---|
//! | [`kernel`] | the image | the kernel at its load address |
//! | [`initramfs`] | the end of the kernel | the boot image at the end of low RAM |
//! | [`cmdline`] | the built-in parameters, the devices' windows, the user's | the command line |
//! | [`mp_table`] | the number of vCPUs | the MP table |
//! | [`params`] | all of the above | `boot_params` |
//!
//! The kernel is entered by the 64-bit boot protocol (Linux
//! Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"): no firmware, no
//! decompressor, long mode on, interrupts off.

mod cmdline;
mod initramfs;
mod kernel;
mod mp_table;
mod params;

pub(crate) use cmdline::{Window, cmdline};
pub(crate) use initramfs::Initramfs;
pub(crate) use kernel::Kernel;
pub(crate) use mp_table::mp_table;
pub(crate) use params::write_params;
