//! What a request wants, done and answered, by whichever thread.

use std::io;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP};
use vm_memory::Bytes;

use super::backend::{Backend, Patience};
use super::counters::BlockCounters;
use super::request::{Act, Request, outside};
use super::ring::Ring;
use crate::memory::Memory;
use crate::virtio::queue::QueueError;

/// When what was written is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// When the driver says so.
    Later,
    /// With each write: it never says so (§5.2.6.2).
    AtOnce,
}

/// Does what a request wants, however long that takes.
pub(super) fn carry_out(
    backend: &Backend,
    memory: &Memory,
    request: &Request,
    durability: Durability,
) -> io::Result<()> {
    let wrote = match request.act {
        Act::Read(at) => return backend.read(memory, &request.data, at, Patience::All),
        Act::Flush => return backend.flush(),
        Act::Id => return tell_id(backend, memory, request),
        Act::Refuse(_) => return Ok(()),
        Act::Write(at) => backend.write(memory, &request.data, at),
        Act::Discard(range) => backend.discard(range),
        Act::Zero { range, unmap } => backend.zero(range, unmap),
    };
    wrote.and_then(|()| if durability == Durability::AtOnce { backend.flush() } else { Ok(()) })
}

fn tell_id(backend: &Backend, memory: &Memory, request: &Request) -> io::Result<()> {
    let mut rest = backend.id.as_slice();
    for &(address, length) in &request.data {
        let (now, later) = rest.split_at(length.min(rest.len()));
        memory.write_slice(now, address).map_err(io::Error::other)?;
        rest = later;
    }
    Ok(())
}

/// Counts what became of a request, and tells its driver.
pub(super) fn finish(
    ring: &Ring,
    memory: &Memory,
    counters: &BlockCounters,
    request: &Request,
    result: &io::Result<()>,
) -> Result<(), QueueError> {
    let status = status(request.act, result);
    if status == VIRTIO_BLK_S_OK {
        count(counters, request);
    } else {
        counters.errors.count();
        if let Err(error) = result {
            count_failure(counters, error);
        }
    }
    let filled = match request.act {
        Act::Read(_) | Act::Id if status == VIRTIO_BLK_S_OK => request.bytes,
        _ => 0,
    };
    // The largest is 2.
    let status = u8::try_from(status).unwrap_or(u8::MAX);
    memory.write_obj(status, request.status).map_err(outside)?;
    // A chain has less than 4 GiB (virtio 1.2, §2.7.5.2).
    ring.finish(request.head, u32::try_from(filled.saturating_add(1)).unwrap_or(u32::MAX))
}

fn status(act: Act, result: &io::Result<()>) -> u32 {
    match (act, result.as_ref().err().map(io::Error::raw_os_error)) {
        (Act::Refuse(status), _) => status,
        (_, None) => VIRTIO_BLK_S_OK,
        (_, Some(Some(libc::EOPNOTSUPP | libc::ENOSYS))) => VIRTIO_BLK_S_UNSUPP,
        (_, Some(_)) => VIRTIO_BLK_S_IOERR,
    }
}

/// What the host cannot do at all is no failure: the driver does without it.
fn count_failure(counters: &BlockCounters, error: &io::Error) {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => {}
        Some(libc::ENOSPC | libc::EDQUOT) => {
            counters.failed.count();
            counters.no_room.count();
        }
        _ => counters.failed.count(),
    }
}

fn count(counters: &BlockCounters, request: &Request) {
    match request.act {
        Act::Read(_) => {
            counters.reads.count();
            counters.read_bytes.add(request.bytes);
        }
        Act::Write(_) => {
            counters.writes.count();
            counters.written_bytes.add(request.bytes);
        }
        Act::Flush => counters.flushes.count(),
        Act::Discard(_) => counters.discards.count(),
        Act::Zero { .. } => counters.zeroed.count(),
        Act::Id | Act::Refuse(_) => {}
    }
}
