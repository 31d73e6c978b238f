//! Requests (virtio 1.2, §5.2.6): a header, data in pieces, and a byte for the status.
//!
//! Where the driver divides them into descriptors is its own affair (§2.7.4.2). The header is copied once, and what is
//! made of it is all that anybody looks at afterwards.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemory};

use super::SECTOR_BYTES;
use super::config::{MAX_DISCARD_SECTORS, MAX_SEGMENTS, MAX_ZERO_SECTORS};
use crate::memory::Memory;
use crate::virtio::queue::QueueError;

/// Type, a reserved word, and the first sector.
const HEADER_BYTES: usize = 16;

/// First sector, number of sectors, and flags of what is discarded or filled with zeros.
const RANGE_BYTES: usize = 16;

/// `VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP`: there may be a hole instead.
const UNMAP: u32 = 1;

/// Length of the answer to `VIRTIO_BLK_T_GET_ID`.
pub(super) const ID_BYTES: usize = 20;

/// A piece of guest memory.
pub(super) type Piece = (GuestAddress, usize);

/// What the driver wants, checked against what the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Into the data, from this byte of the disk on.
    Read(u64),
    /// The data, to this byte on.
    Write(u64),
    Flush,
    Discard(Range),
    Zero {
        range: Range,
        /// There may be a hole.
        unmap: bool,
    },
    /// The disk's name, into the data.
    Id,
    /// Nothing: this is the status.
    Refuse(u32),
}

/// Bytes of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) head: u16,
    pub(super) act: Act,
    pub(super) data: Vec<Piece>,
    /// All of the data.
    pub(super) bytes: u64,
    /// Where the status belongs.
    pub(super) status: GuestAddress,
}

/// What a request is checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) read_only: bool,
}

const IO_ERROR: Act = Act::Refuse(VIRTIO_BLK_S_IOERR);
const UNSUPPORTED: Act = Act::Refuse(VIRTIO_BLK_S_UNSUPP);

impl Request {
    /// Reads a chain. An error is one that could not even be answered.
    pub(super) fn read(
        memory: &Memory,
        chain: DescriptorChain<&Memory>,
        limits: Limits,
    ) -> Result<Self, QueueError> {
        let head = chain.head_index();
        let mut layout = Layout::of(memory, chain)?;
        let header = layout.header(memory)?;
        let status = layout.status()?;
        let Layout { readable, writable, too_many } = layout;
        let word = |at| u32::from_le_bytes(array(&header, at));
        let (kind, sector) = (word(0), u64::from_le_bytes(array(&header, 8)));
        let data = if kind == VIRTIO_BLK_T_IN || kind == VIRTIO_BLK_T_GET_ID { writable } else { readable };
        let bytes = data.iter().map(|(_, length)| u64::try_from(*length).unwrap_or(u64::MAX)).sum();
        let act = match kind {
            _ if too_many => IO_ERROR,
            VIRTIO_BLK_T_IN => limits.data(sector, bytes).map_or(IO_ERROR, Act::Read),
            VIRTIO_BLK_T_FLUSH => Act::Flush,
            VIRTIO_BLK_T_GET_ID => Act::Id,
            VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if limits.read_only => {
                IO_ERROR
            }
            VIRTIO_BLK_T_OUT => limits.data(sector, bytes).map_or(IO_ERROR, Act::Write),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
                let range = only_range(memory, &data)?;
                range.map_or(IO_ERROR, |range| limits.range(kind == VIRTIO_BLK_T_DISCARD, range))
            }
            _ => UNSUPPORTED,
        };
        Ok(Self { head, act, data, bytes, status })
    }

    /// Bytes that it counts as where the disk has a rate: those that it moves, or has written by the host.
    pub(super) fn cost(&self) -> u64 {
        match self.act {
            Act::Zero { range, .. } => range.bytes,
            _ => self.bytes,
        }
    }
}

impl Limits {
    /// Where the data of a read or a write lies on the disk; nothing where that is not whole sectors of it.
    fn data(self, sector: u64, bytes: u64) -> Option<u64> {
        let start = sector.checked_mul(SECTOR_BYTES)?;
        let end = start.checked_add(bytes)?;
        (bytes.is_multiple_of(SECTOR_BYTES) && end <= self.bytes).then_some(start)
    }

