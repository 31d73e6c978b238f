//! The KVM machine.

use std::os::fd::BorrowedFd;

use vmrun_spec::MachineSpec;

/// The bytes of the boot images.
#[derive(Clone, Copy, Debug)]
pub struct BootImages<'a> {
    /// ELF `vmlinux` or `bzImage`.
    pub kernel: &'a [u8],
    /// cpio archive.
    pub initramfs: &'a [u8],
}

/// Why a machine could not be built or started.
#[derive(Debug, thiserror::Error)]
#[error("machine")]
pub struct MachineError;

/// How a machine ended by itself.
#[derive(Debug)]
pub enum MachineEnd {
    /// The guest asked for a reset or a power-off.
    Reset,
    /// KVM or a device failed; one line.
    Failed(String),
}

/// A machine whose memory is loaded and whose devices exist; nothing runs yet.
#[derive(Debug)]
pub struct Built;

/// A machine whose vCPUs run.
#[derive(Debug)]
pub struct Running;

impl Built {
    /// Opens `/dev/kvm`, loads memory, makes the devices.
    pub fn new(_spec: &MachineSpec, _images: BootImages<'_>) -> Result<Self, MachineError> {
        Err(MachineError)
    }

    /// Starts the vCPUs and the device loop.
    pub fn start(self) -> Result<Running, MachineError> {
        Err(MachineError)
    }
}

impl Running {
    /// Readable once the machine has ended by itself: for `poll`.
    pub fn ended_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// How it ended, once it has.
    pub fn end(&self) -> Option<MachineEnd> {
        None
    }

    /// Stops the vCPUs and the devices and joins every thread.
    pub fn stop(self) {}
}
