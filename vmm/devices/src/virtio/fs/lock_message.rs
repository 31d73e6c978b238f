//! Requests about locks, which virtiofsd's server refuses, and their replies.

use std::io;

use virtio_queue::DescriptorChain;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::Context;
use virtiofsd::fuse::{FileLock, InHeader, InterruptIn, LkOut, Opcode, OutHeader};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::locks::{Answer, LockRequest};
use crate::memory::Memory;

/// A request about locks.
#[derive(Debug)]
pub(super) enum LockMessage {
    /// Who has it.
    Get(LockRequest),
    /// Lock or unlock at once.
    Set(LockRequest),
    /// Lock, and wait for that.
    Wait(LockRequest),
    /// The process that waits for the request of this number has a signal. It gets no reply.
    Interrupt(u64),
}

impl LockMessage {
    /// What the request asks for, if it is about locks.
    pub(super) fn read(header: &InHeader, reader: &Reader<'_>) -> Option<Self> {
        let kind: fn(LockRequest) -> Self = match Opcode::try_from(header.opcode).ok()? {
            Opcode::Getlk => Self::Get,
            Opcode::Setlk => Self::Set,
            Opcode::Setlkw => Self::Wait,
            Opcode::Interrupt => {
                return arguments::<InterruptIn>(reader).map(|asked| Self::Interrupt(asked.unique));
            }
            _ => return None,
        };
        let arguments = arguments(reader)?;
        Some(kind(LockRequest { ctx: Context::from(*header), node: header.nodeid, arguments }))
    }
}

/// What follows the header; one that is too short is left to virtiofsd, which refuses it.
fn arguments<T: ByteValued>(reader: &Reader<'_>) -> Option<T> {
    let mut reader = reader.clone();
    reader.read_obj::<InHeader>().ok()?;
    reader.read_obj().ok()
}

/// Size of `struct fuse_out_header`.
const HEADER_BYTES: u32 = 16;
/// With `struct fuse_lk_out` behind it.
const LOCK_BYTES: u32 = HEADER_BYTES + 24;

fn header(unique: u64, result: Result<u32, &io::Error>) -> OutHeader {
    let (len, error) = match result {
        Ok(length) => (length, 0),
        Err(error) => (HEADER_BYTES, -error.raw_os_error().unwrap_or(libc::EIO)),
    };
    OutHeader { len, error, unique }
}

/// Replies with a lock; returns the reply's length.
pub(super) fn reply(mut writer: Writer<'_>, unique: u64, result: &io::Result<FileLock>) -> u32 {
    let header = header(unique, result.as_ref().map(|_| LOCK_BYTES));
    let written = writer.write_obj(header).and_then(|()| match result {
        Ok(lk) => writer.write_obj(LkOut { lk: *lk }),
        Err(_) => Ok(()),
    });
    written.map_or(0, |()| header.len)
}

/// Replies with whether it was granted; returns the reply's length.
pub(super) fn reply_nothing(mut writer: Writer<'_>, unique: u64, answer: Answer) -> u32 {
    let Answer::Now(result) = answer else { return 0 };
    let header = header(unique, result.as_ref().map(|()| HEADER_BYTES));
    writer.write_obj(header).map_or(0, |()| header.len)
}

/// Where a reply goes that comes later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) queue: usize,
    pub(super) head: u16,
    at: GuestAddress,
}

impl Place {
    /// The reply of this chain, if its first buffer takes it.
    pub(super) fn of(queue: usize, chain: DescriptorChain<&Memory>) -> Option<Self> {
        let head = chain.head_index();
        let buffer = chain.writable().next()?;
        (buffer.len() >= HEADER_BYTES).then(|| Self { queue, head, at: buffer.addr() })
    }

    /// Writes the reply; returns its length.
    pub(super) fn reply(&self, memory: &Memory, unique: u64, result: &io::Result<()>) -> u32 {
        let header = header(unique, result.as_ref().map(|()| HEADER_BYTES));
        memory.write_obj(header, self.at).map_or(0, |()| header.len)
    }
}
