//! Virtio: what all devices share, the mmio transport, and a folder a device.

mod device;
pub mod fs;
mod mmio;
mod queue;
mod register_page;
pub mod rng;
pub mod vsock;

pub use device::{ActivateError, Activation, VirtioDevice};
pub use mmio::{ACKNOWLEDGE_USED, MmioTransport, NOTIFY_OFFSET, TransportError};
pub use queue::{ActiveQueue, QueueError};
pub use register_page::{RegisterPage, TRANSPORT_BYTES};

#[cfg(test)]
mod test_queue;
