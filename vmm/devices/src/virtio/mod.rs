//! Virtio: what all devices share, the mmio transport, and a folder a device.

mod alarm;
pub mod balloon;
pub mod block;
mod config_space;
mod counters;
mod device;
pub mod fs;
pub mod mmio;
pub mod net;
mod notify;
mod queue;
mod rate;
pub mod rng;
mod session;
mod state;
pub mod vsock;

pub use config_space::ConfigSpace;
pub use counters::{Counter, Counters, QueueCounters};
pub use device::{ActivateError, Activation, ChangeError, VirtioDevice};
pub use notify::{Interrupt, Notify};
pub use queue::{ActiveQueue, QueueError};
pub use session::SessionError;
pub use state::{ActiveState, DeviceState, SavedQueue, StateError, Suspended, TransportState};

#[cfg(feature = "fuzzing")]
pub(crate) use queue::fuzz as queue_fuzz;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(feature = "fuzzing", allow(dead_code))]
#[allow(clippy::unwrap_used, clippy::panic)] // Clippy knows tests by `cfg(test)` alone.
mod test_queue;

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(feature = "fuzzing", allow(dead_code, unused_imports))]
#[allow(clippy::unwrap_used, clippy::panic)] // Clippy knows tests by `cfg(test)` alone.
mod restored;
#[cfg(feature = "fuzzing")]
pub(crate) use restored::run as restored_fuzz;
