//! Virtio: what all devices share, the mmio transport, and a folder a device.

mod device;
pub mod fs;
mod mmio;
mod queue;
pub mod rng;
pub mod vsock;

pub use device::{ActivateError, Activation, VirtioDevice};
pub use mmio::{MmioTransport, NOTIFY_OFFSET, TRANSPORT_BYTES, TransportError};
pub use queue::{ActiveQueue, QueueError};

#[cfg(test)]
mod test_queue;
