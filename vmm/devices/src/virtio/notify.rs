//! How a device reaches its driver.

use std::error::Error;
use std::sync::Arc;

use crate::failure::FailureSink;

/// What a device may tell its driver, whatever carries it there.
pub trait Notify: Send + Sync {
    /// Buffers of the queue with this number were used.
    fn used(&self, queue: u16);
    /// The configuration has changed.
    fn config(&self);
    /// The device cannot go on until it is reset.
    fn needs_reset(&self);
}

/// The device's way to its driver, and to the machine's owner for what no driver cares about.
#[derive(Clone)]
pub struct Interrupt {
    notify: Arc<dyn Notify>,
    failures: FailureSink,
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupt").finish_non_exhaustive()
    }
}

impl Interrupt {
    /// Tells the driver by `notify`, and the machine's owner by `failures`.
    pub fn new(notify: Arc<dyn Notify>, failures: FailureSink) -> Self {
        Self { notify, failures }
    }

    /// Tells the driver that buffers of `queue` were used.
    pub fn used(&self, queue: u16) {
        self.notify.used(queue);
    }

    /// The device cannot go on: tells the driver, which need not care, and the machine's owner.
    pub fn fail(&self, device: &str, error: &dyn Error) {
        self.notify.needs_reset();
        self.failures.report(device, error);
    }
}
