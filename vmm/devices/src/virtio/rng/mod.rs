//! virtio-rng: entropy for the guest (virtio 1.2, §5.4).
//!
//! One queue of device-writable buffers, filled from the host kernel's pool.

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber, SubscriberId};
use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::DescriptorChain;
use vm_memory::Bytes;

use crate::event_loop::{LoopError, LoopHandle, LoopWorker};
use crate::memory::Memory;
use crate::virtio::config_space::ConfigSpace;
use crate::virtio::device::{ActivateError, Activation, VirtioDevice};
use crate::virtio::queue::{ActiveQueue, QueueError};
use crate::virtio::state::{DeviceState, StateError, Suspended};

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
    config: ConfigSpace,
    worker: Option<SubscriberId>,
}

impl Rng {
    /// A device whose worker runs on `events`.
    pub fn new(events: LoopHandle) -> Self {
        Self { events, config: ConfigSpace::new([]), worker: None }
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

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let [queue] = activation.take_queues()?;
        self.worker = Some(self.events.add(Box::new(RngWorker { queue }))?);
        Ok(())
    }

    fn suspend(&mut self) -> Option<Suspended> {
        // Fails only when the loop is gone, and the worker with it.
        self.events.remove(self.worker.take()?).ok()
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        state.is_nothing(NAME, VIRTIO_ID_RNG)
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

impl LoopWorker for RngWorker {
    fn suspend(self: Box<Self>) -> Suspended {
        Suspended { queues: vec![self.queue], state: Ok(DeviceState::nothing(VIRTIO_ID_RNG)) }
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
    use crate::event_loop::EventLoop;
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

    #[test]
    fn suspended_device_goes_on_where_it_was_with_what_came_meanwhile() {
        let events = EventLoop::start(|why| panic!("{why}")).unwrap();
        let mut rng = super::Rng::new(events.handle());
        assert!(rng.suspend().is_none());
        let memory = memory();
        let test = queue_with(&memory, &[(BUFFERS, 8, WRITE)]);
        let (mut activation, written) = (test.activation(), || memory.read_obj::<u64>(GuestAddress(BUFFERS)));
        activation.queues[0].as_ref().unwrap().kick().write(1).unwrap();
        rng.activate(activation).unwrap();
        while written().unwrap() == 0 {
            std::thread::yield_now();
        }
        let suspended = rng.suspend().unwrap();
        let state = suspended.state.unwrap();
        rng.restore(&state).unwrap();
        let foreign = DeviceState { device_type: 1, ..state.clone() };
        assert!(matches!(rng.restore(&foreign), Err(StateError::Foreign { found: 1, .. })));
        assert_eq!(rng.restore(&DeviceState { bytes: vec![1], ..state }), Err(StateError::Damaged(NAME)));
        let [mut queue] = <[_; 1]>::try_from(suspended.queues).unwrap();
        assert!(queue.pop().unwrap().is_none(), "it has served the chain");
        activation = queue_with(&memory, &[]).activation();
        activation.queues = vec![Some(queue)];
        rng.activate(activation).unwrap();
    }

    proptest! {
        #[test]
        fn arbitrary_chains_never_panic(chain in prop::collection::vec((any::<u64>(), any::<u32>(), 0u16..8), 0..8)) {
            let memory = memory();
            let _ = queue_with(&memory, &chain).queue.drain(serve);
        }
    }
}
