//! The processor and its memory: all that is unsafe.
//!
//! ```text
//!  0x0010_0000  this program         0x0020_0000  page tables, stack below 0x0030_0000
//!  0x0030_0000  free for attacks, to the end of the memory and beyond it
//! ```
//!
//! Five GiB of addresses are mapped to themselves: the first four, and the one below 512 GiB.

use core::arch::{asm, global_asm};

/// Attacks may read and write from here on: nothing of this program lies there.
pub(crate) const FREE: u64 = 0x30_0000;
/// The first address behind what is mapped below 4 GiB.
pub(crate) const LOW_END: u64 = 4 << 30;
/// A GiB far behind any memory.
pub(crate) const FAR: u64 = 511 << 30;

/// The page directories of all but the first GiB, which is mapped at the entry.
const DIRECTORIES: u64 = 0x20_0000;
/// The table that has them, as the machine is handed over.
const POINTERS: u64 = 0xa000;
const GIB: u64 = 1 << 30;

/// Fields of `struct boot_params`.
const RAMDISK_IMAGE: u64 = 0x218;
const RAMDISK_SIZE: u64 = 0x21c;

// SSE on, as the compiler takes for granted; a stack; no interrupts, for there is no table of them.
global_asm!(
    ".globl start",
    "start:",
    "cli",
    "mov rax, cr0",
    "and rax, -5",
    "or rax, 2",
    "mov cr0, rax",
    "mov rax, cr4",
    "or rax, 0x600",
    "mov cr4, rax",
    "mov rsp, 0x2ffff0",
    "mov rdi, rsi",
    "call {enter}",
    enter = sym enter,
);

extern "C" fn enter(boot_params: u64) -> ! {
    map();
    crate::main(boot_params)
}

fn map() {
    const PRESENT_WRITABLE: u64 = 3;
    const HUGE: u64 = 0x80;
    for (directory, gib) in [1, 2, 3, FAR / GIB].into_iter().enumerate() {
        let table = DIRECTORIES + directory as u64 * 0x1000;
        for entry in 0..512 {
            poke(table + entry * 8, (gib * GIB + (entry << 21)) | HUGE | PRESENT_WRITABLE);
        }
        poke(POINTERS + gib * 8, table | PRESENT_WRITABLE);
    }
}

fn poke(address: u64, value: u64) {
    // SAFETY: called by `map` alone, for tables that lie behind the image and for the one of the entry.
    unsafe { (address as *mut u64).write_volatile(value) }
}

/// Where the boot image lies, and how long it is.
pub(crate) fn boot_image(boot_params: u64) -> (u64, u64) {
    // SAFETY: the loader has written the structure, and nobody writes to it.
    let [address, length] = [RAMDISK_IMAGE, RAMDISK_SIZE]
        .map(|at| unsafe { ((boot_params + at) as *const u32).read_unaligned() });
    (address.into(), length.into())
}

/// Whether all of a range is mapped and nobody's.
fn is_free(address: u64, bytes: u64) -> bool {
    let end = address.saturating_add(bytes);
    (address >= FREE && end <= LOW_END) || (address >= FAR && end <= FAR + GIB)
}

/// Reads `1 << log` bytes, at most 8; zero where that is not allowed.
pub(crate) fn read(address: u64, log: u32) -> u64 {
    if !is_free(address, 1 << log) {
        return 0;
    }
    // SAFETY: the range is mapped and nothing of this program. Alignment does not matter to the instructions.
    unsafe {
        let mut value: u64 = 0;
        match log {
            0 => asm!("movzx {v:e}, byte ptr [{a}]", a = in(reg) address, v = inout(reg) value),
            1 => asm!("movzx {v:e}, word ptr [{a}]", a = in(reg) address, v = inout(reg) value),
            2 => asm!("mov {v:e}, dword ptr [{a}]", a = in(reg) address, v = inout(reg) value),
            _ => asm!("mov {v:r}, qword ptr [{a}]", a = in(reg) address, v = inout(reg) value),
        }
        value
    }
}

/// Writes the `1 << log` low bytes of `value`; does nothing where that is not allowed.
pub(crate) fn write(address: u64, log: u32, value: u64) {
    if !is_free(address, 1 << log) {
        return;
    }
    // SAFETY: as in `read`.
    unsafe {
        match log {
            0 => asm!("mov byte ptr [{a}], {v}", a = in(reg) address, v = in(reg_byte) value as u8),
            1 => asm!("mov word ptr [{a}], {v:x}", a = in(reg) address, v = in(reg) value),
            2 => asm!("mov dword ptr [{a}], {v:e}", a = in(reg) address, v = in(reg) value),
            _ => asm!("mov qword ptr [{a}], {v:r}", a = in(reg) address, v = in(reg) value),
        }
    }
}

/// Writes bytes into the free memory.
pub(crate) fn copy_in(address: u64, bytes: &[u8]) {
    for (at, byte) in (address..).zip(bytes) {
        write(at, 0, u64::from(*byte));
    }
}

/// Reads bytes of the free memory.
pub(crate) fn copy_out(address: u64, bytes: &mut [u8]) {
    for (at, byte) in (address..).zip(bytes) {
        *byte = read(at, 0) as u8;
    }
}

/// `in`, of `1 << log` bytes, at most 4.
pub(crate) fn port_read(port: u16, log: u32) -> u32 {
    let mut value: u32 = 0;
    // SAFETY: a device may do with the memory what the rings allow, which is the free memory's.
    unsafe {
        match log {
            0 => asm!("in al, dx", in("dx") port, inout("eax") value),
            1 => asm!("in ax, dx", in("dx") port, inout("eax") value),
            _ => asm!("in eax, dx", in("dx") port, inout("eax") value),
        }
    }
    value
}

/// `out`, likewise.
pub(crate) fn port_write(port: u16, log: u32, value: u32) {
    // SAFETY: as in `port_read`.
    unsafe {
        match log {
            0 => asm!("out dx, al", in("dx") port, in("eax") value),
            1 => asm!("out dx, ax", in("dx") port, in("eax") value),
            _ => asm!("out dx, eax", in("dx") port, in("eax") value),
        }
    }
}

/// All bytes to one port by one instruction (`rep outsb`).
pub(crate) fn port_write_all(port: u16, bytes: &[u8]) {
    // SAFETY: reads the slice, as long as it is.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _);
    }
}

/// Nothing more happens: no interrupt is let in.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: touches nothing.
        unsafe { asm!("cli", "hlt") }
    }
}

/// What the compiler calls by these names, in the absence of a C library.
mod memory {
    use core::arch::asm;

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        // SAFETY: the caller's: both are valid for so many bytes and do not overlap.
        unsafe { asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _) }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= count {
            // SAFETY: the caller's; copied from the beginning, nothing is overwritten that is yet to be read.
            return unsafe { memcpy(to, from, count) };
        }
        // SAFETY: the caller's; from the end, since the target begins within the source.
        unsafe {
            asm!("std", "rep movsb", "cld", inout("rcx") count => _, inout("rdi") to.add(count).sub(1) => _,
                inout("rsi") from.add(count).sub(1) => _);
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
        // SAFETY: the caller's: it is valid for so many bytes.
        unsafe { asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") byte as u8) }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
        for at in 0..count {
            // SAFETY: the caller's: both are valid for so many bytes.
            let [one, other] = [one, other].map(|bytes| i32::from(unsafe { bytes.add(at).read_volatile() }));
            if one != other {
                return one - other;
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
        // SAFETY: the caller's.
        unsafe { memcmp(one, other, count) }
    }
}
