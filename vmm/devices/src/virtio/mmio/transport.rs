//! The registers of one device (virtio 1.2, §4.2.2).
//!
//! The driver's status writes drive a small state machine (§3.1.1):
//!
//! ```text
//!  RESET -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK (device active)
//!    ^                                                 |
//!    +------------------- status = 0 ------------------+
//! ```
//!
//! A write that does not fit the state is ignored, as the specification allows,
//! so a hostile driver can confuse itself only.
//!
//! What the driver reads lies in a [`RegisterPage`], which a write brings up to date.

mod saved;

use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID,
    VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INT_VRING,
    VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
    VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW,
    VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_SHM_LEN_HIGH,
    VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Error as RingError, Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmrun_spec::DeviceChange;

use super::line::Line;
use super::register_page::RegisterPage;
use crate::failure::FailureSink;
use crate::memory::Memory;
use crate::mmio_bus::MmioDevice;
use crate::virtio::counters::{Counters, QueueCounters};
use crate::virtio::device::{ActivateError, Activation, ChangeError, VirtioDevice};
use crate::virtio::notify::Interrupt;
use crate::virtio::queue::{ActiveQueue, QueueError};

/// Offset of `QueueNotify`: a 32-bit write of the queue's number.
pub const NOTIFY_OFFSET: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// Offset of `InterruptACK`, and what a driver writes there that has seen used
/// buffers. Nothing need follow: the bit may stay set, since a driver that finds
/// it looks for used buffers and no more. So the machine need not even exit.
pub const ACKNOWLEDGE_USED: (u64, u32) = (VIRTIO_MMIO_INTERRUPT_ACK as u64, VIRTIO_MMIO_INT_VRING);

/// "virt", little-endian.
pub(super) const MAGIC: u32 = 0x7472_6976;
pub(super) const VERSION: u32 = 2;
/// Where the device's own configuration starts (§4.2.2).
const CONFIG_OFFSET: u64 = VIRTIO_MMIO_CONFIG as u64;
/// No vendor is registered for us; the number is "vmrn".
const VENDOR: u32 = 0x6e72_6d76;

/// Feature bits of every device: those of the ring.
const RING_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// One device behind its registers.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: Memory,
    registers: Arc<RegisterPage>,
    line: Arc<Line>,
    interrupt: Interrupt,
    counters: QueueCounters,
    queues: Vec<Queue>,
    kicks: Vec<EventFd>,
    queue_select: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    active: bool,
    /// The queues while the device stands still.
    suspended: Vec<ActiveQueue>,
}

impl std::fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioTransport")
            .field("device_type", &self.device.device_type())
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

