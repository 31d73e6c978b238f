//! Makes a vCPU thread leave `KVM_RUN`.
//!
//! A signal interrupts the call, but one that arrives just before the call would
//! be lost. So the handler also sets `immediate_exit` in the vCPU's `kvm_run`
//! (KVM API, §5), which makes the next call return at once. The handler finds
//! that `kvm_run` through a thread-local pointer.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{Ordering, fence};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    static RUN: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

/// The signal, to be sent to a vCPU's thread.
pub(super) fn signal() -> c_int {
    SIGRTMIN()
}

/// Installs the handler, once a process.
pub(super) fn install() -> Result<(), vmm_sys_util::errno::Error> {
    extern "C" fn handle(_: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // `try_with` neither allocates nor panics when the thread is ending.
        let _ = RUN.try_with(|run| {
            let run = run.get();
            if !run.is_null() {
                // SAFETY: `Kickable` points `RUN` at the mapping of this thread's vCPU and
                // clears it before the mapping goes away; the handler runs on that thread.
                unsafe { (&raw mut (*run).immediate_exit).write_volatile(1) };
                fence(Ordering::Release);
            }
        });
    }
    register_signal_handler(signal(), handle)
}

/// While it lives, the calling thread can be kicked out of this vCPU.
#[derive(Debug)]
pub(super) struct Kickable<'a> {
    vcpu: &'a mut VcpuFd,
}

impl<'a> Kickable<'a> {
    pub(super) fn new(vcpu: &'a mut VcpuFd) -> Self {
        let run = ptr::from_mut(vcpu.get_kvm_run());
        RUN.with(|cell| cell.set(run));
        Self { vcpu }
    }

    pub(super) fn vcpu(&mut self) -> &mut VcpuFd {
        self.vcpu
    }
}

impl Drop for Kickable<'_> {
    fn drop(&mut self) {
        RUN.with(|cell| cell.set(ptr::null_mut()));
    }
}
