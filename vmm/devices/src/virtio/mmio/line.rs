//! The interrupt line of one device.

use std::sync::Arc;

use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING,
    VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS,
};
use vmm_sys_util::eventfd::EventFd;

use super::register_page::RegisterPage;
use crate::virtio::notify::Notify;

/// Where the device's own configuration starts (§4.2.2).
const CONFIG_OFFSET: usize = VIRTIO_MMIO_CONFIG as usize;

/// The line, and the two registers that workers change: `InterruptStatus` and `Status` (§4.2.2). Of
/// the latter they only ever add `DEVICE_NEEDS_RESET`.
#[derive(Debug)]
pub(super) struct Line {
    event: EventFd,
    registers: Arc<RegisterPage>,
}

impl Line {
    /// A line that writes to `event`, which the machine ties to the interrupt controller.
    pub(super) fn new(event: EventFd, registers: Arc<RegisterPage>) -> Self {
        Self { event, registers }
    }

    pub(super) fn event(&self) -> &EventFd {
        &self.event
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.registers.clear_bits(VIRTIO_MMIO_INTERRUPT_STATUS, bits);
    }

    pub(super) fn status(&self) -> u32 {
        self.registers.load(VIRTIO_MMIO_STATUS)
    }

    pub(super) fn set_status(&self, status: u32) {
        self.registers.store(VIRTIO_MMIO_STATUS, status);
    }

    pub(super) fn reset(&self) {
        self.registers.store(VIRTIO_MMIO_INTERRUPT_STATUS, 0);
        self.registers.store(VIRTIO_MMIO_STATUS, 0);
    }

    /// Shows the driver another configuration. The generation comes behind the content: who reads
    /// the new one reads the new content after it.
    pub(super) fn publish(&self, config: &[u8], generation: u32) {
        self.registers.put(CONFIG_OFFSET, config);
        self.registers.store(VIRTIO_MMIO_CONFIG_GENERATION, generation);
        self.config();
    }

    fn raise(&self, bits: u32) {
        self.registers.set_bits(VIRTIO_MMIO_INTERRUPT_STATUS, bits);
        // An eventfd write fails only when the counter is full, and then the
        // line is raised already.
        let _ = self.event.write(1);
    }
}

impl Notify for Line {
    fn used(&self, _queue: u16) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    fn config(&self) {
        // One that is not ready yet reads the configuration when it is (§3.1.1).
        if self.status() & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            self.raise(VIRTIO_MMIO_INT_CONFIG);
        }
    }

    fn needs_reset(&self) {
        self.registers.set_bits(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }
}
