//! Fields of `struct kvm_run` that kvm-ioctls does not decode.
#![allow(unsafe_code)]

use kvm_ioctls::VcpuFd;

/// The suberror of a `KVM_EXIT_INTERNAL_ERROR` that the vCPU's last run gave.
pub(crate) fn internal_suberror(vcpu: &mut VcpuFd) -> u32 {
    // SAFETY: the union is plain data that KVM has filled in, and every bit
    // pattern is a valid `u32`; with another exit reason the number means nothing.
    unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror }
}
