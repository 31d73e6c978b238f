//! What devices count, readable from outside while they work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A figure that only grows. One thread counts, and any reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn count(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many by now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of a device, each with its name. To read them nobody has to wait for the device.
#[derive(Clone, Debug, Default)]
pub struct Counters(Vec<(&'static str, Arc<Counter>)>);

impl Counters {
    /// These counters.
    pub fn new(counters: impl IntoIterator<Item = (&'static str, Arc<Counter>)>) -> Self {
        Self(counters.into_iter().collect())
    }

    /// These and the others.
    #[must_use]
    pub fn and(mut self, others: &Self) -> Self {
        self.0.extend_from_slice(&others.0);
        self
    }

    /// The figures of now.
    pub fn read(&self) -> Vec<(&'static str, u64)> {
        self.0.iter().map(|(name, counter)| (*name, counter.get())).collect()
    }
}

/// What every device counts: how often its driver and it have woken each other.
#[derive(Clone, Debug, Default)]
pub struct QueueCounters {
    /// Times that the driver kicked a queue; several before the device looked are one.
    pub kicks: Arc<Counter>,
    /// Interrupts for used buffers.
    pub interrupts: Arc<Counter>,
}

impl QueueCounters {
    /// Both by their names.
    pub fn named(&self) -> Counters {
        Counters::new([("kicks", Arc::clone(&self.kicks)), ("interrupts", Arc::clone(&self.interrupts))])
    }
}
