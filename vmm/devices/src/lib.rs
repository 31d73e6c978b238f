//! Virtio devices and the transport that carries them.
//!
//! ```text
//!   vCPU thread        Slot, MmioTransport (registers, status machine)
//!     MMIO exit  --->    | activate(queues, interrupt)
//!                        v
//!                      VirtioDevice  --- its worker --->  event loop (rng, vsock)
//!                                                         own thread (fs)
//!     ioeventfd  ------------- kick ------------------->    queue -> host effect
//!     irqfd      <--------- interrupt -------------------   used ring
//! ```
//!
//! The devices know nothing of KVM (the machine wires event file descriptors)
//! and nothing of containers. Every byte that comes from the guest is hostile:
//! descriptor chains are validated by virtio-queue and vm-memory, headers are
//! copied once, sums are checked, and nothing panics. A device that meets nonsense marks
//! itself `DEVICE_NEEDS_RESET` (virtio 1.2, §2.1.2) and tells its [`FailureSink`] why, which ends the
//! machine: drivers do not react, and a quiet device is a program that sleeps for ever.

mod confine;
mod event_loop;
mod failure;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod heap;
mod memory;
mod mmio_bus;
#[cfg(feature = "planted-holes")]
pub mod planted;
mod thread;
mod uart;
pub mod virtio;

pub use confine::{
    Call, ConfineError, Confinement, FilterError, ProgramError, ThreadClass, TreeError, confine_process,
};
pub use event_loop::{EventLoop, LoopError, LoopHandle, LoopSubscriber};
pub use failure::FailureSink;
pub use memory::{GuestRegion, Memory};
pub use mmio_bus::{MmioBus, MmioDevice};
pub use thread::{ThreadError, ThreadFailure, Worker, confine_this_thread};
pub use uart::{ConsoleLog, Uart};
