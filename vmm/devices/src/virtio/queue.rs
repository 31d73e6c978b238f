//! A virtqueue in the hands of the device that serves it.

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::Interrupt;
use crate::memory::Memory;

/// The guest broke the rules of the ring, or gave addresses outside its memory.
#[derive(Debug, thiserror::Error)]
#[error("the guest's virtqueue is broken: {0}")]
pub struct QueueError(#[from] virtio_queue::Error);

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

    /// The guest's memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
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

    /// Hands every available chain to `serve`, which returns how many bytes it
    /// wrote, until the queue is empty and the driver knows that it must kick.
    pub fn drain<F>(&mut self, mut serve: F) -> Result<(), QueueError>
    where
        F: FnMut(&Memory, DescriptorChain<&Memory>) -> u32,
    {
        self.drain_some(|memory, chain| Some(serve(memory, chain)))
    }

    /// The same, but a chain for which `serve` returns nothing is kept: [`Self::push_used`] returns it.
    pub fn drain_some<F>(&mut self, mut serve: F) -> Result<(), QueueError>
    where
        F: FnMut(&Memory, DescriptorChain<&Memory>) -> Option<u32>,
    {
        loop {
            self.queue.disable_notification(&self.memory)?;
            while let Some(chain) = self.queue.iter(&self.memory)?.next() {
                let head = chain.head_index();
                let Some(written) = serve(&self.memory, chain) else { continue };
                self.queue.add_used(&self.memory, head, written)?;
                // With EVENT_IDX this interrupts only where the driver asked for it.
                if self.queue.needs_notification(&self.memory)? {
                    self.interrupt.signal_used();
                }
            }
            if !self.queue.enable_notification(&self.memory)? {
                return Ok(());
            }
        }
    }

    /// The driver must reset the device: the queue cannot be trusted any more.
    pub fn fail(&self, device: &str, error: &QueueError) {
        log::warn!("{device}: {error}; the device waits for a reset");
        self.signal_needs_reset();
    }

    /// Tells the driver that it must reset the device.
    pub fn signal_needs_reset(&self) {
        self.interrupt.signal_needs_reset();
    }
}
