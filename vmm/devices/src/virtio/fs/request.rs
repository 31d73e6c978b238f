//! Requests as the server reads them.
//!
//! ```text
//!   guest memory                     private memory
//!   chain: header, arguments  ─copy▶ header, arguments ─▶ Reader
//!          data of a write    ─────────────────────────▶ Reader
//!          room for the reply ─────────────────────────▶ Writer
//! ```
//!
//! The guest may change its memory at any time. So what decides how a request is served is copied,
//! once, and only the copy is looked at, here and in virtiofsd. The data of a write stays where it is:
//! it goes to the file and decides nothing.

use std::io;
use std::sync::Arc;

use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{InHeader, Opcode, OutHeader, WriteIn};
use vm_memory::{Bytes, GuestAddress, GuestMemory};

use crate::memory::{GuestRegion, Memory};
use crate::virtio::queue::QueueError;

/// Where the private memory lies, for virtiofsd, which knows one address space: far from any guest's.
const PRIVATE: u64 = 1 << 56;

/// Most descriptors of a request. The driver's largest has 256 pages of data, and a few more.
const MAX_DESCRIPTORS: u16 = 1024;
/// Most bytes of a request but for the data of a write. The largest that there is sets an extended
/// attribute, of at most 64 KiB.
const MAX_BYTES: usize = 128 << 10;
/// What is copied of a write.
const WRITE_BYTES: usize = size_of::<InHeader>() + size_of::<WriteIn>();

/// What lies where in the private memory: a queue, and the bytes that were copied.
const AVAILABLE_AT: usize = MAX_DESCRIPTORS as usize * size_of::<Descriptor>();
const USED_AT: usize = AVAILABLE_AT + 0x1000;
const BYTES_AT: usize = USED_AT + 0x3000;
const PRIVATE_BYTES: usize = BYTES_AT + MAX_BYTES;
const TABLE: u64 = PRIVATE;
const AVAILABLE: u64 = PRIVATE + AVAILABLE_AT as u64;
const USED: u64 = PRIVATE + USED_AT as u64;
const BYTES: u64 = PRIVATE + BYTES_AT as u64;

/// `VIRTQ_DESC_F_NEXT`
const NEXT: u16 = 1;

/// A request whose header is ours.
pub(super) struct Request<'r> {
    pub(super) header: InHeader,
    pub(super) reader: Reader<'r>,
    pub(super) writer: Writer<'r>,
}

impl Request<'_> {
    /// Whether the guest waits for a reply.
    pub(super) fn is_answered(&self) -> bool {
        let unanswered = [Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt];
        !unanswered.into_iter().any(|opcode| opcode as u32 == self.header.opcode)
    }
}

/// The private memory: room for one request at a time, as a chain of descriptors, since those are
/// what virtiofsd's reader takes.
pub(super) struct Staging {
    guest: Memory,
    /// The guest's memory and the private one.
    both: Memory,
    queue: PrivateQueue,
}

impl Staging {
    pub(super) fn new(guest: &Memory) -> io::Result<Self> {
        let private =
            GuestRegion::from_range(GuestAddress(PRIVATE), PRIVATE_BYTES, None).map_err(io::Error::other)?;
        let both = guest.insert_region(Arc::new(private)).map_err(io::Error::other)?;
        let queue = PrivateQueue::new().map_err(io::Error::other)?;
        Ok(Self { guest: guest.clone(), both, queue })
    }

    /// Takes the request that the guest's `chain` holds.
    pub(super) fn take<'r>(
        &'r mut self,
        chain: DescriptorChain<&'r Memory>,
    ) -> Result<Request<'r>, QueueError> {
        let (header, descriptors) = self.copy(chain.clone())?;
        let ours = self.queue.chain(&self.both, &descriptors)?;
        let reader = Reader::<BitmapMmapRegion>::new(&self.both, ours).map_err(|_| OUTSIDE)?;
        let writer = Writer::<BitmapMmapRegion>::new(&self.guest, chain).map_err(|_| OUTSIDE)?;
        let request = Request { header, reader, writer };
        // virtiofsd takes it for granted that a reply's header fits.
        if request.is_answered() && request.writer.available_bytes() < size_of::<OutHeader>() {
            return Err(QueueError::Nonsense("a file system request without room for the reply"));
        }
        Ok(request)
    }

    /// Copies what must not change; gives the descriptors of the copy and of what was left.
    fn copy(&self, chain: DescriptorChain<&Memory>) -> Result<(InHeader, Vec<Descriptor>), QueueError> {
        let mut parts = Parts { guest: &self.guest, both: &self.both, left: Vec::new(), copied: 0 };
        for descriptor in chain.readable() {
            if parts.left.len() + 2 > usize::from(MAX_DESCRIPTORS) {
                return Err(TOO_LONG);
            }
            parts.left.push((descriptor.addr(), descriptor.len()));
        }
        parts.left.reverse();
        parts.copy_until(size_of::<InHeader>())?;
        if parts.copied < size_of::<InHeader>() {
            return Err(QueueError::Nonsense("a file system request without a header"));
        }
        let header: InHeader = self.both.read_obj(GuestAddress(BYTES)).map_err(|_| OUTSIDE)?;
        let is_write = header.opcode == Opcode::Write as u32;
        parts.copy_until(if is_write { WRITE_BYTES } else { MAX_BYTES })?;
        if !is_write && !parts.left.is_empty() {
            return Err(TOO_LONG);
        }
        Ok((header, parts.descriptors()?))
    }
}

