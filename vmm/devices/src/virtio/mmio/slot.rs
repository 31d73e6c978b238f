//! A window of the machine, into which a device may be put while the guest runs.

use std::sync::Arc;

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_VERSION};

use super::register_page::RegisterPage;
use super::transport::{MAGIC, MmioTransport, VERSION};
use crate::mmio_bus::MmioDevice;

/// The window. Empty it reads as device id 0, which drivers take for a placeholder (§4.2.2),
/// and swallows writes.
#[derive(Debug)]
pub struct Slot {
    page: Arc<RegisterPage>,
    transport: Option<MmioTransport>,
}

impl Slot {
    /// An empty window that the guest reads in `page`.
    pub fn new(page: RegisterPage) -> Self {
        let slot = Self { page: Arc::new(page), transport: None };
        slot.show_placeholder();
        slot
    }

    /// The page: where the registers of a device that is put in have to be.
    pub fn page(&self) -> &Arc<RegisterPage> {
        &self.page
    }

    /// The device that is in it.
    pub fn transport_mut(&mut self) -> Option<&mut MmioTransport> {
        self.transport.as_mut()
    }

    /// Puts a device in, whose registers are in this window's page, and drops what was there.
    pub fn put(&mut self, transport: MmioTransport) {
        self.transport = Some(transport);
    }

    /// Takes the device out. The guest reaches it no more; it works until it is dropped, which
    /// waits for its thread.
    pub fn take(&mut self) -> Option<MmioTransport> {
        let taken = self.transport.take()?;
        taken.withdraw();
        self.show_placeholder();
        Some(taken)
    }

    fn show_placeholder(&self) {
        self.page.clear();
        self.page.store(VIRTIO_MMIO_MAGIC_VALUE, MAGIC);
        self.page.store(VIRTIO_MMIO_VERSION, VERSION);
    }
}

impl MmioDevice for Slot {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.page.read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(transport) = &mut self.transport {
            transport.write(offset, data);
        }
    }
}
