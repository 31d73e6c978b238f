//! What the thread may do that owns a machine: answer for it, and plug devices in while its guest runs.

use kvm_bindings::{
    KVMIO, kvm_clock_data, kvm_debugregs, kvm_ioeventfd, kvm_irqfd, kvm_lapic_state, kvm_mp_state, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use libc::SYS_ioctl;
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};
use vmrun_devices::virtio::{block, net};
use vmrun_devices::{Call, ThreadClass};

use crate::vcpu::size;

/// The owner of a machine that nobody saves any more.
pub const OWNER: ThreadClass = ThreadClass::owner(&[net::CALLS, net::TAP, block::CALLS, WIRING]);

/// The owner of one that is to be saved: it reads all of it, and writes that to files that are open.
pub const SAVER: ThreadClass = ThreadClass::owner(&[net::CALLS, net::TAP, block::CALLS, WIRING, SAVING]);

/// The owner of one whose working set is to be recorded: it reads which pages there are, from a file that is open.
pub const RECORDER: ThreadClass =
    ThreadClass::owner(&[net::CALLS, net::TAP, block::CALLS, WIRING, &[Call::Any(libc::SYS_pread64)]]);

/// `KVM_IRQFD` and `KVM_IOEVENTFD`.
const WIRING: &[Call] = &[Call::OneOf(
    SYS_ioctl,
    1,
    &[
        ioctl_expr(_IOC_WRITE, KVMIO, 0x76, size::<kvm_irqfd>()),
        ioctl_expr(_IOC_WRITE, KVMIO, 0x79, size::<kvm_ioeventfd>()),
    ],
)];

/// The pages that there are, the pages themselves, and the state of vCPUs. To finish an access takes a `KVM_RUN`.
const SAVING: &[Call] =
    &[Call::Any(libc::SYS_pread64), Call::Any(libc::SYS_pwrite64), Call::OneOf(SYS_ioctl, 1, READING)];

/// `KVM_RUN`, and `KVM_GET_` of registers, special registers, model-specific registers, APIC, state, events, debug
/// registers, frequency, extended state, control registers of that, and the clock.
const READING: &[u64] = &[
    ioctl_expr(_IOC_NONE, KVMIO, 0x80, 0),
    ioctl_expr(_IOC_READ, KVMIO, 0x81, size::<kvm_regs>()),
    ioctl_expr(_IOC_READ, KVMIO, 0x83, size::<kvm_sregs>()),
    // The number counts the list's head alone.
    ioctl_expr(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8),
    ioctl_expr(_IOC_READ, KVMIO, 0x8e, size::<kvm_lapic_state>()),
    ioctl_expr(_IOC_READ, KVMIO, 0x98, size::<kvm_mp_state>()),
    ioctl_expr(_IOC_READ, KVMIO, 0x9f, size::<kvm_vcpu_events>()),
    ioctl_expr(_IOC_READ, KVMIO, 0xa1, size::<kvm_debugregs>()),
    ioctl_expr(_IOC_NONE, KVMIO, 0xa3, 0),
    ioctl_expr(_IOC_READ, KVMIO, 0xa4, size::<kvm_xsave>()),
    ioctl_expr(_IOC_READ, KVMIO, 0xa6, size::<kvm_xcrs>()),
    ioctl_expr(_IOC_READ, KVMIO, 0x7c, size::<kvm_clock_data>()),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_kernels_header() {
        let Call::OneOf(_, _, wiring) = WIRING[0] else { panic!("{WIRING:?}") };
        assert_eq!(wiring, [0x4020_ae76, 0x4040_ae79]);
        let reading = [
            0xae80,
            0x8090_ae81,
            0x8138_ae83,
            0xc008_ae88,
            0x8400_ae8e,
            0x8004_ae98,
            0x8040_ae9f,
            0x8080_aea1,
            0xaea3,
            0x9000_aea4,
            0x8188_aea6,
            0x8030_ae7c,
        ];
        assert_eq!(READING, reading);
    }
}
