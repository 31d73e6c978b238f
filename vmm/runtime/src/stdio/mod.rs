//! The container's standard streams on the host.
//!
//! Each stream is one thread that copies between one of our descriptors and
//! one connection to the guest, with blocking calls: the kernel's buffers and
//! vsock credit are the back-pressure, and no descriptor that others share gets
//! its flags changed.

mod console;
mod patience;
mod relay;
mod tty;

pub(crate) use console::{ConsoleError, open_console};
pub(crate) use patience::Patience;
pub(crate) use relay::{Drained, Home, Relays};
pub(crate) use tty::{RawMode, size};
