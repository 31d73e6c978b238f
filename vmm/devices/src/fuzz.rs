//! Guests that do what they like, for `tests/fuzz`: bytes are their programs. What must hold is asserted
//! by the programs of the property tests, which these are.

use crate::virtio::{self, TransportState};

/// Accesses to the registers of a device.
pub fn mmio(program: &[u8]) {
    virtio::mmio::fuzz(program);
}

/// What a driver writes into a queue.
pub fn queue(program: &[u8]) {
    virtio::queue_fuzz(program);
}

/// A driver of the network card, and frames for it.
pub fn net(program: &[u8]) {
    virtio::net::fuzz(program);
}

/// Requests to the file server.
pub fn fs(program: &[u8]) {
    virtio::fs::fuzz(program);
}

/// Reports of free pages.
pub fn balloon(program: &[u8]) {
    virtio::balloon::fuzz(program);
}

/// Requests to a disk.
pub fn block(program: &[u8]) {
    virtio::block::fuzz(program);
}

/// Packets of a guest, and what the host's ends do.
pub fn vsock(program: &[u8]) {
    virtio::vsock::fuzz(program);
}

/// States of a vsock, an rng, a share and a balloon, which may lie in memory that begins with `pages`.
pub fn restored(states: &[TransportState], pages: &[u8]) {
    virtio::restored_fuzz(states, pages);
}
