//! What a disk counts.

use std::sync::Arc;

use crate::virtio::counters::{Counter, Counters};

/// Requests, and what became of them. One is counted when it is done.
#[derive(Debug, Default)]
pub(super) struct BlockCounters {
    pub(super) reads: Arc<Counter>,
    pub(super) read_bytes: Arc<Counter>,
    pub(super) writes: Arc<Counter>,
    pub(super) written_bytes: Arc<Counter>,
    pub(super) flushes: Arc<Counter>,
    pub(super) discards: Arc<Counter>,
    pub(super) zeroed: Arc<Counter>,
    /// Requests that ended otherwise than well.
    pub(super) errors: Arc<Counter>,
    /// Those of them that the host's file or device has failed.
    pub(super) failed: Arc<Counter>,
    /// And of these, those for which the host's file system had no room.
    pub(super) no_room: Arc<Counter>,
    /// Requests that waited on a thread of their own.
    pub(super) waited: Arc<Counter>,
    /// Times that the rate's limit made the device wait before the next one.
    pub(super) limited: Arc<Counter>,
}

impl BlockCounters {
    /// All by their names.
    pub(super) fn named(&self) -> Counters {
        let named = [
            ("reads", &self.reads),
            ("read_bytes", &self.read_bytes),
            ("writes", &self.writes),
            ("written_bytes", &self.written_bytes),
            ("flushes", &self.flushes),
            ("discards", &self.discards),
            ("zeroed", &self.zeroed),
            ("errors", &self.errors),
            ("failed", &self.failed),
            ("no_room", &self.no_room),
            ("waited", &self.waited),
            ("limited", &self.limited),
        ];
        Counters::new(named.map(|(name, counter)| (name, Arc::clone(counter))))
    }
}
