//! `/dev/kvm` and the virtual machine's file descriptor.
#![allow(unsafe_code)]

use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, KVM_MEM_READONLY, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{Address, GuestMemory, GuestMemoryRegion};
use vmrun_devices::Memory;
use vmrun_devices::virtio::mmio::RegisterBoard;

use crate::error::KvmError;
use crate::layout;
use crate::virtual_machine::VirtualMachine;

const API_VERSION: i32 = 12;

/// What must be there, and how to call it when it is not.
const CAPABILITIES: [(Cap, &str); 7] = [
    (Cap::SplitIrqchip, "local interrupt controllers (KVM_CAP_SPLIT_IRQCHIP)"),
    (Cap::UserMemory, "user memory (KVM_CAP_USER_MEMORY)"),
    (Cap::ReadonlyMem, "read-only memory (KVM_CAP_READONLY_MEM)"),
    (Cap::ExtCpuid, "CPUID (KVM_CAP_EXT_CPUID)"),
    (Cap::Ioeventfd, "I/O events (KVM_CAP_IOEVENTFD)"),
    (Cap::Irqfd, "interrupt events (KVM_CAP_IRQFD)"),
    (Cap::ImmediateExit, "immediate exits (KVM_CAP_IMMEDIATE_EXIT)"),
];

/// Opens `/dev/kvm` and checks that it can do what a machine needs.
pub(crate) fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new()?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(KvmError::Version(version));
    }
    match CAPABILITIES.iter().find(|(capability, _)| !kvm.check_extension(*capability)) {
        Some((_, name)) => Err(KvmError::Capability(name)),
        None => Ok(kvm),
    }
}

/// What a guest's CPUs may be on this host.
pub(crate) fn supported_cpuid(kvm: &Kvm) -> Result<CpuId, KvmError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(KvmError::call("tell what CPUs it supports"))
}

/// Makes a virtual machine whose local APICs are KVM's and whose I/O APIC, with
/// `inputs` inputs, is ours.
pub(crate) fn create_vm(kvm: &Kvm, inputs: u8) -> Result<VirtualMachine, KvmError> {
    let vm = kvm.create_vm().map_err(KvmError::call("make a virtual machine"))?;
    vm.set_tss_address(layout::KVM_TSS).map_err(KvmError::call("place its task state segment"))?;
    let mut split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
    split.args[0] = inputs.into();
    vm.enable_cap(&split).map_err(KvmError::call("make local interrupt controllers"))?;
    Ok(VirtualMachine::new(vm))
}

/// Gives the machine `memory`, which must stay mapped until the machine is gone.
pub(crate) fn set_memory(vm: &VmFd, memory: &Memory) -> Result<(), KvmError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let userspace_addr = memory
            .get_host_address(region.start_addr())
            .map_err(|_| KvmError::Capability("memory at the addresses of a PC"))?;
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: userspace_addr.expose_provenance().try_into().unwrap_or(u64::MAX),
            flags: 0,
        };
        // SAFETY: the range is a mapping that `memory` owns, regions do not
        // overlap, and `Built` and `Running` keep `memory` until the vCPUs, the
        // only ones that reach it through the slot, are gone.
        unsafe { vm.set_user_memory_region(region) }.map_err(KvmError::call("take the guest's memory"))?;
    }
    Ok(())
}

/// Where the registers are among KVM's slots of memory: behind the guest's.
const REGISTERS_SLOT: u32 = 8;

/// Shows the guest the registers of all devices from `address` on: reads are loads, writes are exits.
pub(crate) fn set_registers(vm: &VmFd, address: u64, board: &RegisterBoard) -> Result<(), KvmError> {
    let region = kvm_userspace_memory_region {
        slot: REGISTERS_SLOT,
        guest_phys_addr: address,
        memory_size: u64::try_from(board.bytes()).unwrap_or(0),
        userspace_addr: u64::try_from(board.host_address()).unwrap_or(u64::MAX),
        flags: KVM_MEM_READONLY,
    };
    // SAFETY: the mapping is kept by its pages in the slots, and those by the vCPUs' own bus until they
    // are gone; the guest can only read it, and nothing in it is secret.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(KvmError::call("show the guest the devices' registers"))
}
