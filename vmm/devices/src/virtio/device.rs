//! What a device is to its transport.

use crate::event_loop::LoopError;
use crate::interrupt::Interrupt;
use crate::memory::Memory;
use crate::thread::ThreadError;
use crate::virtio::queue::{ActiveQueue, QueueError};

/// A virtio device, without the transport that carries it.
///
/// ```text
///            activate(queues)                 reset()
///  inactive -----------------> active (worker) -------> inactive
/// ```
///
/// The queues move into the device when the driver is ready, so a device that
/// is not active has none.
pub trait VirtioDevice: Send {
    /// Device id (virtio 1.2, §5).
    fn device_type(&self) -> u32;

    /// What failures call it.
    fn name(&self) -> &'static str;

    /// Device-specific feature bits; the transport adds those of the ring.
    fn features(&self) -> u64 {
        0
    }

    /// Largest size of each queue, a power of two each.
    fn queue_sizes(&self) -> &[u16];

    /// The device-specific configuration space (virtio 1.2, §2.5).
    fn config(&self) -> &[u8] {
        &[]
    }

    /// The driver is ready: take the queues and start to serve.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// The driver gives up: stop and forget everything about it.
    fn reset(&mut self);
}

/// What a device gets when its driver is ready.
#[derive(Debug)]
pub struct Activation {
    /// The queues, in the order of [`VirtioDevice::queue_sizes`].
    pub queues: Vec<ActiveQueue>,
    /// Guest memory.
    pub memory: Memory,
    /// The interrupt.
    pub interrupt: Interrupt,
    /// Feature bits that the driver took.
    pub features: u64,
}

/// Why a device could not start to serve.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver set up another number of queues than the device has.
    #[error("the driver set up {found} queues where the device has {expected}")]
    Queues {
        /// What the device has.
        expected: usize,
        /// What was there.
        found: usize,
    },
    /// The driver's queues are none.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The event loop did not take the device.
    #[error("cannot put the device onto the event loop")]
    Loop(#[from] LoopError),
    /// The worker thread did not start.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// A file descriptor could not be had.
    #[error("cannot set up the device's worker")]
    Io(#[from] std::io::Error),
}

impl Activation {
    /// The queues as an array of the number that the device has.
    pub fn take_queues<const N: usize>(&mut self) -> Result<[ActiveQueue; N], ActivateError> {
        std::mem::take(&mut self.queues)
            .try_into()
            .map_err(|queues: Vec<_>| ActivateError::Queues { expected: N, found: queues.len() })
    }
}
