//! A virtqueue in the hands of the device that serves it.

use std::error::Error;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::Interrupt;
use crate::memory::Memory;

/// The guest broke the rules of a queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Those of the ring, or it gave addresses outside its memory.
    #[error("the guest's virtqueue is broken: {0}")]
    Ring(#[from] virtio_queue::Error),
    /// A chain of descriptors that is nothing that the device knows.
    #[error("the guest sent {0}")]
    Nonsense(&'static str),
}

/// A queue with the event by which the driver kicks it and the way to interrupt the driver.
#[derive(Debug)]
pub struct ActiveQueue {
    queue: Queue,
    kick: EventFd,
    interrupt: Interrupt,
    memory: Memory,
}

impl ActiveQueue {
    /// Takes a queue that the driver has set up.
    pub fn new(queue: Queue, kick: EventFd, interrupt: Interrupt, memory: Memory) -> Self {
        Self { queue, kick, interrupt, memory }
    }

    /// Readable when the driver has put buffers into the queue.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// The memory that its chains point into.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Swallows the kicks so far.
    pub fn clear_kick(&self) {
        // Fails only when there was no kick, which is what is wanted.
        let _ = self.kick.read();
    }

    /// The next chain that the driver made available, and the memory it points into.
    pub fn pop(&mut self) -> Result<Option<(&Memory, DescriptorChain<&Memory>)>, QueueError> {
        let chain = self.queue.iter(&self.memory)?.next();
        Ok(chain.map(|chain| (&self.memory, chain)))
    }

    /// Gives the chain popped last back to the ring, as if it had not been popped.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Returns a chain to the driver with `written` bytes in it.
    pub fn push_used(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        Ok(self.queue.add_used(&self.memory, head, written)?)
    }

    /// Interrupts the driver if it wants to know of the buffers used so far.
    pub fn notify(&mut self) -> Result<(), QueueError> {
        if self.queue.needs_notification(&self.memory)? {
            self.interrupt.signal_used();
        }
        Ok(())
    }

    /// Asks the driver for a kick at the next buffer; `true` if there is one already.
    pub fn rearm(&mut self) -> Result<bool, QueueError> {
        Ok(self.queue.enable_notification(&self.memory)?)
    }

    /// Hands the available chains to `serve`, which returns how many bytes it wrote, until the queue
    /// is empty and the driver knows that it must kick.
    ///
    /// A driver that fills the queue as fast as it is emptied gets a queue's length at a time: the
    /// queue is kicked then, and whoever else waits for the thread has its turn before.
    pub fn drain<F, E>(&mut self, mut serve: F) -> Result<(), E>
    where
        F: FnMut(&Memory, DescriptorChain<&Memory>) -> Result<u32, E>,
        E: From<QueueError>,
    {
        self.drain_some(|memory, chain| serve(memory, chain).map(Some))
    }

    /// The same, but a chain for which `serve` returns nothing is kept: [`Self::push_used`] returns it.
    pub fn drain_some<F, E>(&mut self, mut serve: F) -> Result<(), E>
    where
        F: FnMut(&Memory, DescriptorChain<&Memory>) -> Result<Option<u32>, E>,
        E: From<QueueError>,
    {
        let mut turns = self.queue.size();
        loop {
            self.queue.disable_notification(&self.memory).map_err(QueueError::from)?;
            while turns > 0
                && let Some(chain) = self.queue.iter(&self.memory).map_err(QueueError::from)?.next()
            {
                turns -= 1;
                let head = chain.head_index();
                let Some(written) = serve(&self.memory, chain)? else { continue };
                self.push_used(head, written)?;
                // With EVENT_IDX this interrupts only where the driver asked for it.
                self.notify()?;
            }
            if turns == 0 {
                // Fails only when the counter is full: it is kicked already.
                let _ = self.kick.write(1);
                return Ok(());
            }
            if !self.rearm()? {
                return Ok(());
            }
        }
    }

    /// The device cannot go on: the driver must reset it, and the machine's owner learns why.
    pub fn fail(&self, device: &str, error: &dyn Error) {
        self.interrupt.fail(device, error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::test_queue::{BUFFERS, memory, queue_with_chains};

    #[test]
    fn turn_of_a_queue_ends_after_its_length() {
        let memory = memory();
        let chain = [(BUFFERS, 8, 0)];
        let mut test = queue_with_chains(&memory, &[&chain[..]; 16]);
        let mut served = 0;
        let mut serve = |_: &Memory, _: DescriptorChain<&Memory>| {
            served += 1;
            Ok::<_, QueueError>(0)
        };
        test.queue.drain(&mut serve).unwrap();
        assert_eq!(test.queue.kick().read().unwrap(), 1);
        test.queue.drain(&mut serve).unwrap();
        assert_eq!(served, 16);
        assert!(test.queue.kick().read().is_err(), "an empty queue is not kicked");
    }
}