/// A queue in which every chain starts at the first descriptor.
struct PrivateQueue {
    queue: Queue,
    available: u16,
}

impl PrivateQueue {
    fn new() -> Result<Self, virtio_queue::Error> {
        let mut queue = Queue::new(MAX_DESCRIPTORS)?;
        queue.try_set_desc_table_address(GuestAddress(TABLE))?;
        queue.try_set_avail_ring_address(GuestAddress(AVAILABLE))?;
        queue.try_set_used_ring_address(GuestAddress(USED))?;
        queue.set_ready(true);
        Ok(Self { queue, available: 0 })
    }

    /// Makes `descriptors` the next chain, and takes it.
    fn chain<'m>(
        &mut self,
        memory: &'m Memory,
        descriptors: &[Descriptor],
    ) -> Result<DescriptorChain<&'m Memory>, QueueError> {
        for (descriptor, at) in descriptors.iter().zip((TABLE..).step_by(size_of::<Descriptor>())) {
            memory.write_obj(*descriptor, GuestAddress(at)).map_err(|_| OUTSIDE)?;
        }
        self.available = self.available.wrapping_add(1);
        memory.write_obj(self.available.to_le(), GuestAddress(AVAILABLE + 2)).map_err(|_| OUTSIDE)?;
        // The ring is zeroes.
        self.queue.iter(memory)?.next().ok_or(OUTSIDE)
    }
}

const TOO_LONG: QueueError = QueueError::Nonsense("a file system request that is longer than any");
const OUTSIDE: QueueError = QueueError::Nonsense("a file system request outside its memory");

/// A request on its way into the private memory.
struct Parts<'m> {
    guest: &'m Memory,
    both: &'m Memory,
    /// What has not been copied, last first.
    left: Vec<(GuestAddress, u32)>,
    copied: usize,
}

impl Parts<'_> {
    /// Copies until there are `end` bytes, or until there are no more.
    fn copy_until(&mut self, end: usize) -> Result<(), QueueError> {
        while self.copied < end
            && let Some((from, length)) = self.left.pop()
        {
            let whole = usize::try_from(length).map_err(|_| TOO_LONG)?;
            let count = whole.min(end - self.copied);
            let source = self.guest.get_slice(from, count).map_err(|_| OUTSIDE)?;
            let at = BYTES.saturating_add(u64::try_from(self.copied).unwrap_or(u64::MAX));
            let target = self.both.get_slice(GuestAddress(at), count).map_err(|_| OUTSIDE)?;
            source.copy_to_volatile_slice(target);
            self.copied += count;
            if count < whole {
                let taken = u32::try_from(count).map_err(|_| TOO_LONG)?;
                let rest = GuestAddress(from.0.saturating_add(u64::from(taken)));
                self.left.push((rest, length - taken));
            }
        }
        Ok(())
    }

    /// Descriptors of the copy, and of the guest's memory behind it.
    fn descriptors(&self) -> Result<Vec<Descriptor>, QueueError> {
        let copied = u32::try_from(self.copied).map_err(|_| TOO_LONG)?;
        let mut parts = vec![(GuestAddress(BYTES), copied)];
        for &(address, length) in self.left.iter().rev() {
            let bytes = usize::try_from(length).map_err(|_| TOO_LONG)?;
            // Nothing that the guest names may lie in the private memory.
            if !self.guest.check_range(address, bytes) {
                return Err(OUTSIDE);
            }
            parts.push((address, length));
        }
        let last = parts.len() - 1;
        let numbered = (0u16..).zip(parts).map(|(index, (address, length))| {
            let more = usize::from(index) < last;
            Descriptor::new(address.0, length, if more { NEXT } else { 0 }, index.saturating_add(1))
        });
        Ok(numbered.collect())
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
