//! Whether somebody outside the guest shares a file: who maps it to write needs to know.
//!
//! Programs that share memory by a file keep a shared lock of it for as long as they do. The host tells
//! one lock that is in the way, not whose it is, and the guest's own may be in front of another's. So one
//! description takes all that the guest has shared, and is asked for what is in its own way.

use std::io;
use std::sync::Arc;

use virtiofsd::passthrough::PassthroughFs;

use super::host::Description;
use super::ranges::{LAST, Mode, Range};
use super::{LockRequest, Locks, with_file};

/// Of `FUSE_GETLK`: tell a shared lock that somebody outside has, of the whole file. The guest's kernel
/// has it from us (guest-kernel/patches).
pub(super) const LK_OUTSIDE: u32 = 1 << 31;

/// Exclusive locks that are looked behind: beyond that, nobody is said to share the file.
const MAX_SEARCHED: usize = 256;

impl Locks {
    /// A shared lock that somebody outside has of the request's file.
    pub(super) fn outside(&self, host: &PassthroughFs, request: &LockRequest) -> io::Result<Option<Range>> {
        let node = request.node;
        let id = request.file(host)?;
        // Nobody of the guest locks or unlocks meanwhile.
        let mut table = self.table();
        // Who came second is refused, and may keep a lock nevertheless.
        if table.was_first(id) {
            return Ok(None);
        }
        let asks =
            with_file(host, request.ctx, node, request.arguments.fh, |file| self.reopener.reopen(file))?;
        // Most often nobody has locked anything.
        if asks.conflict(&EVERYTHING)?.is_none() {
            return Ok(None);
        }
        let own: Vec<_> = table.shared(id).map(|(file, range)| (Arc::clone(file), range)).collect();
        // None is lost: nobody else can have one exclusively while this has it shared, and it lets go last.
        own.iter().try_for_each(|(_, range)| asks.try_lock(range))?;
        let hidden = own.iter().try_for_each(|(file, range)| file.unlock(range.start, range.end));
        let found = hidden.and_then(|()| search(&asks));
        if let Err(error) = own.iter().try_for_each(|(file, range)| file.try_lock(range)) {
            // The host has no memory for a lock. Better one for ever than one too few.
            std::mem::forget(asks);
            return Err(error);
        }
        let found = found?;
        if found.is_none() {
            table.is_first(id);
        }
        Ok(found)
    }
}

const EVERYTHING: Range = Range { start: 0, end: LAST, mode: Mode::Exclusive };

/// The first shared lock that is found beside exclusive ones, which nobody shares.
fn search(asks: &Description) -> io::Result<Option<Range>> {
    let mut left = vec![EVERYTHING];
    for _ in 0..MAX_SEARCHED {
        let Some(range) = left.pop() else { break };
        let Some((found, _)) = asks.conflict(&range)? else { continue };
        if found.mode == Mode::Shared {
            return Ok(Some(found));
        }
        if found.start > range.start {
            left.push(Range { end: found.start - 1, ..range });
        }
        if found.end < range.end {
            left.push(Range { start: found.end + 1, ..range });
        }
    }
    Ok(None)
}
