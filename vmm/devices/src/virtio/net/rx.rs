//! Frames from the tap into the guest's buffers.
//!
//! ```text
//!   queue ── chains popped ahead ──▶ held: pieces of memory, in order ── readv ──▶ the first of them are used
//! ```
//!
//! How long a frame is shows when it has been read. So enough buffers for any frame are held, and
//! one call puts the frame into as many of them as it needs.

use std::collections::VecDeque;
use std::io;

use virtio_queue::DescriptorChain;

use super::tap::{MAX_FRAME_PIECES, Pieces, Tap};
use super::{HEADER_BYTES, MAX_FRAME_BYTES};
use crate::memory::Memory;
use crate::virtio::queue::{ActiveQueue, QueueError};

/// Where `num_buffers` is in the header (virtio 1.2, §5.1.6).
const BUFFER_COUNT: usize = 10;

/// What became of one look at the tap.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A frame of so many bytes, its header included, is with the guest.
    Frame(usize),
    /// It did not fit into the guest's buffers.
    TooLong,
    /// It has not even a header.
    Nonsense,
    /// The guest has to give buffers first, and will kick then.
    NoBuffers,
    /// There is none.
    Nothing,
}

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The tap is gone.
    #[error("the tap is gone: {0}")]
    Tap(io::Error),
}

/// A chain of buffers that was taken out of the queue.
#[derive(Debug)]
struct Held {
    head: u16,
    pieces: usize,
    bytes: usize,
    descriptors: usize,
}

/// The receive queue.
pub(super) struct Receiver {
    queue: ActiveQueue,
    mergeable: bool,
    pieces: Pieces,
    held: VecDeque<Held>,
    /// Sums over the held chains.
    bytes: usize,
    descriptors: usize,
    /// Chains that are no buffers, seen since they were counted last.
    nonsense: u64,
    /// What goes back to the driver at once.
    used: Vec<(u16, u32)>,
}

impl Receiver {
    pub(super) fn new(queue: ActiveQueue, mergeable: bool) -> Self {
        let pieces = Pieces::new(queue.memory().clone());
        Self {
            queue,
            mergeable,
            pieces,
            held: VecDeque::new(),
            bytes: 0,
            descriptors: 0,
            nonsense: 0,
            used: Vec::new(),
        }
    }

    pub(super) fn queue(&self) -> &ActiveQueue {
        &self.queue
    }

    pub(super) fn queue_mut(&mut self) -> &mut ActiveQueue {
        &mut self.queue
    }

    /// The queue, with the buffers that were not used in it.
    pub(super) fn into_queue(mut self) -> ActiveQueue {
        self.queue.undo_pops(u16::try_from(self.held.len()).unwrap_or(u16::MAX));
        self.queue
    }

    /// How many chains were no buffers since this was asked last.
    pub(super) fn take_nonsense(&mut self) -> u64 {
        std::mem::take(&mut self.nonsense)
    }

    /// Gives the guest the next frame. It is told by [`ActiveQueue::notify`].
    pub(super) fn receive(&mut self, tap: &impl Tap) -> Result<Received, ReceiveError> {
        if !self.has_room()? {
            return Ok(Received::NoBuffers);
        }
        let (pieces, room) = self.offered();
        let length = match read(&mut self.pieces, tap, pieces)? {
            Some(length) => length,
            None => return Ok(Received::Nothing),
        };
        if length < HEADER_BYTES {
            return Ok(Received::Nonsense);
        }
        if length > room {
            return Ok(Received::TooLong);
        }
        self.hand_over(length)?;
        Ok(Received::Frame(length))
    }

    /// Takes the next frame and gives it to nobody.
    pub(super) fn discard(&mut self, tap: &impl Tap) -> Result<Received, ReceiveError> {
        let length = read(&mut self.pieces, tap, 0)?;
        Ok(if length.is_some() { Received::TooLong } else { Received::Nothing })
    }

