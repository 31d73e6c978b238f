//! The MP table: how a kernel without ACPI learns of its CPUs and of the I/O
//! APIC (Intel MultiProcessor Specification 1.4, chapter 4).

use crate::layout;

const SPEC_REVISION: u8 = 4;
const APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
const HEADER_BYTES: usize = 44;

/// Entry types (table 4-3).
mod entry {
    pub(super) const PROCESSOR: u8 = 0;
    pub(super) const BUS: u8 = 1;
    pub(super) const IO_APIC: u8 = 2;
    pub(super) const IO_INTERRUPT: u8 = 3;
    pub(super) const LOCAL_INTERRUPT: u8 = 4;
}

/// Interrupt types (table 4-11).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// The table for `vcpus` CPUs, to be put at [`layout::MP_TABLE`]: the floating
/// pointer, then the configuration table.
///
/// Only interrupts that exist are in it: the kernel remembers something of each.
pub(crate) fn mp_table(vcpus: u8, irqs: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count: u16 = 0;
    let mut add = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..vcpus {
        const ENABLED: u8 = 1;
        const BOOT: u8 = 2;
        let flags = if id == 0 { ENABLED | BOOT } else { ENABLED };
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&[entry::PROCESSOR, id, APIC_VERSION, flags]);
        add(&bytes);
    }
    // Ids of local and I/O APICs share one space.
    let io_apic = vcpus;
    add(&[entry::BUS, 0, b'I', b'S', b'A', b' ', b' ', b' ']);
    let address = layout::IO_APIC.to_le_bytes();
    add(&[entry::IO_APIC, io_apic, IO_APIC_VERSION, 1, address[0], address[1], address[2], address[3]]);
    for irq in irqs {
        add(&[entry::IO_INTERRUPT, INT, 0, 0, 0, irq, io_apic, irq]);
    }
    add(&[entry::LOCAL_INTERRUPT, EXT_INT, 0, 0, 0, 0, 0, 0]);
    add(&[entry::LOCAL_INTERRUPT, NMI, 0, 0, 0, 0, 0xff, 1]);

    let pointer_bytes = 16;
    let mut table = pointer(layout::MP_TABLE + pointer_bytes);
    table.extend(configuration(&entries, count));
    table
}

fn pointer(table: u64) -> Vec<u8> {
    let mut bytes = b"_MP_".to_vec();
    bytes.extend_from_slice(&table.to_le_bytes()[..4]);
    // Length in 16 bytes, revision, checksum, five feature bytes.
    bytes.extend_from_slice(&[1, SPEC_REVISION, 0, 0, 0, 0, 0, 0]);
    bytes[10] = checksum(&bytes);
    bytes
}

fn configuration(entries: &[u8], count: u16) -> Vec<u8> {
    let length = u16::try_from(HEADER_BYTES + entries.len()).unwrap_or(u16::MAX);
    let mut bytes = b"PCMP".to_vec();
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&[SPEC_REVISION, 0]);
    bytes.extend_from_slice(b"VMRUN   MICROVM     ");
    bytes.extend_from_slice(&[0; 6]); // no OEM table
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&layout::LOCAL_APIC.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]); // no extended entries
    bytes.extend_from_slice(entries);
    bytes[7] = checksum(&bytes);
    bytes
}

/// The byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, &byte| sum.wrapping_add(byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, &byte| sum.wrapping_add(byte))
    }

    proptest! {
        #[test]
        fn table_is_consistent_for_any_machine(vcpus in 1u8..=64, devices in 0u8..19) {
            let table = mp_table(vcpus, 5..5 + devices);
            let (pointer, config) = table.split_at(16);
            prop_assert!(pointer.starts_with(b"_MP_") && sum(pointer) == 0);
            prop_assert_eq!(u32::from_le_bytes(pointer[4..8].try_into().unwrap()), 0xf0010);
            prop_assert!(config.starts_with(b"PCMP") && sum(config) == 0);
            prop_assert_eq!(usize::from(u16::from_le_bytes(config[4..6].try_into().unwrap())), config.len());
            let mut rest = &config[HEADER_BYTES..];
            let mut counted = 0;
            let mut processors = 0;
            while let Some(kind) = rest.first() {
                processors += u32::from(*kind == entry::PROCESSOR);
                rest = &rest[if *kind == entry::PROCESSOR { 20 } else { 8 }..];
                counted += 1;
            }
            prop_assert_eq!(processors, u32::from(vcpus));
            prop_assert_eq!(u16::from_le_bytes(config[34..36].try_into().unwrap()), counted);
            prop_assert!(table.len() < 0x10000);
        }
    }
}
