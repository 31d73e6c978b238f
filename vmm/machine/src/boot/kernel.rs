//! The kernel image.

use std::io::Cursor;

use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr};
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, Error as LoaderError, KernelLoader, KernelLoaderResult};
use vm_memory::{Address, ByteValued, GuestAddress};
use vmrun_devices::Memory;

use crate::error::BootError;
use crate::layout;

const ELF_MAGIC: &[u8] = b"\x7fELF";
/// `e_type` and `e_machine` of a kernel.
const ET_EXEC: u16 = 2;
const EM_X86_64: u16 = 62;
/// Program header by which a program says what stack it wants of the kernel that
/// starts it: every linker writes one, and no kernel has one.
const PT_GNU_STACK: u32 = 0x6474_e551;
/// "HdrS" at this offset marks a bzImage.
const BZIMAGE_MAGIC_OFFSET: usize = 0x202;
const BZIMAGE_MAGIC: &[u8] = b"HdrS";
/// The 64-bit entry lies this far behind the load address of a bzImage.
const BZIMAGE_ENTRY_64: u64 = 0x200;
/// `XLF_KERNEL_64`: the entry exists.
const XLF_KERNEL_64: u16 = 1;

/// A kernel in guest memory.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Where it is entered in 64-bit mode.
    pub(crate) entry: u64,
    /// The first address behind it that it does not use.
    pub(crate) end: u64,
    /// The setup header of a bzImage, which must be passed on.
    pub(crate) setup: Option<setup_header>,
}

impl Kernel {
    /// Loads `image` into `memory`.
    pub(crate) fn load(memory: &Memory, image: &[u8]) -> Result<Self, BootError> {
        let mut file = Cursor::new(image);
        let high = Some(GuestAddress(layout::HIGH_RAM));
        if image.starts_with(ELF_MAGIC) {
            if !is_elf_kernel(image) {
                return Err(BootError::NotAKernel);
            }
            let loaded = Elf::load(memory, None, &mut file, high).map_err(BootError::Kernel)?;
            Ok(Self { entry: loaded.kernel_load.raw_value(), end: loaded.kernel_end, setup: None })
        } else if image.get(BZIMAGE_MAGIC_OFFSET..).is_some_and(|bytes| bytes.starts_with(BZIMAGE_MAGIC)) {
            Self::of_bzimage(&BzImage::load(memory, None, &mut file, high).map_err(BootError::Kernel)?)
        } else {
            Err(BootError::NotAKernel)
        }
    }

    fn of_bzimage(loaded: &KernelLoaderResult) -> Result<Self, BootError> {
        let setup = loaded.setup_header.ok_or(BootError::NotAKernel)?;
        let flags = setup.xloadflags;
        if flags & XLF_KERNEL_64 == 0 {
            return Err(BootError::No64BitEntry);
        }
        let start = loaded.kernel_load.raw_value();
        let overflow = || BootError::Kernel(LoaderError::MemoryOverflow);
        Ok(Self {
            entry: start.checked_add(BZIMAGE_ENTRY_64).ok_or_else(overflow)?,
            // The decompressor unpacks in place and needs `init_size` bytes from
            // the address that the kernel prefers.
            end: setup
                .pref_address
                .checked_add(u64::from(setup.init_size))
                .ok_or_else(overflow)?
                .max(loaded.kernel_end),
            setup: Some(setup),
        })
    }
}

/// An executable for x86-64 that is no program.
fn is_elf_kernel(image: &[u8]) -> bool {
    let Some(header) = read_at::<Elf64_Ehdr>(image, 0) else { return false };
    let programs = (0..u64::from(header.e_phnum)).map(|index| {
        let offset = index.checked_mul(u64::from(header.e_phentsize))?.checked_add(header.e_phoff)?;
        read_at::<Elf64_Phdr>(image, offset)
    });
    header.e_type == ET_EXEC
        && header.e_machine == EM_X86_64
        && programs.flatten().all(|program| program.p_type != PT_GNU_STACK)
}

/// The `T` at `offset` of `image`, if it is there whole.
fn read_at<T: ByteValued + Default>(image: &[u8], offset: u64) -> Option<T> {
    let mut value = T::default();
    let bytes = image.get(usize::try_from(offset).ok()?..)?.get(..size_of::<T>())?;
    value.as_mut_slice().copy_from_slice(bytes);
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory() -> Memory {
        Memory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap()
    }

    #[test]
    fn file_that_is_no_kernel_is_refused() {
        for image in [&b""[..], b"#!/bin/sh\n", &[0; 4096]] {
            assert!(matches!(Kernel::load(&memory(), image), Err(BootError::NotAKernel)));
        }
    }

    #[test]
    fn program_is_no_kernel_wherever_it_is_linked_to() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        assert!(matches!(Kernel::load(&memory(), &program), Err(BootError::NotAKernel)));
        let mut fixed = program;
        fixed[16] = 2;
        assert!(matches!(Kernel::load(&memory(), &fixed), Err(BootError::NotAKernel)));
    }

    proptest! {
        #[test]
        fn mangled_images_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0x400..0x800), elf: bool) {
            let magic = if elf { ELF_MAGIC } else { BZIMAGE_MAGIC };
            let offset = if elf { 0 } else { BZIMAGE_MAGIC_OFFSET };
            bytes[offset..offset + 4].copy_from_slice(magic);
            let _ = Kernel::load(&memory(), &bytes);
        }
    }
}
