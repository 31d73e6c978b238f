//! How a device interrupts the guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

/// The interrupt line of one device, shared by its transport and its workers.
#[derive(Clone, Debug)]
pub struct Interrupt {
    line: Arc<EventFd>,
    /// `InterruptStatus` register (virtio 1.2, §4.2.2).
    pending: Arc<AtomicU32>,
    /// `Status` register; workers only ever add `DEVICE_NEEDS_RESET`.
    status: Arc<AtomicU32>,
}

impl Interrupt {
    /// An interrupt that writes to `line`, which the machine ties to the interrupt controller.
    pub fn new(line: EventFd) -> Self {
        Self { line: Arc::new(line), pending: Arc::default(), status: Arc::default() }
    }

    /// Tells the driver that buffers were used.
    pub fn signal_used(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    /// Tells the driver that the device cannot go on without a reset.
    pub fn signal_needs_reset(&self) {
        self.status.fetch_or(VIRTIO_CONFIG_S_NEEDS_RESET, Ordering::SeqCst);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    /// The event that carries the interrupt to the interrupt controller.
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    pub(crate) fn pending(&self) -> u32 {
        self.pending.load(Ordering::SeqCst)
    }

    pub(crate) fn acknowledge(&self, bits: u32) {
        self.pending.fetch_and(!bits, Ordering::SeqCst);
    }

    pub(crate) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub(crate) fn set_status(&self, status: u32) {
        self.status.store(status, Ordering::SeqCst);
    }

    pub(crate) fn reset(&self) {
        self.pending.store(0, Ordering::SeqCst);
        self.status.store(0, Ordering::SeqCst);
    }

    fn raise(&self, bits: u32) {
        self.pending.fetch_or(bits, Ordering::SeqCst);
        // An eventfd write fails only when the counter is full, and then the
        // line is raised already.
        let _ = self.line.write(1);
    }
}
