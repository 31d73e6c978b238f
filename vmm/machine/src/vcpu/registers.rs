//! The state in which a vCPU enters the kernel: 64-bit mode, flat segments, the
//! first GiB mapped to itself, interrupts off (Linux
//! Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use kvm_bindings::{CpuId, Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_xcrs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};
use vmrun_devices::Memory;

use crate::error::KvmError;
use crate::layout;

/// Where and with what the first vCPU starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) rip: u64,
    pub(crate) rsi: u64,
}

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 is always set.
const RFLAGS: u64 = 2;

const PAGE_PRESENT_WRITABLE: u64 = 0b11;
const PAGE_HUGE: u64 = 1 << 7;

/// Segment types: code, execute/read; data, read/write; busy TSS.
const CODE: u8 = 0xb;
const DATA: u8 = 0x3;
const TSS: u8 = 0xb;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

/// Local vector table registers of the local APIC (Intel SDM 3A, 11.5.1).
const APIC_LVT0: usize = 0x350;
const APIC_LVT1: usize = 0x360;
const APIC_MODE_NMI: u8 = 0x4;
const APIC_MODE_EXTINT: u8 = 0x7;

/// Writes page tables and GDT into guest memory.
pub(crate) fn write_tables(memory: &Memory) -> Result<(), vm_memory::GuestMemoryError> {
    memory.write_obj(layout::PDPT | PAGE_PRESENT_WRITABLE, GuestAddress(layout::PML4))?;
    memory.write_obj(layout::PD | PAGE_PRESENT_WRITABLE, GuestAddress(layout::PDPT))?;
    for index in 0..512u64 {
        let entry = index << 21 | PAGE_HUGE | PAGE_PRESENT_WRITABLE;
        memory.write_obj(entry, GuestAddress(layout::PD + index * 8))?;
    }
    let table =
        [0, descriptor(&segment(1, CODE)), descriptor(&segment(2, DATA)), descriptor(&segment(3, TSS))];
    for (address, entry) in (layout::GDT..).step_by(8).zip(table) {
        memory.write_obj(entry, GuestAddress(address))?;
    }
    memory.write_obj(0u64, GuestAddress(layout::IDT))
}

/// Puts the first vCPU at the kernel's entry.
pub(crate) fn set_boot_state(vcpu: &VcpuFd, entry: Entry) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs().map_err(KvmError::call("read a vCPU's registers"))?;
    let data = segment(2, DATA);
    sregs.cs = segment(1, CODE);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(3, TSS);
    (sregs.gdt.base, sregs.gdt.limit) = (layout::GDT, 31);
    (sregs.idt.base, sregs.idt.limit) = (layout::IDT, 7);
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = layout::PML4;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).map_err(KvmError::call("set a vCPU's system registers"))?;

    let regs = kvm_regs {
        rflags: RFLAGS,
        rip: entry.rip,
        rsi: entry.rsi,
        rsp: layout::BOOT_STACK,
        rbp: layout::BOOT_STACK,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(KvmError::call("set a vCPU's registers"))?;
    // The values after `fninit` and at reset.
    let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(KvmError::call("set a vCPU's floating point unit"))?;
    set_msrs(vcpu)
}

/// What firmware does on every CPU before it hands over: wires the local APIC's
/// pins, turns caching on, and enables the state components that `cpuid` lists.
pub(crate) fn set_firmware_state(vcpu: &VcpuFd, cpuid: &CpuId) -> Result<(), KvmError> {
    enable_xsave_components(vcpu, cpuid)?;
    let mut lapic = vcpu.get_lapic().map_err(KvmError::call("read a vCPU's local APIC"))?;
    for (register, mode) in [(APIC_LVT0, APIC_MODE_EXTINT), (APIC_LVT1, APIC_MODE_NMI)] {
        // Bits 8 to 10 of the register, so bits 0 to 2 of its second byte.
        if let Some(byte) = lapic.regs.get_mut(register + 1) {
            let value = byte.to_le_bytes()[0] & !0x7 | mode;
            *byte = std::ffi::c_char::from_le_bytes([value]);
        }
    }
    vcpu.set_lapic(&lapic).map_err(KvmError::call("set a vCPU's local APIC"))?;
    set_msrs(vcpu)
}

/// Sets XCR0 to all that the CPU offers. The kernel writes the same value, but an
/// emulated AMD-V (QEMU's, as of 7.2) does not intercept that write: KVM would go
/// on with the reset value and the guest lose its SSE registers at every exit.
fn enable_xsave_components(vcpu: &VcpuFd, cpuid: &CpuId) -> Result<(), KvmError> {
    const XSAVE_LEAF: u32 = 0xd;
    let leaf = cpuid.as_slice().iter().find(|entry| entry.function == XSAVE_LEAF && entry.index == 0);
    let Some(leaf) = leaf else { return Ok(()) };
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0].value = u64::from(leaf.edx) << 32 | u64::from(leaf.eax);
    vcpu.set_xcrs(&xcrs).map_err(KvmError::call("set a vCPU's extended control register"))
}

fn set_msrs(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let entries = [
        entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK),
    ];
    let act = "set a vCPU's model-specific registers";
    let msrs = Msrs::from_entries(&entries).map_err(|_| KvmError::Capability("model-specific registers"))?;
    let set = vcpu.set_msrs(&msrs).map_err(KvmError::call(act))?;
    if set == entries.len() { Ok(()) } else { Err(KvmError::Capability("the registers for caching (MTRR)")) }
}

/// A flat 4 GiB segment, or the TSS, behind GDT entry `index`.
fn segment(index: u16, type_: u8) -> kvm_segment {
    let system = index == 3;
    kvm_segment {
        base: 0,
        limit: 0xfffff,
        selector: index * 8,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(index == 2),
        s: u8::from(!system),
        l: u8::from(index == 1),
        g: 1,
        ..Default::default()
    }
}

/// The eight bytes of a segment in the GDT (Intel SDM 3A, 3.4.5); bases are zero here.
fn descriptor(segment: &kvm_segment) -> u64 {
    let access = segment.type_ | segment.s << 4 | segment.dpl << 5 | segment.present << 7;
    let flags = segment.avl | segment.l << 1 | segment.db << 2 | segment.g << 3;
    let limit = u64::from(segment.limit);
    limit & 0xffff | u64::from(access) << 40 | (limit >> 16 & 0xf) << 48 | u64::from(flags) << 52
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_a_flat_64_bit_kernel() {
        assert_eq!(descriptor(&segment(1, CODE)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&segment(2, DATA)), 0x00cf_9300_0000_ffff);
    }

    #[test]
    fn tables_map_the_first_gib_to_itself() {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_tables(&memory).unwrap();
        let read = |address| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        assert_eq!(read(layout::PML4), layout::PDPT | 3);
        assert_eq!(read(layout::PDPT), layout::PD | 3);
        assert_eq!(read(layout::PD + 8 * 511), 511 << 21 | 0x83);
    }
}
