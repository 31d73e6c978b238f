//! What a vCPU's thread may do besides computing: run the guest, and answer its exits.

use std::ffi::c_uint;

use kvm_bindings::{KVMIO, kvm_irq_routing, kvm_regs};
use libc::SYS_ioctl;
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};
use vmrun_devices::{Call, ThreadClass};

/// No capability: KVM asks for none once `/dev/kvm` is open.
pub(super) const VCPU: ThreadClass =
    ThreadClass::without_capabilities(&[Call::OneOf(SYS_ioctl, 1, REQUESTS)]);

/// `KVM_RUN`; `KVM_SET_GSI_ROUTING`, which the I/O APIC needs when the guest programs it; and
/// `KVM_GET_REGS`, to say where the guest was when KVM could not go on.
const REQUESTS: &[u64] = &[
    ioctl_expr(_IOC_NONE, KVMIO, 0x80, 0),
    ioctl_expr(_IOC_WRITE, KVMIO, 0x6a, size::<kvm_irq_routing>()),
    ioctl_expr(_IOC_READ, KVMIO, 0x81, size::<kvm_regs>()),
];

/// The size of a request's argument, which is part of its number.
#[allow(clippy::cast_possible_truncation)]
pub(crate) const fn size<T>() -> c_uint {
    size_of::<T>() as c_uint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_kernels_header() {
        assert_eq!(REQUESTS, [0xae80, 0x4008_ae6a, 0x8090_ae81]);
    }
}