    /// What is to be discarded, or filled with zeros (§5.2.6.2).
    fn range(self, discards: bool, range: [u8; RANGE_BYTES]) -> Act {
        let sector = u64::from_le_bytes(array(&range, 0));
        let (count, flags) = (u32::from_le_bytes(array(&range, 8)), u32::from_le_bytes(array(&range, 12)));
        let (most, known) = if discards { (MAX_DISCARD_SECTORS, 0) } else { (MAX_ZERO_SECTORS, UNMAP) };
        if flags & !known != 0 {
            return UNSUPPORTED;
        }
        let bytes = u64::from(count) * SECTOR_BYTES;
        match self.data(sector, bytes).filter(|_| count <= most) {
            None => IO_ERROR,
            Some(start) if discards => Act::Discard(Range { start, bytes }),
            Some(start) => Act::Zero { range: Range { start, bytes }, unmap: flags & UNMAP != 0 },
        }
    }
}

/// The one range of a request that may have one.
fn only_range(memory: &Memory, data: &[Piece]) -> Result<Option<[u8; RANGE_BYTES]>, QueueError> {
    let mut range = [0; RANGE_BYTES];
    let mut filled = 0;
    for &(address, length) in data {
        let Some(place) = range.get_mut(filled..).and_then(|rest| rest.get_mut(..length)) else {
            return Ok(None);
        };
        memory.read_slice(place, address).map_err(outside)?;
        filled += length;
    }
    Ok((filled == RANGE_BYTES).then_some(range))
}

/// A chain's memory, by what it is for.
struct Layout {
    readable: Vec<Piece>,
    writable: Vec<Piece>,
    /// More pieces than the driver was allowed; those behind the limit are left out, but for the last.
    too_many: bool,
}

impl Layout {
    fn of(memory: &Memory, chain: DescriptorChain<&Memory>) -> Result<Self, QueueError> {
        const MOST: usize = MAX_SEGMENTS as usize + 2;
        let mut layout = Self { readable: Vec::new(), writable: Vec::new(), too_many: false };
        for descriptor in chain {
            let piece = (descriptor.addr(), usize::try_from(descriptor.len()).unwrap_or(usize::MAX));
            if piece.1 == 0 {
                continue;
            }
            if !memory.check_range(piece.0, piece.1) {
                return Err(QueueError::Nonsense("a disk's request that is not in its memory"));
            }
            let list = if descriptor.is_write_only() { &mut layout.writable } else { &mut layout.readable };
            if list.len() >= MOST {
                layout.too_many = true;
                list.pop();
            }
            list.push(piece);
        }
        layout.too_many |= layout.readable.len() + layout.writable.len() > MOST;
        Ok(layout)
    }

    /// Takes the header off the front.
    fn header(&mut self, memory: &Memory) -> Result<[u8; HEADER_BYTES], QueueError> {
        let mut header = [0; HEADER_BYTES];
        let mut filled = 0;
        while let Some(rest) = header.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let Some((address, length)) = self.readable.first_mut() else {
                return Err(QueueError::Nonsense("a disk's request without a header"));
            };
            let taken = rest.len().min(*length);
            memory.read_slice(&mut rest[..taken], *address).map_err(outside)?;
            filled += taken;
            if taken == *length {
                self.readable.remove(0);
            } else {
                address.0 += u64::try_from(taken).unwrap_or(0);
                *length -= taken;
            }
        }
        Ok(header)
    }

    /// Takes the status off the end.
    fn status(&mut self) -> Result<GuestAddress, QueueError> {
        let Some((address, length)) = self.writable.last_mut() else {
            return Err(QueueError::Nonsense("a disk's request without room for its status"));
        };
        *length -= 1;
        let status = GuestAddress(address.0 + u64::try_from(*length).unwrap_or(0));
        if *length == 0 {
            self.writable.pop();
        }
        Ok(status)
    }
}

pub(super) fn outside(error: vm_memory::GuestMemoryError) -> QueueError {
    virtio_queue::Error::GuestMemory(error).into()
}

/// `N` bytes of `bytes` from `at` on; zeros where there are none.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}