    /// What a driver can make grow has an end.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held_is_bounded(&self) -> bool {
        self.held.len() <= self.queue.size().into() && self.pieces.count() <= 2 * MAX_FRAME_PIECES
    }

    /// Takes buffers out of the queue until any frame fits, or the guest has no more to give.
    fn has_room(&mut self) -> Result<bool, QueueError> {
        let mut looked_again = false;
        loop {
            self.drop_nonsense()?;
            if self.is_enough() {
                return Ok(true);
            }
            let held = self.queue.pop()?.map(|(_, chain)| hold(&mut self.pieces, chain));
            match held {
                Some(held) => {
                    self.nonsense += u64::from(held.bytes == 0);
                    self.bytes += held.bytes;
                    self.descriptors += held.descriptors;
                    self.held.push_back(held);
                }
                // With all descriptors held nothing more can come: it must do.
                None if self.bytes > 0 && self.descriptors >= self.queue.size().into() => return Ok(true),
                // Once: a driver that takes back what it gives finds nobody who waits for it.
                None if looked_again || !self.queue.rearm()? => return Ok(false),
                None => looked_again = true,
            }
        }
    }

    fn is_enough(&self) -> bool {
        // A driver that offers buffers twice does not make the list grow.
        let full = self.pieces.count() >= MAX_FRAME_PIECES || self.held.len() >= self.queue.size().into();
        self.bytes > 0 && (!self.mergeable || self.bytes >= MAX_FRAME_BYTES || full)
    }

    /// Gives chains back that are no buffers.
    fn drop_nonsense(&mut self) -> Result<(), QueueError> {
        while let Some(held) = self.held.front().filter(|held| held.bytes == 0) {
            self.queue.push_used(held.head, 0)?;
            self.descriptors = self.descriptors.saturating_sub(held.descriptors);
            self.held.pop_front();
        }
        Ok(())
    }

    /// The pieces for the next frame, and their bytes.
    fn offered(&self) -> (usize, usize) {
        let chains = if self.mergeable { self.held.len() } else { 1 };
        let (mut pieces, mut bytes) = (0, 0);
        for held in self.held.iter().take(chains) {
            if pieces + held.pieces > MAX_FRAME_PIECES {
                break;
            }
            pieces += held.pieces;
            bytes += held.bytes;
        }
        (pieces, bytes)
    }

    /// Gives the driver the first buffers, in which a frame of `length` bytes is.
    fn hand_over(&mut self, length: usize) -> Result<(), QueueError> {
        self.used.clear();
        let (mut left, mut pieces) = (length, 0);
        while left > 0 {
            let Some(held) = self.held.pop_front() else { break };
            let filled = left.min(held.bytes);
            left -= filled;
            pieces += held.pieces;
            self.bytes = self.bytes.saturating_sub(held.bytes);
            self.descriptors = self.descriptors.saturating_sub(held.descriptors);
            self.used.push((held.head, u32::try_from(filled).unwrap_or(u32::MAX)));
        }
        let buffers = u16::try_from(self.used.iter().filter(|(_, filled)| *filled > 0).count()).unwrap_or(0);
        // All of it is in the guest's memory, into which the kernel has just written.
        let _ = self.pieces.write(BUFFER_COUNT, &buffers.to_le_bytes());
        self.pieces.advance(pieces);
        self.give_back_between()?;
        self.queue.push_used_together(&self.used)
    }

    /// Chains between the frame's that are no buffers go back before it.
    fn give_back_between(&mut self) -> Result<(), QueueError> {
        for &(head, _) in self.used.iter().filter(|(_, filled)| *filled == 0) {
            self.queue.push_used(head, 0)?;
        }
        self.used.retain(|(_, filled)| *filled > 0);
        Ok(())
    }
}

/// Reads a frame into the first pieces; nothing if there is none.
fn read(pieces: &mut Pieces, tap: &impl Tap, count: usize) -> Result<Option<usize>, ReceiveError> {
    match tap.receive(pieces, count) {
        // No tap says so of a frame.
        Ok(0) => Err(ReceiveError::Tap(io::ErrorKind::UnexpectedEof.into())),
        Ok(length) => Ok(Some(length)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(ReceiveError::Tap(error)),
        },
    }
}

/// The pieces of a chain; one that is no buffer has none.
fn hold(pieces: &mut Pieces, chain: DescriptorChain<&Memory>) -> Held {
    let head = chain.head_index();
    // A buffer is at least one descriptor, whatever is wrong with it.
    let before = pieces.count();
    let mut held = Held { head, pieces: 0, bytes: 0, descriptors: 1 };
    for (number, descriptor) in (1..).zip(chain) {
        held.descriptors = number;
        let length = usize::try_from(descriptor.len()).unwrap_or(usize::MAX);
        let fits = descriptor.is_write_only()
            && held.pieces < MAX_FRAME_PIECES
            && number <= MAX_FRAME_PIECES
            && (length == 0 || pieces.push(descriptor.addr(), length));
        if !fits {
            pieces.truncate(before);
            (held.pieces, held.bytes) = (0, 0);
            break;
        }
        held.pieces += usize::from(length > 0);
        held.bytes = held.bytes.saturating_add(length);
    }
    held
}

#[cfg(test)]
#[path = "rx_tests.rs"]
mod tests;
