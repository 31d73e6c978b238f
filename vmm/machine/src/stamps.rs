//! When the guest was how far.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A byte that the guest wrote to its mark port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The byte; `None` is the entry of the first vCPU into the guest.
    pub code: Option<u8>,
    /// When.
    pub at: Instant,
}

/// So many are kept: a guest may write without end.
const MOST: usize = 64;

/// The stamps of one machine, and the port by which they come.
#[derive(Clone, Debug)]
pub(crate) struct Stamps {
    port: u16,
    kept: Arc<Mutex<Vec<Stamp>>>,
}

impl Stamps {
    pub(crate) fn new(port: u16) -> Self {
        Self { port, kept: Arc::default() }
    }

    /// The first vCPU is about to enter the guest for the first time.
    pub(crate) fn entry(&self) {
        self.add(None);
    }

    /// The guest has written to a port that nobody else has.
    pub(crate) fn port_write(&self, port: u16, data: &[u8]) {
        if port == self.port {
            data.iter().for_each(|byte| self.add(Some(*byte)));
        }
    }

    fn add(&self, code: Option<u8>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MOST {
            kept.push(Stamp { code, at: Instant::now() });
        }
    }

    pub(crate) fn read(&self) -> Vec<Stamp> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_to_the_port_are_stamped_in_their_order_and_not_without_end() {
        let stamps = Stamps::new(0xe8);
        stamps.entry();
        stamps.port_write(0xe8, &[1, 2]);
        stamps.port_write(0xe9, &[3]);
        let read = stamps.read();
        assert_eq!(read.iter().map(|stamp| stamp.code).collect::<Vec<_>>(), [None, Some(1), Some(2)]);
        assert!(read.is_sorted_by_key(|stamp| stamp.at));
        (0..100).for_each(|_| stamps.port_write(0xe8, &[4, 4, 4]));
        assert_eq!(stamps.read().len(), MOST);
    }
}
