//! How a device interrupts the guest.

use std::error::Error;
use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS,
};
use vmm_sys_util::eventfd::EventFd;

use crate::failure::FailureSink;
use crate::virtio::RegisterPage;

/// The interrupt line of one device, shared by its transport and its workers,
/// and the two registers that workers change: `InterruptStatus` and `Status`
/// (virtio 1.2, §4.2.2). Of the latter they only ever add `DEVICE_NEEDS_RESET`.
#[derive(Clone, Debug)]
pub struct Interrupt {
    line: Arc<EventFd>,
    registers: Arc<RegisterPage>,
    failures: FailureSink,
}

impl Interrupt {
    /// An interrupt that writes to `line`, which the machine ties to the interrupt controller.
    pub fn new(line: EventFd, registers: Arc<RegisterPage>, failures: FailureSink) -> Self {
        Self { line: Arc::new(line), registers, failures }
    }

    /// Tells the driver that buffers were used.
    pub fn signal_used(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    /// The device cannot go on: tells the driver, which need not care, and the machine's owner.
    pub fn fail(&self, device: &str, error: &dyn Error) {
        self.registers.set_bits(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
        self.failures.report(device, error);
    }

    /// The event that carries the interrupt to the interrupt controller.
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    pub(crate) fn acknowledge(&self, bits: u32) {
        self.registers.clear_bits(VIRTIO_MMIO_INTERRUPT_STATUS, bits);
    }

    pub(crate) fn status(&self) -> u32 {
        self.registers.load(VIRTIO_MMIO_STATUS)
    }

    pub(crate) fn set_status(&self, status: u32) {
        self.registers.store(VIRTIO_MMIO_STATUS, status);
    }

    pub(crate) fn reset(&self) {
        self.registers.store(VIRTIO_MMIO_INTERRUPT_STATUS, 0);
        self.registers.store(VIRTIO_MMIO_STATUS, 0);
    }

    fn raise(&self, bits: u32) {
        self.registers.set_bits(VIRTIO_MMIO_INTERRUPT_STATUS, bits);
        // An eventfd write fails only when the counter is full, and then the
        // line is raised already.
        let _ = self.line.write(1);
    }
}
