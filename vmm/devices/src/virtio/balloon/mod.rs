//! virtio-balloon (virtio 1.2, §5.5), of which the free page reporting: what the guest's kernel has had free for a while
//! goes back to the host.
//!
//! ```text
//!   buddy allocator ─▶ blocks of 2 MiB and more ─▶ reporting queue ─▶ madvise ─▶ used ─▶ free to be taken again
//! ```
//!
//! The kernel keeps a block to itself from the report until the device has used the buffer. Whoever takes it later finds
//! any content, and a page of its own again at the first touch.
//!
//! The balloon itself is never asked to grow. Its two queues are there since drivers do not start without them.

mod pages;

use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber, SubscriberId};
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryError;

use crate::event_loop::{LoopError, LoopHandle, LoopWorker};
use crate::memory::Memory;
use crate::virtio::config_space::ConfigSpace;
use crate::virtio::counters::{Counter, Counters};
use crate::virtio::device::{ActivateError, Activation, VirtioDevice};
use crate::virtio::queue::{ActiveQueue, QueueError};
use crate::virtio::state::{DeviceState, StateError, Suspended};

/// What failures call it.
const NAME: &str = "virtio-balloon";

/// Inflate, deflate, reporting. The specification has two others before the last one, for features that are not offered;
/// Linux counts the queues that there are.
const QUEUE_SIZES: [u16; 3] = [16, 16, 32];

/// Place of the reporting queue among them.
const REPORTING: usize = 2;

/// `VIRTIO_BALLOON_F_REPORTING`
const F_REPORTING: u64 = 1 << 5;

/// `num_pages` and `actual`, both zero.
const CONFIG: [u8; 8] = [0; 8];

/// Why the device cannot go on.
#[derive(Debug, thiserror::Error)]
enum BalloonError {
    /// The guest broke the rules.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// What it calls free memory is none.
    #[error("the guest reported pages that are no memory: {0}")]
    NoMemory(#[from] GuestMemoryError),
    /// The host's kernel did not take pages back.
    #[error("cannot give pages back to the host: {0}")]
    Host(#[from] std::io::Error),
}

/// The device.
#[derive(Debug)]
pub struct Balloon {
    events: LoopHandle,
    config: ConfigSpace,
    figures: Figures,
    worker: Option<SubscriberId>,
}

/// What it counts.
#[derive(Clone, Debug, Default)]
struct Figures {
    /// Ranges of pages that were reported.
    ranges: Arc<Counter>,
    /// What was in them, touched or not.
    bytes: Arc<Counter>,
}

impl Balloon {
    /// A device whose worker runs on `events`.
    pub fn new(events: LoopHandle) -> Self {
        Self { events, config: ConfigSpace::new(CONFIG), figures: Figures::default(), worker: None }
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn features(&self) -> u64 {
        F_REPORTING
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        // A driver that takes no reports sets up two.
        let queues: Vec<_> = activation.queues.into_iter().flatten().collect();
        if queues.is_empty() {
            return Err(ActivateError::Queues { expected: QUEUE_SIZES.len(), found: 0 });
        }
        let worker = BalloonWorker { queues, figures: self.figures.clone() };
        self.worker = Some(self.events.add(Box::new(worker))?);
        Ok(())
    }

    fn suspend(&mut self) -> Option<Suspended> {
        // Fails only when the loop is gone, and the worker with it.
        self.events.remove(self.worker.take()?).ok()
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        state.is_nothing(NAME, VIRTIO_ID_BALLOON)
    }

    fn counters(&self) -> Counters {
        let Figures { ranges, bytes } = &self.figures;
        Counters::new([("reported_ranges", Arc::clone(ranges)), ("reported_bytes", Arc::clone(bytes))])
    }
}

struct BalloonWorker {
    queues: Vec<ActiveQueue>,
    figures: Figures,
}

impl MutEventSubscriber for BalloonWorker {
    fn init(&mut self, ops: &mut EventOps) {
        for (data, queue) in (0..).zip(&self.queues) {
            if let Err(error) = ops.add(Events::with_data(queue.kick(), data, EventSet::IN)) {
                queue.fail(NAME, &LoopError::from(error));
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let Some(queue) = usize::try_from(events.data()).ok().and_then(|at| self.queues.get_mut(at)) else {
            return;
        };
        queue.clear_kick();
        if let Err(error) = serve(queue, &self.figures) {
            queue.fail(NAME, &error);
            // Until the machine has ended kicks mean nothing.
            let _ = ops.remove(Events::new(queue.kick(), EventSet::IN));
        }
    }
}

impl LoopWorker for BalloonWorker {
    fn suspend(self: Box<Self>) -> Suspended {
        Suspended { queues: self.queues, state: Ok(DeviceState::nothing(VIRTIO_ID_BALLOON)) }
    }
}

fn serve(queue: &mut ActiveQueue, figures: &Figures) -> Result<(), BalloonError> {
    if usize::from(queue.number()) == REPORTING {
        return queue.drain(|memory, chain| give_back(memory, chain, figures));
    }
    // A driver that fills the balloon unasked is only out of its own pages.
    queue.drain(|_, _| Ok(0))
}

/// Gives the chain's pages back to the host. Nothing is written into them.
fn give_back(
    memory: &Memory,
    chain: DescriptorChain<&Memory>,
    figures: &Figures,
) -> Result<u32, BalloonError> {
    for range in chain.writable() {
        let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
        figures.bytes.add(pages::discard(memory, range.addr(), length)?);
        figures.ranges.count();
    }
    Ok(0)
}

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(feature = "fuzzing", allow(dead_code, unused_imports))]
#[allow(clippy::unwrap_used, clippy::panic)] // Clippy knows tests by `cfg(test)` alone.
mod tests;
#[cfg(feature = "fuzzing")]
pub(crate) use tests::run as fuzz;
