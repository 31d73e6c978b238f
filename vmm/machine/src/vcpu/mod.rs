//! vCPUs: their first state, and the threads that run them.

mod class;
mod cpuid;
mod kick;
mod registers;
mod thread;

pub(crate) use class::size;
pub(crate) use cpuid::guest_cpuid;
pub(crate) use registers::{Entry, set_boot_state, set_firmware_state, write_tables};
pub(crate) use thread::VcpuThread;
