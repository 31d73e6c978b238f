//! What a device is to its transport.

use vmrun_spec::DeviceChange;

use crate::event_loop::LoopError;
use crate::memory::Memory;
use crate::thread::ThreadError;
use crate::virtio::config_space::ConfigSpace;
use crate::virtio::counters::Counters;
use crate::virtio::notify::Interrupt;
use crate::virtio::queue::{ActiveQueue, QueueError};
use crate::virtio::state::{DeviceState, StateError, Suspended};

/// A virtio device, without the transport that carries it.
///
/// ```text
///            activate(queues)                 suspend()
///  inactive -----------------> active (worker) ---------> inactive, queues and state are back
/// ```
///
/// The queues move into the device when the driver is ready, so a device that
/// is not active has none. What `suspend` gives back is dropped when the driver resets the
/// device: then it has forgotten everything about that driver.
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

    /// The device-specific configuration space.
    fn config(&self) -> &ConfigSpace;

    /// The driver writes `data` at `at` of the configuration space. Few devices have fields for that.
    fn write_config(&mut self, at: u64, data: &[u8]) {
        let _ = (at, data);
    }

    /// The driver is ready: take the queues and start to serve.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stops, and gives back what it was activated with; nothing if it was not active.
    fn suspend(&mut self) -> Option<Suspended>;

    /// Takes over what another device of its kind knew, before it is activated with that one's queues.
    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        let _ = state;
        Err(StateError::NotImplemented(self.name()))
    }

    /// What it has counted since it was made, besides kicks and interrupts.
    fn counters(&self) -> Counters {
        Counters::default()
    }

    /// Changes what the device is to its driver.
    fn change(&mut self, change: DeviceChange) -> Result<(), ChangeError> {
        let _ = change;
        Err(ChangeError(self.name()))
    }
}

/// What a device gets when its driver is ready.
#[derive(Debug)]
pub struct Activation {
    /// The queues, in the order of [`VirtioDevice::queue_sizes`]; none where the driver has set up none.
    pub queues: Vec<Option<ActiveQueue>>,
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

/// The device is of a kind that knows no such change.
#[derive(Debug, thiserror::Error)]
#[error("{0} knows no such change")]
pub struct ChangeError(pub &'static str);

impl Activation {
    /// The queues as an array of the number that the device has; the driver must have set up all.
    pub fn take_queues<const N: usize>(&mut self) -> Result<[ActiveQueue; N], ActivateError> {
        let queues: Vec<_> = std::mem::take(&mut self.queues).into_iter().flatten().collect();
        queues.try_into().map_err(|queues: Vec<_>| ActivateError::Queues { expected: N, found: queues.len() })
    }
}
