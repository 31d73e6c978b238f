//! virtio-rng: entropy for the guest (virtio 1.2, §5.4).
//!
//! One queue of device-writable buffers, filled from the host kernel's pool.

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber, SubscriberId};
use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::DescriptorChain;
use vm_memory::Bytes;

use crate::event_loop::{LoopError, LoopHandle};
use crate::memory::Memory;
use crate::virtio::device::{ActivateError, Activation, VirtioDevice};
use crate::virtio::queue::{ActiveQueue, QueueError};

/// What failures call it.
const NAME: &str = "virtio-rng";

const QUEUE_SIZES: [u16; 1] = [64];

/// Most bytes for one request. A guest that asks for more gets this much, which
/// the driver must accept, and the event loop is not held up by one huge buffer.
const MAX_REQUEST_BYTES: usize = 4096;

/// The device.
#[derive(Debug)]
pub struct Rng {
    events: LoopHandle,
    worker: Option<SubscriberId>,
}

impl Rng {
    /// A device whose worker runs on `events`.
    pub fn new(events: LoopHandle) -> Self {
        Self { events, worker: None }
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let [queue] = activation.take_queues()?;
        self.worker = Some(self.events.add(Box::new(RngWorker { queue }))?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(worker) = self.worker.take() {
            // Fails only when the loop is gone, and the worker with it.
            let _ = self.events.remove(worker);
        }
    }
}

struct RngWorker {
    queue: ActiveQueue,
}

impl MutEventSubscriber for RngWorker {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(self.queue.kick(), EventSet::IN)) {
            self.queue.fail(NAME, &LoopError::from(error));
        }
    }

    fn process(&mut self, _events: Events, ops: &mut EventOps) {
        self.queue.clear_kick();
        if let Err(error) = self.queue.drain(serve) {
            self.queue.fail(NAME, &error);
            // Until the machine has ended kicks mean nothing.
            let _ = ops.remove(Events::new(self.queue.kick(), EventSet::IN));
        }
    }
}

fn serve(memory: &Memory, chain: DescriptorChain<&Memory>) -> Result<u32, QueueError> {
    Ok(fill(memory, chain))
}

/// Fills the chain's writable buffers and returns how many bytes were written.
fn fill(memory: &Memory, chain: DescriptorChain<&Memory>) -> u32 {
    let mut written = 0;
    for descriptor in chain.writable() {
        let wanted =
            usize::try_from(descriptor.len()).unwrap_or(MAX_REQUEST_BYTES).min(MAX_REQUEST_BYTES - written);
        let mut bytes = [0; MAX_REQUEST_BYTES];
        let Some(bytes) = bytes.get_mut(..wanted).filter(|bytes| !bytes.is_empty()) else { break };
        // The call itself: what falls back to a file is not for a thread that may open none.
        let Ok(got) = getrandom(&mut *bytes, GetRandomFlags::empty()) else { break };
        let Some(bytes) = bytes.get(..got) else { break };
        if memory.write_slice(bytes, descriptor.addr()).is_err() {
            break;
        }
        written += got;
        if got < wanted {
            break; // A signal came between; the driver asks again.
        }
    }
    u32::try_from(written).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::GuestAddress;

    use super::*;
    use crate::virtio::test_queue::{BUFFERS, WRITE, memory, queue_with};

    #[test]
    fn buffers_are_filled_up_to_the_limit_of_a_request() {
        let memory = memory();
        let limit = u32::try_from(MAX_REQUEST_BYTES).unwrap();
        let mut test = queue_with(&memory, &[(BUFFERS, 100, WRITE), (BUFFERS + 0x1000, limit, WRITE)]);
        test.queue.drain(serve).unwrap();
        assert_eq!(test.used_length(), Some(limit));
        let mut bytes = [0; 100];
        memory.read_slice(&mut bytes, GuestAddress(BUFFERS)).unwrap();
        assert_ne!(bytes, [0; 100]);
    }

    #[test]
    fn buffer_that_the_device_must_not_write_is_left_alone() {
        let memory = memory();
        let mut test = queue_with(&memory, &[(BUFFERS, 100, 0)]);
        test.queue.drain(serve).unwrap();
        assert_eq!(test.used_length(), Some(0));
        assert_eq!(memory.read_obj::<u64>(GuestAddress(BUFFERS)).unwrap(), 0);
    }

    proptest! {
        #[test]
        fn arbitrary_chains_never_panic(chain in prop::collection::vec((any::<u64>(), any::<u32>(), 0u16..8), 0..8)) {
            let memory = memory();
            let _ = queue_with(&memory, &chain).queue.drain(serve);
        }
    }
}
