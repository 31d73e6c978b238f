//! A virtual machine whose end nobody waits for.
//!
//! KVM waits for the kernel's readers (RCU) when it destroys a virtual machine (`kvm_mmu_uninit_tdp_mmu`, arch/x86/kvm/mmu/tdp_mmu.c):
//! ten milliseconds and more in which nothing is done, spent by the process that closes its last descriptor, and so by whoever waits
//! for that process. What is registered with an io_uring is closed by a thread of the kernel's (`io_ring_exit_work`,
//! io_uring/io_uring.c). So a ring that never does anything else holds the virtual machine, too.

use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;

use io_uring::IoUring;
use kvm_ioctls::VmFd;

/// It ends with its process: no vCPU can run, and the guest's memory is unmapped. The kernel destroys it a while later.
pub(crate) struct VirtualMachine {
    fd: VmFd,
    /// Where the host lets nobody have a ring, the process waits.
    _holder: Option<IoUring>,
}

impl VirtualMachine {
    pub(crate) fn new(fd: VmFd) -> Self {
        let holder = holder(&fd).ok();
        Self { fd, _holder: holder }
    }
}

/// A ring that holds what `fd` is of, and that nobody can enable.
fn holder(fd: &VmFd) -> io::Result<IoUring> {
    let ring = IoUring::builder().setup_r_disabled().build(1)?;
    ring.submitter().register_files(&[fd.as_raw_fd()])?;
    Ok(ring)
}

impl Deref for VirtualMachine {
    type Target = VmFd;

    fn deref(&self) -> &VmFd {
        &self.fd
    }
}

impl std::fmt::Debug for VirtualMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtualMachine").field("fd", &self.fd).finish_non_exhaustive()
    }
}
