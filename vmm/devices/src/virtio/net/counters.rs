//! What a network interface counts.

use std::sync::Arc;

use crate::virtio::counters::{Counter, Counters};

/// One direction. A frame is counted once: as a packet with its bytes, as dropped, or as an error.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// Frames that went through.
    pub(super) packets: Arc<Counter>,
    /// Their bytes, without the virtio header.
    pub(super) bytes: Arc<Counter>,
    /// Frames that had no room, or no link.
    pub(super) dropped: Arc<Counter>,
    /// Frames or buffers that were none, and frames that the host's kernel refused.
    pub(super) errors: Arc<Counter>,
    /// Times that the rate's limit made the device wait before the next frame.
    pub(super) limited: Arc<Counter>,
}

/// Both directions, as the guest sees them.
#[derive(Debug, Default)]
pub(super) struct NetCounters {
    pub(super) rx: Direction,
    pub(super) tx: Direction,
}

impl NetCounters {
    /// All by their names.
    pub(super) fn named(&self) -> Counters {
        let (rx, tx) = (&self.rx, &self.tx);
        let named = [
            ("rx_packets", &rx.packets),
            ("rx_bytes", &rx.bytes),
            ("rx_dropped", &rx.dropped),
            ("rx_errors", &rx.errors),
            ("rx_limited", &rx.limited),
            ("tx_packets", &tx.packets),
            ("tx_bytes", &tx.bytes),
            ("tx_dropped", &tx.dropped),
            ("tx_errors", &tx.errors),
            ("tx_limited", &tx.limited),
        ];
        Counters::new(named.map(|(name, counter)| (name, Arc::clone(counter))))
    }
}

impl Direction {
    /// A frame of so many bytes, its header included, went through.
    pub(super) fn passed(&self, bytes: usize) {
        self.packets.count();
        self.bytes.add(u64::try_from(bytes.saturating_sub(super::HEADER_BYTES)).unwrap_or(0));
    }
}
