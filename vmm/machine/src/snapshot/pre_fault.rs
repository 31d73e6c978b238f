//! Guest memory that KVM maps before the guest touches it (`KVM_PRE_FAULT_MEMORY`, Linux 6.11;
//! Documentation/virt/kvm/api.rst, 4.143).
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;

use kvm_bindings::{KVM_CAP_PRE_FAULT_MEMORY, KVMIO, kvm_pre_fault_memory};
use kvm_ioctls::{Kvm, VcpuFd};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, KVMIO, 0xd5, kvm_pre_fault_memory);

/// A call ends early where a signal comes or the host changes its mappings meanwhile.
const MOST_CALLS: usize = 64;

/// Whether this host's KVM can.
pub(crate) fn is_possible(kvm: &Kvm) -> bool {
    kvm.check_extension_raw(KVM_CAP_PRE_FAULT_MEMORY.into()) > 0
}

/// Maps these bytes of guest physical addresses, whole pages, for all vCPUs of the machine. What the host may write to the guest
/// may write to without a fault, too.
///
/// # Errors
/// KVM cannot, or there is no memory of the machine's at an address: what comes before it is mapped.
pub(super) fn map(vcpu: &VcpuFd, range: Range<u64>) -> io::Result<()> {
    let mut left =
        kvm_pre_fault_memory { gpa: range.start, size: range.end - range.start, ..Default::default() };
    for _ in 0..MOST_CALLS {
        // SAFETY: the descriptor is a vCPU's, and the kernel reads and writes the range, which lives here. Mapping memory that is the
        // machine's already changes nothing that a program can see.
        if unsafe { ioctl_with_mut_ref(vcpu, KVM_PRE_FAULT_MEMORY(), &mut left) } < 0 {
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => {}
                _ => return Err(error),
            }
        }
        // It has been told how far the kernel came.
        if left.size == 0 {
            return Ok(());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
