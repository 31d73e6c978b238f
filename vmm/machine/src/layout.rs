//! Where things lie in guest physical memory.
//!
//! ```text
//!  0x0000_0500  GDT, IDT                      \
//!  0x0000_7000  boot_params (the "zero page")  |  written before the boot,
//!  0x0000_9000  page tables                    |  free for the kernel after it
//!  0x0002_0000  kernel command line           /
//!  0x000f_0000  MP table
//!  0x0010_0000  RAM: kernel from its own load address on, initramfs at the end
//!  0xc000_0000  end of RAM below 4 GiB at most
//!  0xd000_0000  virtio-mmio register windows, 4 KiB each: devices, from the 16th on slots for network
//!               interfaces, the balloon and disks
//!  0xfec0_0000  I/O APIC      0xfee0_0000  local APICs
//!  0x1_0000_0000  the rest of RAM
//! ```

use vmrun_spec::NicSlot;

/// A huge page of the host's, bytes.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Boot GDT.
pub(crate) const GDT: u64 = 0x500;
/// Boot IDT: empty, the kernel brings its own.
pub(crate) const IDT: u64 = 0x520;
/// `struct boot_params` (Documentation/arch/x86/zero-page.rst).
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// Stack pointer at the entry; the kernel sets its own at once.
pub(crate) const BOOT_STACK: u64 = 0x8ff0;
/// Page tables for the entry: the first GiB, mapped to itself.
pub(crate) const PML4: u64 = 0x9000;
pub(crate) const PDPT: u64 = 0xa000;
pub(crate) const PD: u64 = 0xb000;
/// Kernel command line.
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// `COMMAND_LINE_SIZE` of x86 Linux, the end mark included.
pub(crate) const CMDLINE_BYTES: usize = 2048;
/// End of conventional memory: above it a PC has its BIOS data.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// The MP table lies where a BIOS would put it, in the 64 KiB that Linux searches.
pub(crate) const MP_TABLE: u64 = 0xf_0000;
/// Start of memory above 1 MiB.
pub(crate) const HIGH_RAM: u64 = 0x10_0000;
/// RAM below 4 GiB ends here at the latest.
pub(crate) const RAM_GAP: u64 = 0xc000_0000;
/// virtio-mmio register windows.
pub(crate) const MMIO: u64 = NicSlot::WINDOWS;
/// RAM goes on here.
pub(crate) const RAM_ABOVE_4G: u64 = 1 << 32;
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel processors (KVM API, §4.28).
pub(crate) const KVM_TSS: usize = 0xfffb_d000;

/// Interrupt of the first device that the guest boots with; 0 is a PC's timer, and 1 that of the slots.
pub(crate) const FIRST_IRQ: u8 = NicSlot::IRQ + 1;
/// Most devices that it boots with: behind their windows come those of the slots.
pub(crate) const MAX_DEVICES: u8 = NicSlot::FIRST_WINDOW;

/// Inputs of the I/O APIC for so many devices; it could have 24.
pub(crate) fn irqs(devices: usize) -> u8 {
    FIRST_IRQ + u8::try_from(devices).map_or(MAX_DEVICES, |devices| devices.min(MAX_DEVICES))
}

/// I/O ports of the first serial port of a PC.
pub(crate) const UART_PORT: u16 = 0x3f8;
/// Command port of a PC's keyboard controller.
pub(crate) const KEYBOARD_PORT: u16 = 0x64;
/// Written to the keyboard controller, it resets the machine.
pub(crate) const KEYBOARD_RESET: u8 = 0xfe;

/// RAM as ranges of address and length, both in bytes.
pub(crate) fn ram_ranges(bytes: u64) -> Vec<(u64, u64)> {
    if bytes <= RAM_GAP { vec![(0, bytes)] } else { vec![(0, RAM_GAP), (RAM_ABOVE_4G, bytes - RAM_GAP)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_ranges_keep_the_gap_free_and_sum_up() {
        for mib in [48, 3071, 3072, 3073, 8192] {
            let ranges = ram_ranges(mib << 20);
            assert_eq!(ranges.iter().map(|(_, length)| length).sum::<u64>(), mib << 20);
            assert!(ranges.iter().all(|(start, length)| start + length <= RAM_GAP || *start >= RAM_ABOVE_4G));
        }
    }
}
