//! A virtqueue in the hands of the device that serves it.

use std::error::Error;
use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Error as RingError, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::Memory;
use crate::virtio::counters::QueueCounters;
use crate::virtio::notify::Interrupt;
use crate::virtio::state::SavedQueue;

/// The guest broke the rules of a queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Those of the ring, or it gave addresses outside its memory.
    #[error("the guest's virtqueue is broken: {0}")]
    Ring(#[from] RingError),
    /// A chain of descriptors that is nothing that the device knows.
    #[error("the guest sent {0}")]
    Nonsense(&'static str),
}

/// A queue with the event by which the driver kicks it and the way to interrupt the driver.
#[derive(Debug)]
pub struct ActiveQueue {
    queue: Queue,
    number: u16,
    kick: EventFd,
    interrupt: Interrupt,
    memory: Memory,
    counters: QueueCounters,
    /// How many buffers had been used when the driver was told last, or needed not be.
    told: Wrapping<u16>,
}

impl ActiveQueue {
    /// Takes a queue that the driver has set up as its number `number`.
    pub fn new(
        queue: Queue,
        number: u16,
        kick: EventFd,
        interrupt: Interrupt,
        memory: Memory,
        counters: QueueCounters,
    ) -> Self {
        let told = Wrapping(queue.next_used());
        Self { queue, number, kick, interrupt, memory, counters, told }
    }

    /// Readable when the driver has put buffers into the queue.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// Its number among the device's.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// The same as another number.
    #[cfg(any(test, feature = "fuzzing"))]
    #[cfg_attr(feature = "fuzzing", allow(dead_code))]
    pub(crate) fn numbered(self, number: u16) -> Self {
        Self { number, ..self }
    }

    /// Where it lies and how far it has come.
    pub(crate) fn save(&self) -> SavedQueue {
        SavedQueue::of(&self.queue.state())
    }

    /// Whether no chain of it has ever been taken.
    pub(crate) fn is_untouched(&self) -> bool {
        self.queue.next_avail() == 0
    }

    /// The memory that its chains point into.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Swallows the kicks so far.
    pub fn clear_kick(&self) {
        // Fails only when there was no kick, which is what is wanted.
        if self.kick.read().is_ok() {
            self.counters.kicks.count();
        }
    }

    /// The next chain that the driver made available, and the memory it points into.
    pub fn pop(&mut self) -> Result<Option<(&Memory, DescriptorChain<&Memory>)>, QueueError> {
        let chain = self.queue.iter(&self.memory)?.next();
        #[cfg(feature = "planted-holes")]
        chain.iter().for_each(|chain| crate::planted::take(&self.memory, chain));
        Ok(chain.map(|chain| (&self.memory, chain)))
    }

    /// Gives the chain popped last back to the ring, as if it had not been popped.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives the last `count` chains back likewise.
    pub fn undo_pops(&mut self, count: u16) {
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    /// How many descriptors it has.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Returns a chain to the driver with `written` bytes in it.
    pub fn push_used(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        Ok(self.queue.add_used(&self.memory, head, written)?)
    }

    /// Returns chains to the driver, each with so many bytes in it, so that it sees all of them or none.
    pub fn push_used_together(&mut self, chains: &[(u16, u32)]) -> Result<(), QueueError> {
        let Some((&(last_head, last_length), others)) = chains.split_last() else { return Ok(()) };
        let ring = self.queue.used_ring();
        let mut next = self.queue.next_used();
        for &(head, length) in others {
            // Behind the header, elements of 8 bytes each.
            let place = 4 + 8 * u64::from(next % self.queue.size());
            let place = ring.checked_add(place).ok_or(RingError::AddressOverflow)?;
            let element = u64::from(head) | u64::from(length) << 32;
            self.memory.write_obj(element.to_le(), GuestAddress(place)).map_err(RingError::GuestMemory)?;
            next = next.wrapping_add(1);
        }
        // The last one, and with it the index that shows them all.
        self.queue.set_next_used(next);
        self.push_used(last_head, last_length)
    }

    /// Interrupts the driver if it wants to know of the buffers used so far.
    pub fn notify(&mut self) -> Result<(), QueueError> {
        if self.driver_waits()? {
            self.counters.interrupts.count();
            self.interrupt.used(self.number);
        }
        Ok(())
    }

    /// Whether the driver wants an interrupt for what has been used since it was asked last (virtio
    /// 1.2, §2.7.7.2).
    fn driver_waits(&mut self) -> Result<bool, QueueError> {
        let used = Wrapping(self.queue.next_used());
        let before = std::mem::replace(&mut self.told, used);
        if used == before {
            return Ok(false);
        }
        // The driver sees the buffers before its wish is read: it looks again when it has changed that.
        fence(Ordering::SeqCst);
        let ring = self.queue.avail_ring();
        if self.queue.event_idx_enabled() {
            let event: u16 = self.load(ring, 4 + 2 * u64::from(self.queue.size()))?;
            let event = Wrapping(u16::from_le(event));
            Ok(used - event - Wrapping(1) < used - before)
        } else {
            let flags: u16 = self.load(ring, 0)?;
            Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
        }
    }

    fn load(&self, ring: u64, offset: u64) -> Result<u16, QueueError> {
        let place = ring.checked_add(offset).ok_or(RingError::AddressOverflow)?;
        Ok(self.memory.load(GuestAddress(place), Ordering::Relaxed).map_err(RingError::GuestMemory)?)
    }

    /// Asks the driver for no kicks while the queue is polled, until [`rearm`](Self::rearm).
    pub fn disarm(&mut self) -> Result<(), QueueError> {
        Ok(self.queue.disable_notification(&self.memory)?)
    }

    /// Asks the driver for a kick at the next buffer; `true` if there is one already.
    pub fn rearm(&mut self) -> Result<bool, QueueError> {
        Ok(self.queue.enable_notification(&self.memory)?)
    }

    /// Whether the driver has made a chain available that was not popped.
    pub fn has_more(&self) -> Result<bool, QueueError> {
        let available = self.queue.avail_idx(&self.memory, Ordering::Acquire)?;
        Ok(available.0 != self.queue.next_avail())
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
            self.serve_turns(&mut turns, &mut serve)?;
            if turns == 0 {
                self.come_back();
                return Ok(());
            }
            if !self.rearm()? {
                return Ok(());
            }
        }
    }

    /// Serves what is there now, a queue's length at most. The driver does not kick for more until
    /// [`rearm`](Self::rearm).
    pub fn serve<F, E>(&mut self, mut serve: F) -> Result<(), E>
    where
        F: FnMut(&Memory, DescriptorChain<&Memory>) -> Result<Option<u32>, E>,
        E: From<QueueError>,
    {
        let mut turns = self.queue.size();
        self.serve_turns(&mut turns, &mut serve)
    }

    fn serve_turns<F, E>(&mut self, turns: &mut u16, serve: &mut F) -> Result<(), E>
    where
        F: FnMut(&Memory, DescriptorChain<&Memory>) -> Result<Option<u32>, E>,
        E: From<QueueError>,
    {
        self.disarm()?;
        while *turns > 0
            && let Some(chain) = self.queue.iter(&self.memory).map_err(QueueError::from)?.next()
        {
            *turns -= 1;
            #[cfg(feature = "planted-holes")]
            crate::planted::take(&self.memory, &chain);
            let head = chain.head_index();
            let Some(written) = serve(&self.memory, chain)? else { continue };
            self.push_used(head, written)?;
            // With EVENT_IDX this interrupts only where the driver asked for it.
            self.notify()?;
        }
        Ok(())
    }

    /// Kicks the queue in the driver's place, so that it is served when others have had their turn.
    pub fn come_back(&self) {
        // Fails only when the counter is full: it is kicked already.
        let _ = self.kick.write(1);
    }

    /// The device cannot go on: the driver must reset it, and the machine's owner learns why.
    pub fn fail(&self, device: &str, error: &dyn Error) {
        self.interrupt.fail(device, error);
    }
}

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(feature = "fuzzing", allow(dead_code, unused_imports))]
#[allow(clippy::unwrap_used, clippy::panic)] // Clippy knows tests by `cfg(test)` alone.
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::virtio::test_queue::{BUFFERS, memory, queue_with_chains};

    /// Runs a driver's `program`: what it does, where, and a value.
    pub(crate) fn run(program: &[u8]) {
        let memory = memory();
        let chain = [(BUFFERS, 8, 0), (BUFFERS + 64, 16, 2)];
        let mut test = queue_with_chains(&memory, &[&chain[..]; 4]);
        test.queue.queue.set_event_idx(program.len().is_multiple_of(2));
        for step in program.chunks_exact(4) {
            let [what, place, value @ ..] = step else { continue };
            let place = u64::from(*place);
            match what % 8 {
                // Anywhere in descriptors and available ring.
                0..=2 => memory.write_slice(value, GuestAddress(place * 2 % 0x180)).unwrap(),
                // A descriptor's place, length, flags and next.
                3 => {
                    let fields = [u64::from(value[0]) << (what >> 3), u64::from(value[1]) << (what >> 4)];
                    memory.write_obj(fields[0], GuestAddress(place % 16 * 16)).unwrap();
                    memory.write_obj(fields[1], GuestAddress(place % 16 * 16 + 8)).unwrap();
                }
                4 => memory.write_obj(u16::from(value[0]), GuestAddress(0x102)).unwrap(),
                5 => drop(test.queue.driver_waits()),
                _ => {
                    let (mut served, mut bytes) = (0, 0u64);
                    let drained = test.queue.drain(|memory, chain| {
                        served += 1;
                        for descriptor in chain {
                            bytes += u64::from(descriptor.len());
                            let mut first = [0; 1];
                            let _ = memory.read_slice(&mut first, descriptor.addr());
                        }
                        Ok::<_, QueueError>(u32::try_from(bytes % 0x1000).unwrap())
                    });
                    assert!(served <= 16, "a turn of {served} chains");
                    if drained.is_err() {
                        return;
                    }
                }
            }
        }
    }

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

    #[test]
    fn queue_that_is_looked_at_tells_whether_there_is_more() {
        let memory = memory();
        let mut test = queue_with_chains(&memory, &[&[(BUFFERS, 8, 0)][..]; 2]);
        assert!(test.queue.has_more().unwrap());
        test.queue.serve(|_, _| Ok::<_, QueueError>(Some(0))).unwrap();
        assert!(!test.queue.has_more().unwrap());
        test.queue.come_back();
        assert_eq!(test.queue.kick().read().unwrap(), 1);
    }

    #[test]
    fn chains_returned_together_are_seen_in_order_and_told_of_once() {
        let memory = memory();
        let chain = [(BUFFERS, 8, 0)];
        let mut test = queue_with_chains(&memory, &[&chain[..]; 3]);
        let heads: Vec<u16> =
            std::iter::from_fn(|| test.queue.pop().unwrap().map(|(_, chain)| chain.head_index())).collect();
        let used: Vec<(u16, u32)> = heads.iter().copied().zip([10, 20, 30]).collect();
        test.queue.push_used_together(&[]).unwrap();
        test.queue.notify().unwrap();
        assert_eq!(test.counters.interrupts.get(), 0);
        test.queue.push_used_together(&used).unwrap();
        test.queue.notify().unwrap();
        test.queue.notify().unwrap();
        assert_eq!(test.counters.interrupts.get(), 1);
        let expected: Vec<(u32, u32)> = used.iter().map(|&(head, length)| (head.into(), length)).collect();
        assert_eq!(test.used(), expected);
    }

    #[test]
    fn chains_given_back_come_again() {
        let memory = memory();
        let chain = [(BUFFERS, 8, 0)];
        let mut test = queue_with_chains(&memory, &[&chain[..]; 3]);
        let pop = |queue: &mut ActiveQueue| queue.pop().unwrap().map(|(_, chain)| chain.head_index());
        let first = pop(&mut test.queue);
        pop(&mut test.queue);
        test.queue.undo_pops(2);
        assert_eq!(pop(&mut test.queue), first);
    }

    #[test]
    fn driver_is_told_where_it_asked_for_it_and_not_between() {
        let memory = memory();
        let chain = [(BUFFERS, 8, 0)];
        let mut test = queue_with_chains(&memory, &[&chain[..]; 8]);
        test.queue.queue.set_event_idx(true);
        let mut told = |wanted: u16, used: &[(u16, u32)]| {
            // Behind the ring of available chains, which is behind 16 descriptors.
            memory.write_obj(wanted, GuestAddress(16 * 16 + 4 + 2 * 16)).unwrap();
            let before = test.counters.interrupts.get();
            test.queue.push_used_together(used).unwrap();
            test.queue.notify().unwrap();
            test.counters.interrupts.get() - before
        };
        assert_eq!(told(0, &[(0, 0)]), 1);
        assert_eq!(told(5, &[(1, 0), (2, 0), (3, 0)]), 0);
        assert_eq!(told(5, &[(4, 0), (5, 0), (6, 0)]), 1, "the one that it asked for is among them");
        assert_eq!(told(5, &[(7, 0)]), 0);
    }

    #[test]
    fn driver_that_wants_no_interrupts_gets_none() {
        let memory = memory();
        let mut test = queue_with_chains(&memory, &[&[(BUFFERS, 8, 0)][..]; 2]);
        memory.write_obj(1u16, GuestAddress(16 * 16)).unwrap();
        test.queue.push_used(0, 0).unwrap();
        test.queue.notify().unwrap();
        assert_eq!(test.counters.interrupts.get(), 0);
        memory.write_obj(0u16, GuestAddress(16 * 16)).unwrap();
        test.queue.push_used(1, 0).unwrap();
        test.queue.notify().unwrap();
        assert_eq!(test.counters.interrupts.get(), 1);
    }

    proptest! {
        #[test]
        fn rings_that_change_under_way_end_each_turn(program in prop::collection::vec(any::<u8>(), 0..200)) {
            run(&program);
        }
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) use tests::run as fuzz;
