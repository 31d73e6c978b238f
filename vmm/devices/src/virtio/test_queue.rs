//! A driver's side of a queue, for tests of what devices do with its chains.

use std::sync::{Arc, Mutex};

use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::failure::FailureSink;
use crate::memory::Memory;
use crate::virtio::counters::QueueCounters;
use crate::virtio::device::Activation;
use crate::virtio::notify::{Interrupt, Notify};
use crate::virtio::queue::ActiveQueue;

/// Where the test's buffers lie.
pub(crate) const BUFFERS: u64 = 0x8000;

/// `VIRTQ_DESC_F_WRITE`
pub(crate) const WRITE: u16 = 2;

/// `VIRTQ_DESC_F_NEXT`
const NEXT: u16 = 1;

/// One buffer of a chain: address, length, flags.
pub(crate) type Buffer = (u64, u32, u16);

/// Memory with a queue of 16 at its start.
pub(crate) fn memory() -> Memory {
    Memory::from_ranges(&[(GuestAddress(0), 0x2_0000)]).unwrap()
}

/// A queue, and where its used ring lies.
pub(crate) struct TestQueue {
    pub(crate) queue: ActiveQueue,
    memory: Memory,
    used: GuestAddress,
    failures: Failures,
    pub(crate) counters: QueueCounters,
}

/// What devices have said that they cannot go on for.
#[derive(Clone, Default)]
pub(crate) struct Failures(Arc<Mutex<Vec<String>>>);

impl Failures {
    /// The way in.
    pub(crate) fn sink(&self) -> FailureSink {
        let told = Arc::clone(&self.0);
        FailureSink::new(move |reason| told.lock().unwrap().push(reason))
    }

    /// What has been said so far.
    pub(crate) fn told(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// A driver that listens to nothing.
struct Deaf;

impl Notify for Deaf {
    fn used(&self, _queue: u16) {}
    fn config(&self) {}
    fn needs_reset(&self) {}
}

/// A device's way to a driver that does not listen, and to `failures`.
pub(crate) fn interrupt(failures: &Failures) -> Interrupt {
    Interrupt::new(Arc::new(Deaf), failures.sink())
}

/// A queue in which the driver has made `chain` available.
pub(crate) fn queue_with(memory: &Memory, chain: &[Buffer]) -> TestQueue {
    queue_with_chains(memory, &[chain])
}

/// A queue in which the driver has made these chains available, 16 descriptors in all.
pub(crate) fn queue_with_chains(memory: &Memory, chains: &[&[Buffer]]) -> TestQueue {
    let driver = MockSplitQueue::new(memory, 16);
    let mut descriptors: Vec<RawDescriptor> = Vec::new();
    for chain in chains {
        for (left, &(address, length, flags)) in (0..chain.len()).rev().zip(*chain) {
            let next = u16::try_from(descriptors.len() + 1).unwrap();
            let flags = if left > 0 { flags | NEXT } else { flags & !NEXT };
            descriptors.push(Descriptor::new(address, length, flags, next).into());
        }
    }
    if !descriptors.is_empty() {
        driver.build_multiple_desc_chains(&descriptors).unwrap();
    }
    let failures = Failures::default();
    let interrupt = interrupt(&failures);
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    let counters = QueueCounters::default();
    let mut queue: Queue = driver.create_queue().unwrap();
    // The mock's own overlaps a ring of available chains that is full.
    let used = GuestAddress(0x4000);
    queue.set_used_ring_address(Some(0x4000), Some(0));
    // There may have been another queue in this memory.
    memory.write_obj(0u16, used.unchecked_add(2)).unwrap();
    let queue = ActiveQueue::new(queue, 0, kick, interrupt, memory.clone(), counters.clone());
    TestQueue { queue, memory: memory.clone(), used, failures, counters }
}

/// The same, as the device's queue with this number.
pub(crate) fn queue_numbered(number: u16, test: TestQueue) -> TestQueue {
    TestQueue { queue: test.queue.numbered(number), ..test }
}

impl TestQueue {
    /// What a device with this one queue gets.
    pub(crate) fn activation(self) -> Activation {
        let interrupt = interrupt(&self.failures);
        Activation { queues: vec![Some(self.queue)], memory: self.memory, interrupt, features: 0 }
    }

    /// What the device says that it cannot go on for.
    pub(crate) fn failures(&self) -> Failures {
        self.failures.clone()
    }

    /// What is in the used ring: heads and lengths.
    pub(crate) fn used(&self) -> Vec<(u32, u32)> {
        used(&self.memory, self.used)
    }

    /// The queue for a device, and what the driver sees of it.
    pub(crate) fn split(self) -> (ActiveQueue, Seen) {
        let seen = Seen { memory: self.memory, used: self.used, counters: self.counters };
        (self.queue, seen)
    }

    /// Length of the first element of the used ring, once there is one.
    pub(crate) fn used_length(&self) -> Option<u32> {
        let index: u16 = self.memory.read_obj(GuestAddress(self.used.0 + 2)).unwrap();
        (index > 0).then(|| self.memory.read_obj(GuestAddress(self.used.0 + 8)).unwrap())
    }
}

/// What the driver sees of a queue that a device has.
pub(crate) struct Seen {
    memory: Memory,
    used: GuestAddress,
    pub(crate) counters: QueueCounters,
}

impl Seen {
    /// What is in the used ring: heads and lengths.
    pub(crate) fn used(&self) -> Vec<(u32, u32)> {
        used(&self.memory, self.used)
    }
}

fn used(memory: &Memory, ring: GuestAddress) -> Vec<(u32, u32)> {
    let count: u16 = memory.read_obj(GuestAddress(ring.0 + 2)).unwrap();
    let word = |at| memory.read_obj(GuestAddress(ring.0 + at)).unwrap();
    (0..u64::from(count)).map(|index| (word(4 + 8 * index), word(8 + 8 * index))).collect()
}
