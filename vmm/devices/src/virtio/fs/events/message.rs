//! The two requests of the guest kernel's (`fs/fuse/watch.c`), and how events are written.

use virtio_queue::DescriptorChain;
use virtiofsd::descriptor_utils::Reader;
use virtiofsd::filesystem::Context;
use virtiofsd::fuse::{InHeader, OutHeader};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::super::ids::Node;
use crate::memory::Memory;

/// Tell what others do to an inode, or do so no more.
pub(crate) const WATCH: u32 = 62;
/// Tell it now.
pub(crate) const EVENTS: u32 = 63;

/// `FUSE_WATCH_END`: of no inode at all any more.
const END: u32 = 1;

/// Size of `struct fuse_out_header`.
const HEADER_BYTES: usize = 16;
/// Size of `struct fuse_event` but for the name.
const EVENT_BYTES: usize = 24;
/// An event with the longest name that there is.
const LARGEST: usize = EVENT_BYTES + 256;
/// Buffers and bytes of a reply that are used, at most.
const MOST_BUFFERS: usize = 8;
const MOST_BYTES: usize = 64 << 10;

/// What is asked of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchRequest {
    pub(crate) ctx: Context,
    pub(crate) node: Node,
    /// Events that are to be told; without any it is watched no more.
    pub(crate) mask: u32,
    /// Nothing is watched any more.
    pub(crate) is_end: bool,
}

impl WatchRequest {
    /// The request, if it is one.
    pub(crate) fn read(header: &InHeader, reader: &Reader<'_>) -> Option<Self> {
        if header.opcode != WATCH {
            return None;
        }
        let mut reader = reader.clone();
        reader.read_obj::<InHeader>().ok()?;
        let [mask, flags] = reader.read_obj::<[u32; 2]>().ok()?;
        Some(Self { ctx: Context::from(*header), node: header.nodeid, mask, is_end: flags & END != 0 })
    }
}

/// Where events go: the buffers of a request that waits.
#[derive(Debug)]
pub(crate) struct Room {
    buffers: Vec<(GuestAddress, usize)>,
}

impl Room {
    /// That of this chain, if it takes any event.
    pub(crate) fn of(chain: DescriptorChain<&Memory>) -> Option<Self> {
        let buffers = chain.writable().take(MOST_BUFFERS);
        let buffers = buffers.map(|buffer| Some((buffer.addr(), usize::try_from(buffer.len()).ok()?)));
        let room = Self { buffers: buffers.collect::<Option<_>>()? };
        (room.bytes() >= LARGEST).then_some(room)
    }

    /// How many bytes of events it takes.
    pub(crate) fn bytes(&self) -> usize {
        let all = self.buffers.iter().fold(0usize, |sum, (_, length)| sum.saturating_add(*length));
        all.min(MOST_BYTES).saturating_sub(HEADER_BYTES)
    }

    /// Writes the reply; returns its length, or nothing if the guest has no such memory.
    pub(crate) fn reply(&self, memory: &Memory, unique: u64, events: &[u8]) -> u32 {
        let Ok(len) = u32::try_from(HEADER_BYTES + events.len()) else { return 0 };
        let header = OutHeader { len, error: 0, unique };
        let reply = [header.as_slice(), events].concat();
        let mut left = reply.as_slice();
        for (address, length) in &self.buffers {
            let (now, later) = left.split_at(left.len().min(*length));
            if memory.write_slice(now, *address).is_err() {
                return 0;
            }
            left = later;
        }
        if left.is_empty() { len } else { 0 }
    }
}

/// An event as the guest is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) node: Node,
    pub(crate) mask: u32,
    /// What the two halves of a rename have in common.
    pub(crate) cookie: u32,
    /// In the directory that the node is; or empty.
    pub(crate) name: Box<[u8]>,
}

impl Told {
    /// Events of `node` were lost.
    pub(super) fn loss(node: Node) -> Self {
        Self { node, mask: libc::IN_Q_OVERFLOW, cookie: 0, name: Box::default() }
    }

    /// `node` has no name any more.
    pub(super) fn end(node: Node) -> Self {
        Self { mask: libc::IN_DELETE_SELF, ..Self::loss(node) }
    }

    /// How many bytes it is: a name has a zero at its end, and the next event is aligned.
    pub(super) fn size(&self) -> usize {
        let name = if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(8) };
        EVENT_BYTES + name
    }

    /// Appends it.
    pub(super) fn put(&self, bytes: &mut Vec<u8>) {
        let end = bytes.len() + self.size();
        let length = u32::try_from(self.name.len()).unwrap_or(0);
        bytes.extend_from_slice(&self.node.to_le_bytes());
        for word in [self.mask, self.cookie, length, 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&self.name);
        bytes.resize(end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::test_queue::{BUFFERS, WRITE, memory, queue_with};

    #[test]
    fn event_is_written_as_the_guest_reads_it() {
        let mut bytes = Vec::new();
        Told { node: 2, mask: 0x100, cookie: 5, name: (*b"name").into() }.put(&mut bytes);
        Told::loss(3).put(&mut bytes);
        assert_eq!(
            bytes,
            [
                &[2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0][..],
                b"name\0\0\0\0",
                &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ]
            .concat()
        );
        // A name that fills its place has its zero all the same.
        assert_eq!(Told { node: 2, mask: 1, cookie: 0, name: (*b"8 bytes!").into() }.size(), 24 + 16);
    }

    #[test]
    fn reply_goes_into_the_buffers_in_their_order_and_no_further() {
        let memory = memory();
        let chain = [(BUFFERS, 40, 0), (BUFFERS + 0x100, 16, WRITE), (BUFFERS + 0x1000, 300, WRITE)];
        let mut test = queue_with(&memory, &chain);
        let (_, chain) = test.queue.pop().unwrap().unwrap();
        let room = Room::of(chain).unwrap();
        assert_eq!(room.bytes(), 300);
        assert_eq!(room.reply(&memory, 9, &[7; 300]), 316);
        let header: [u32; 4] = memory.read_obj(GuestAddress(BUFFERS + 0x100)).unwrap();
        assert_eq!(header, [316, 0, 9, 0]);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(BUFFERS + 0x1000 + 299)).unwrap(), 7);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(BUFFERS + 0x1000 + 300)).unwrap(), 0);
        assert_eq!(room.reply(&memory, 9, &[7; 301]), 0);
    }

    #[test]
    fn request_that_takes_no_event_is_none() {
        let memory = memory();
        for room in [16, 200, 295] {
            let mut test = queue_with(&memory, &[(BUFFERS, 40, 0), (BUFFERS + 0x100, room, WRITE)]);
            let (_, chain) = test.queue.pop().unwrap().unwrap();
            assert!(Room::of(chain).is_none());
        }
    }
}
