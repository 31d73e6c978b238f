//! Why a machine could not be built or started.

use std::io;

use vmrun_devices::ThreadError;
use vmrun_devices::virtio::ChangeError;
use vmrun_spec::Slot;

use crate::snapshot::SnapshotError;

/// Building or starting a machine failed.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The specification asks for something no machine can be.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// `/dev/kvm`, or a call to it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel, boot image, boot parameters.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Devices.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Threads.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// What it was to go on from.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// The specification asks for something no machine can be.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// vCPUs.
    #[error("a machine cannot have {asked} vCPUs; ask for 1 to {most}")]
    Vcpus {
        /// What was asked for.
        asked: u8,
        /// The limit.
        most: usize,
    },
    /// Memory.
    #[error("{asked} MiB of memory are too small to boot; give the sandbox at least {least} MiB")]
    Memory {
        /// What was asked for.
        asked: u32,
        /// The limit.
        least: u64,
    },
    /// Devices.
    #[error("a machine has interrupts for {most} devices, and {asked} were asked for")]
    Devices {
        /// What was asked for.
        asked: usize,
        /// The limit.
        most: u8,
    },
}

/// `/dev/kvm`, or a call to it.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no `/dev/kvm`.
    #[error(
        "cannot open /dev/kvm: No such file or directory; load the module kvm_intel or kvm_amd, or enable nested virtualization where this is a virtual machine"
    )]
    Missing,
    /// It may not be opened.
    #[error("cannot open /dev/kvm: Permission denied; run as root or add the user to the group that owns it")]
    Forbidden,
    /// It could not be opened.
    #[error("cannot open /dev/kvm: {0}; run `vmrun check`")]
    Open(#[source] io::Error),
    /// It is another interface.
    #[error(
        "/dev/kvm speaks version {0} of the KVM interface where 12 is needed; the host's kernel is too old or not Linux"
    )]
    Version(i32),
    /// It lacks something.
    #[error("/dev/kvm does not offer {0}, without which a guest cannot run; run `vmrun check`")]
    Capability(&'static str),
    /// It runs no guest kernel.
    #[error("{0}")]
    Unusable(String),
    /// A call failed.
    #[error("KVM refuses to {act}: {source}; run `vmrun check`")]
    Call {
        /// What was to be done.
        act: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl KvmError {
    /// For `map_err` of a call to KVM that was to `act`.
    pub(crate) fn call<E: Into<io::Error>>(act: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Call { act, source: source.into() }
    }
}

impl From<kvm_ioctls::Error> for KvmError {
    /// Of opening `/dev/kvm`.
    fn from(error: kvm_ioctls::Error) -> Self {
        match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => Self::Missing,
            libc::EACCES | libc::EPERM => Self::Forbidden,
            _ => Self::Open(error.into()),
        }
    }
}

/// Guest memory could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot map {mib} MiB of guest memory: {source}; ask for less memory or free some")]
pub struct MemoryError {
    pub(crate) mib: u32,
    pub(crate) source: io::Error,
}

/// The boot images or parameters are no good.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel file is not one.
    #[error(
        "the kernel image is neither an ELF vmlinux nor a bzImage for x86_64; give --kernel another file"
    )]
    NotAKernel,
    /// It cannot be loaded.
    #[error("cannot load the kernel image: {0}; give --kernel another file")]
    Kernel(#[source] linux_loader::loader::Error),
    /// A bzImage without a 64-bit entry.
    #[error(
        "the bzImage has no 64-bit entry point; build it for x86_64 with CONFIG_RELOCATABLE, or use the vmlinux"
    )]
    No64BitEntry,
    /// Kernel and boot image do not fit.
    #[error("kernel and boot image need {needed} MiB and the sandbox has {given} MiB; give it more memory")]
    TooSmall {
        /// What both need, without any room to work.
        needed: u64,
        /// What there is.
        given: u64,
    },
    /// The command line is too long or has characters that it must not have.
    #[error("the kernel command line is not valid: {0}; shorten or correct the kernel parameters")]
    Cmdline(#[source] linux_loader::cmdline::Error),
    /// Guest memory could not be written: a layout that does not fit.
    #[error("cannot write the boot parameters into guest memory")]
    Write(#[from] vm_memory::GuestMemoryError),
    /// Boot parameters could not be written.
    #[error("cannot write the boot parameters into guest memory: {0}")]
    Params(#[source] linux_loader::configurator::Error),
}

/// A device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The console log.
    #[error("cannot make the console log {path}: {source}")]
    Console {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The event loop.
    #[error(transparent)]
    Loop(#[from] vmrun_devices::LoopError),
    /// virtio-vsock.
    #[error(transparent)]
    Vsock(#[from] vmrun_devices::virtio::vsock::VsockError),
    /// virtio-fs.
    #[error(transparent)]
    Fs(#[from] vmrun_devices::virtio::fs::FsError),
    /// Registers.
    #[error(transparent)]
    Transport(#[from] vmrun_devices::virtio::mmio::TransportError),
    /// The pages of the registers.
    #[error("cannot make the pages of the registers: {0}")]
    Registers(#[source] io::Error),
    /// virtio-net.
    #[error(transparent)]
    Net(#[from] vmrun_devices::virtio::net::NetError),
    /// virtio-blk.
    #[error(transparent)]
    Block(#[from] vmrun_devices::virtio::block::BlockError),
    /// A descriptor that did not come with the specification.
    #[error("a {device} needs a {handle}, and none was handed in")]
    Handle {
        /// For what.
        device: &'static str,
        /// Which.
        handle: &'static str,
    },
    /// An event.
    #[error("cannot make a device's interrupt: {0}")]
    Event(#[source] io::Error),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// A device could not be plugged in, unplugged or changed.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// It has one.
    #[error("{0} has a device already; unplug it first")]
    Occupied(Slot),
    /// It has none.
    #[error("{0} has no device; plug one in first")]
    Empty(Slot),
    /// The device could not be made.
    #[error("cannot plug a device into {slot}")]
    Device {
        /// Where.
        slot: Slot,
        /// Why.
        source: DeviceError,
    },
    /// The device is not of that kind.
    #[error("cannot change the device in {slot}")]
    Change {
        /// Where.
        slot: Slot,
        /// Why.
        source: ChangeError,
    },
}
