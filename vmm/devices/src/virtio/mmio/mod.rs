//! The memory-mapped transport (virtio 1.2, §4.2), version 2.
//!
//! ```text
//!   RegisterBoard: one mapping, a page for each window, shown to the guest read-only
//!        Slot: a window of the machine, empty or with a device
//!          MmioTransport: the registers and the status machine of that device
//!          Line: how the device's worker reaches the driver
//! ```

mod line;
mod register_page;
mod slot;
mod transport;

pub use register_page::{RegisterBoard, RegisterPage, TRANSPORT_BYTES};
pub use slot::Slot;
pub use transport::{ACKNOWLEDGE_USED, MmioTransport, NOTIFY_OFFSET, TransportError};

#[cfg(feature = "fuzzing")]
pub(crate) use transport::fuzz;
