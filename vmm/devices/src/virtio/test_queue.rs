//! A driver's side of a queue, for tests of what devices do with its chains.

use std::sync::Arc;

use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::interrupt::Interrupt;
use crate::memory::Memory;
use crate::virtio::RegisterPage;
use crate::virtio::queue::ActiveQueue;

/// Where the test's buffers lie.
pub(crate) const BUFFERS: u64 = 0x8000;

/// `VIRTQ_DESC_F_WRITE`
pub(crate) const WRITE: u16 = 2;

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
}

/// A queue in which the driver has made `chain` available.
pub(crate) fn queue_with(memory: &Memory, chain: &[Buffer]) -> TestQueue {
    let driver = MockSplitQueue::new(memory, 16);
    let count = u16::try_from(chain.len()).unwrap();
    let descriptors: Vec<RawDescriptor> = (1..)
        .zip(chain)
        .map(|(next, &(address, length, flags))| {
            let more = if next < count { 1 } else { 0 };
            Descriptor::new(address, length, flags | more, next).into()
        })
        .collect();
    if !descriptors.is_empty() {
        driver.build_desc_chain(&descriptors).unwrap();
    }
    let interrupt =
        Interrupt::new(EventFd::new(EFD_NONBLOCK).unwrap(), Arc::new(RegisterPage::new().unwrap()));
    let kick = EventFd::new(EFD_NONBLOCK).unwrap();
    let used = driver.used_addr();
    let queue = ActiveQueue::new(driver.create_queue().unwrap(), kick, interrupt, memory.clone());
    TestQueue { queue, memory: memory.clone(), used }
}

impl TestQueue {
    /// Length of the first element of the used ring, once there is one.
    pub(crate) fn used_length(&self) -> Option<u32> {
        let index: u16 = self.memory.read_obj(GuestAddress(self.used.0 + 2)).unwrap();
        (index > 0).then(|| self.memory.read_obj(GuestAddress(self.used.0 + 8)).unwrap())
    }
}