/// Why the registers of a device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A queue size that is no power of two.
    #[error("the device asks for a queue that cannot be")]
    Queue(#[from] RingError),
    /// No event file descriptor could be had.
    #[error("cannot make an event for a queue")]
    Event(#[source] std::io::Error),
}

impl MmioTransport {
    /// Registers for `device` in a page, whose interrupts are written to `event`. Why it cannot go on,
    /// if ever, goes to `failures`.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Memory,
        registers: Arc<RegisterPage>,
        event: EventFd,
        failures: FailureSink,
    ) -> Result<Self, TransportError> {
        let queues =
            device.queue_sizes().iter().map(|&size| Queue::new(size)).collect::<Result<Vec<_>, _>>()?;
        let kicks = queues.iter().map(|_| EventFd::new(EFD_NONBLOCK)).collect::<Result<Vec<_>, _>>();
        let line = Arc::new(Line::new(event, Arc::clone(&registers)));
        let transport = Self {
            device,
            memory,
            interrupt: Interrupt::new(Arc::<Line>::clone(&line), failures),
            line,
            counters: QueueCounters::default(),
            registers,
            queues,
            kicks: kicks.map_err(TransportError::Event)?,
            queue_select: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            active: false,
            suspended: Vec::new(),
        };
        transport.write_constants();
        transport.write_selected();
        Ok(transport)
    }

    /// The event of each queue, to be written when the driver writes the
    /// queue's number to `QueueNotify`.
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// The event that carries the device's interrupts to the interrupt controller.
    pub fn line(&self) -> &EventFd {
        self.line.event()
    }

    /// What failures call the device.
    pub fn name(&self) -> &'static str {
        self.device.name()
    }

    /// What the device and its queues have counted.
    pub fn counters(&self) -> Counters {
        self.device.counters().and(&self.counters.named())
    }

    /// Changes what the device is to its driver.
    pub fn change(&mut self, change: DeviceChange) -> Result<(), ChangeError> {
        self.device.change(change)
    }

    /// The page is not this device's any more.
    pub(super) fn withdraw(&self) {
        self.device.config().withdraw();
    }

    fn features(&self) -> u64 {
        self.device.features() | RING_FEATURES
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    /// A queue may be changed between `FEATURES_OK` and `DRIVER_OK` only.
    fn with_queue(&mut self, change: impl FnOnce(&mut Queue)) {
        let open = self.has_status(VIRTIO_CONFIG_S_FEATURES_OK)
            && !self.has_status(VIRTIO_CONFIG_S_DRIVER_OK)
            && !self.has_status(VIRTIO_CONFIG_S_FAILED);
        let queue = usize::try_from(self.queue_select).ok().and_then(|index| self.queues.get_mut(index));
        if let (true, Some(queue)) = (open, queue) {
            change(queue);
        }
    }

    fn has_status(&self, bit: u32) -> bool {
        self.line.status() & bit != 0
    }

    fn write_constants(&self) {
        self.registers.clear();
        let device = self.device.device_type();
        for (register, value) in [
            (VIRTIO_MMIO_MAGIC_VALUE, MAGIC),
            (VIRTIO_MMIO_VERSION, VERSION),
            (VIRTIO_MMIO_DEVICE_ID, device),
            (VIRTIO_MMIO_VENDOR_ID, VENDOR),
            // All ones: there is no shared memory region (§4.2.2).
            (VIRTIO_MMIO_SHM_LEN_LOW, u32::MAX),
            (VIRTIO_MMIO_SHM_LEN_HIGH, u32::MAX),
        ] {
            self.registers.store(register, value);
        }
        let line = Arc::clone(&self.line);
        self.device.config().publish_to(move |config, generation| line.publish(config, generation));
    }

    /// Writes the registers whose content depends on a selector.
    fn write_selected(&self) {
        let queue = self.queue();
        for (register, value) in [
            (VIRTIO_MMIO_DEVICE_FEATURES, half(self.features(), self.device_features_select)),
            (VIRTIO_MMIO_QUEUE_NUM_MAX, queue.map_or(0, |queue| u32::from(queue.max_size()))),
            (VIRTIO_MMIO_QUEUE_READY, queue.map_or(0, |queue| u32::from(queue.ready()))),
        ] {
            self.registers.store(register, value);
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.write_driver_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.queue_select = value,
            VIRTIO_MMIO_QUEUE_NUM => {
                let size = u16::try_from(value).unwrap_or(0);
                self.with_queue(|queue| queue.set_size(size));
            }
            VIRTIO_MMIO_QUEUE_READY => self.with_queue(|queue| queue.set_ready(value == 1)),
            VIRTIO_MMIO_QUEUE_DESC_LOW => {
                self.with_queue(|queue| queue.set_desc_table_address(Some(value), None));
            }
            VIRTIO_MMIO_QUEUE_DESC_HIGH => {
                self.with_queue(|queue| queue.set_desc_table_address(None, Some(value)));
            }
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => {
                self.with_queue(|queue| queue.set_avail_ring_address(Some(value), None));
            }
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => {
                self.with_queue(|queue| queue.set_avail_ring_address(None, Some(value)));
            }
            VIRTIO_MMIO_QUEUE_USED_LOW => {
                self.with_queue(|queue| queue.set_used_ring_address(Some(value), None));
            }
            VIRTIO_MMIO_QUEUE_USED_HIGH => {
                self.with_queue(|queue| queue.set_used_ring_address(None, Some(value)));
            }
            VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(value),
            VIRTIO_MMIO_INTERRUPT_ACK => self.line.acknowledge(value),
            VIRTIO_MMIO_STATUS => self.write_status(value),
            _ => {}
        }
    }

    fn write_driver_features(&mut self, value: u32) {
        if self.has_status(VIRTIO_CONFIG_S_FEATURES_OK) || !self.has_status(VIRTIO_CONFIG_S_DRIVER) {
            return;
        }
        let value = u64::from(value);
        self.driver_features = match self.driver_features_select {
            0 => self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features & 0xffff_ffff | value << 32,
            _ => self.driver_features,
        };
    }

    /// KVM turns notifications into events by itself; this is the way for those that come as an exit.
    fn notify(&self, queue: u32) {
        if let Some(kick) = usize::try_from(queue).ok().and_then(|index| self.kicks.get(index)) {
            // A full counter means that the kick is pending already.
            let _ = kick.write(1);
        }
    }

    fn write_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let old = self.line.status();
        let added = value & !old;
        if old & !value != 0 {
            return; // A driver must not clear bits (§2.1.1).
        }
        let fits = match added {
            VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_FAILED | 0 => true,
            VIRTIO_CONFIG_S_DRIVER => old & VIRTIO_CONFIG_S_ACKNOWLEDGE != 0,
            // Only features that were offered, and never without VERSION_1 (§6.1).
            VIRTIO_CONFIG_S_FEATURES_OK => {
                old & VIRTIO_CONFIG_S_DRIVER != 0
                    && self.driver_features & !self.features() == 0
                    && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0
            }
            VIRTIO_CONFIG_S_DRIVER_OK => old & VIRTIO_CONFIG_S_FEATURES_OK != 0,
            _ => false,
        };
        if !fits {
            return;
        }
        self.line.set_status(value);
        if added == VIRTIO_CONFIG_S_DRIVER_OK {
            self.activate();
        }
    }

    fn activate(&mut self) {
        match self.try_activate() {
            Ok(()) => self.active = true,
            Err(error) => self.interrupt.fail(self.device.name(), &error),
        }
    }

    fn try_activate(&mut self) -> Result<(), ActivateError> {
        let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let numbered = (0..).zip(self.queues.iter_mut().zip(&self.kicks));
        let mut queues = Vec::with_capacity(self.kicks.len());
        for (number, (queue, kick)) in numbered {
            let fresh = Queue::new(queue.max_size()).map_err(QueueError::from)?;
            let mut queue = std::mem::replace(queue, fresh);
            if !queue.ready() {
                queues.push(None);
                continue;
            }
            queue.set_event_idx(event_idx);
            if !queue.is_valid(&self.memory) {
                return Err(QueueError::Nonsense("a queue that is not valid").into());
            }
            let counters = self.counters.clone();
            let interrupt = self.interrupt.clone();
            let queue =
                ActiveQueue::new(queue, number, kick.try_clone()?, interrupt, self.memory.clone(), counters);
            queues.push(Some(queue));
        }
        let activation = Activation {
            queues,
            memory: self.memory.clone(),
            interrupt: self.interrupt.clone(),
            features: self.driver_features,
        };
        self.device.activate(activation)
    }

    fn reset(&mut self) {
        if self.active {
            drop(self.device.suspend());
            self.suspended.clear();
            self.active = false;
        }
        for queue in &mut self.queues {
            queue.reset();
        }
        self.line.reset();
        self.driver_features = 0;
        self.queue_select = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
    }
}

impl MmioDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.registers.read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(at) = offset.checked_sub(CONFIG_OFFSET) {
            self.device.write_config(at, data);
        } else if let (Ok(offset), Ok(data)) = (u32::try_from(offset), <[u8; 4]>::try_from(data)) {
            // Registers are 32 bits wide and written whole (§4.2.2.2).
            self.write_register(offset, u32::from_le_bytes(data));
            self.write_selected();
        }
    }
}

/// The half of a 64-bit feature word that `select` names.
fn half(word: u64, select: u32) -> u32 {
    let shifted = match select {
        0 => word,
        1 => word >> 32,
        _ => 0,
    };
    u32::try_from(shifted & 0xffff_ffff).unwrap_or(0)
}

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(feature = "fuzzing", allow(dead_code, unused_imports))]
#[allow(clippy::unwrap_used, clippy::panic)] // Clippy knows tests by `cfg(test)` alone.
#[path = "transport_tests.rs"]
mod tests;
#[cfg(feature = "fuzzing")]
pub(crate) use tests::run as fuzz;
