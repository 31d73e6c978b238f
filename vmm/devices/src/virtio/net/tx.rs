//! Frames of the guest's into the tap.
//!
//! The header before each frame is the guest's word to the host's kernel, which checks it as it would
//! any program's that has the tap: what it refuses is counted, and the next frame has its turn.

use std::io;

use virtio_queue::DescriptorChain;

use super::tap::{MAX_FRAME_PIECES, Pieces, Tap};
use super::{HEADER_BYTES, MAX_FRAME_BYTES};
use crate::memory::Memory;
use crate::virtio::queue::{ActiveQueue, QueueError};

/// How many frames are returned to the driver together.
const BATCH: usize = 32;

/// What became of one look at the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// A frame of so many bytes, its header included, is with the tap.
    Frame(usize),
    /// It went nowhere: there is no link.
    Unlinked,
    /// It is none, or the host's kernel refuses it.
    Nonsense,
    /// The tap has no room for it; it will.
    Blocked,
    /// The tap is gone, and the frame with it.
    Lost,
    /// There is none.
    Nothing,
}

/// The transmit queue.
pub(super) struct Sender {
    queue: ActiveQueue,
    pieces: Pieces,
    /// Sent, and not returned to the driver yet.
    used: Vec<(u16, u32)>,
}

impl Sender {
    pub(super) fn new(queue: ActiveQueue) -> Self {
        let pieces = Pieces::new(queue.memory().clone());
        Self { queue, pieces, used: Vec::with_capacity(BATCH) }
    }

    pub(super) fn queue(&self) -> &ActiveQueue {
        &self.queue
    }

    pub(super) fn queue_mut(&mut self) -> &mut ActiveQueue {
        &mut self.queue
    }

    pub(super) fn into_queue(self) -> ActiveQueue {
        self.queue
    }

    /// Sends the next frame, or drops it where there is no link.
    pub(super) fn send(&mut self, tap: &impl Tap, linked: bool) -> Result<Sent, QueueError> {
        let Some((_, chain)) = self.queue.pop()? else { return Ok(Sent::Nothing) };
        let head = chain.head_index();
        let sent = match gather(&mut self.pieces, chain) {
            None => Sent::Nonsense,
            Some(_) if !linked => Sent::Unlinked,
            Some(bytes) => write(&self.pieces, tap, bytes),
        };
        self.pieces.advance(self.pieces.count());
        if sent == Sent::Blocked {
            self.queue.undo_pop();
        } else {
            self.used.push((head, 0));
            if self.used.len() >= BATCH {
                self.give_back()?;
            }
        }
        Ok(sent)
    }

    /// Returns to the driver what has been sent, and tells it if it wants to know.
    pub(super) fn give_back(&mut self) -> Result<(), QueueError> {
        self.queue.push_used_together(&self.used)?;
        self.used.clear();
        self.queue.notify()
    }
}

/// The pieces of a frame and their bytes; nothing if it is none.
fn gather(pieces: &mut Pieces, chain: DescriptorChain<&Memory>) -> Option<usize> {
    let mut bytes: usize = 0;
    for (number, descriptor) in (1..).zip(chain) {
        let length = usize::try_from(descriptor.len()).ok()?;
        bytes = bytes.checked_add(length).filter(|&bytes| bytes <= MAX_FRAME_BYTES)?;
        if number > MAX_FRAME_PIECES || descriptor.is_write_only() {
            return None;
        }
        if length > 0 && !pieces.push(descriptor.addr(), length) {
            return None;
        }
    }
    (bytes > HEADER_BYTES).then_some(bytes)
}

fn write(pieces: &Pieces, tap: &impl Tap, bytes: usize) -> Sent {
    match pieces.send(tap.as_fd()) {
        Ok(_) => Sent::Frame(bytes),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Sent::Blocked,
            _ if is_gone(&error) => Sent::Lost,
            // The interface is down.
            _ if error.raw_os_error() == Some(libc::EIO) => Sent::Unlinked,
            _ => Sent::Nonsense,
        },
    }
}

/// What a tap says whose interface has been removed.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::ENODEV | libc::EBADF))
}

#[cfg(test)]
#[path = "tx_tests.rs"]
mod tests;
