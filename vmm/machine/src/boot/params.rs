//! `struct boot_params`, the "zero page" (Linux Documentation/arch/x86/zero-page.rst).

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::GuestAddress;
use vmrun_devices::Memory;

use crate::boot::{Initramfs, Kernel};
use crate::error::BootError;
use crate::layout;

const E820_RAM: u32 = 1;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// "Undefined" boot loader.
const LOADER_TYPE: u8 = 0xff;
/// A boot protocol version with everything that is used here (2.15).
const PROTOCOL: u16 = 0x020f;
const KERNEL_ALIGNMENT: u32 = 0x20_0000;

/// Writes the zero page for a machine with `ram` bytes.
pub(crate) fn write_params(
    memory: &Memory,
    kernel: &Kernel,
    initramfs: Initramfs,
    ram: u64,
) -> Result<(), BootError> {
    let params = build(kernel, initramfs, ram);
    let boot = BootParams::new(&params, GuestAddress(layout::ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&boot, memory).map_err(BootError::Params)
}

fn build(kernel: &Kernel, initramfs: Initramfs, ram: u64) -> boot_params {
    let mut params = boot_params {
        hdr: kernel.setup.unwrap_or(setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            version: PROTOCOL,
            kernel_alignment: KERNEL_ALIGNMENT,
            ..Default::default()
        }),
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_TYPE;
    params.hdr.cmd_line_ptr = u32::try_from(layout::CMDLINE).unwrap_or(0);
    params.hdr.ramdisk_image = initramfs.address;
    params.hdr.ramdisk_size = initramfs.length;
    let low = [
        (0, layout::LOW_RAM_END),
        (layout::HIGH_RAM, ram.min(layout::RAM_GAP).saturating_sub(layout::HIGH_RAM)),
    ];
    let high = layout::ram_ranges(ram).into_iter().skip(1);
    let mut count = 0;
    for (entry, (addr, size)) in params.e820_table.iter_mut().zip(low.into_iter().chain(high)) {
        *entry = boot_e820_entry { addr, size, type_: E820_RAM };
        count += 1;
    }
    params.e820_entries = count;
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ram: u64) -> Vec<(u64, u64)> {
        let kernel = Kernel { entry: 0, end: 0, setup: None };
        let params = build(&kernel, Initramfs { address: 1, length: 2 }, ram);
        let entries = params.e820_table;
        entries.iter().take(params.e820_entries.into()).map(|entry| (entry.addr, entry.size)).collect()
    }

    #[test]
    fn memory_map_leaves_out_bios_area_and_gap() {
        assert_eq!(map(256 << 20), [(0, 0x9fc00), (1 << 20, 255 << 20)]);
        assert_eq!(map(4 << 30), [(0, 0x9fc00), (1 << 20, (3 << 30) - (1 << 20)), (4 << 30, 1 << 30)]);
    }
}
