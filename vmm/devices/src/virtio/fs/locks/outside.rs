//! Whether somebody outside the guest shares a file: who maps it to write needs to know.
//!
//! Programs that share memory by a file keep a shared lock of it for as long as they do. The host tells
//! one lock that is in the way, not whose it is, and the guest's own may be in front of another's. So one
//! description takes all that the guest has shared, and is asked for what is in its own way.

use std::io;
use std::sync::Arc;

use super::super::host::Host;
use super::host::Description;
use super::ranges::{LAST, Mode, Range};
use super::table::{FileId, Table};
use super::{LockRequest, Locks, with_file};

/// Of `FUSE_GETLK`: tell a shared lock that somebody outside has, of the whole file. The guest's kernel
/// has it from us (guest-kernel/patches).
pub(super) const LK_OUTSIDE: u32 = 1 << 31;

/// Locks that are looked behind.
const MAX_SEARCHED: usize = 256;

/// Locks of the guest's that are taken out of the way: each is a walk of all the file's on the host.
const MAX_HIDDEN: usize = 1024;

/// Who else shares a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outside {
    Nobody,
    /// Somebody has this locked.
    Somebody(Range),
    /// It has too many locks to tell.
    Unknown,
}

impl Locks {
    /// A shared lock that somebody outside has of the request's file.
    pub(super) fn outside(&self, host: &Host, request: &LockRequest) -> io::Result<Option<Range>> {
        let file = request.file(host)?;
        // Nobody of the guest locks or unlocks meanwhile.
        let mut table = self.table();
        // Who came second is refused, and may keep a lock nevertheless.
        if table.was_first(file) {
            return Ok(None);
        }
        Ok(match self.look_outside(&table, host, request, file)? {
            Outside::Somebody(range) => Some(range),
            Outside::Unknown => None,
            Outside::Nobody => {
                table.is_first(file);
                None
            }
        })
    }

    /// Who outside shares `file`, which is the request's.
    pub(super) fn look_outside(
        &self,
        table: &Table<Arc<Description>>,
        host: &Host,
        request: &LockRequest,
        file: FileId,
    ) -> io::Result<Outside> {
        let asks =
            with_file(host, request.ctx, request.node, request.handle(), |file| self.reopener.reopen(file))?;
        // Most often nobody has locked anything.
        if asks.conflict(&EVERYTHING)?.is_none() {
            return Ok(Outside::Nobody);
        }
        let own: Vec<_> = table
            .shared(file)
            .take(MAX_HIDDEN + 1)
            .map(|(description, range)| (Arc::clone(description), range))
            .collect();
        if own.len() > MAX_HIDDEN {
            return Ok(Outside::Unknown);
        }
        // None is lost: nobody else can have one exclusively while this has it shared, and it lets go last.
        own.iter().try_for_each(|(_, range)| asks.try_lock(range))?;
        let hidden =
            own.iter().try_for_each(|(description, range)| description.unlock(range.start, range.end));
        let found = hidden.and_then(|()| search(&asks, |range| table.awaits(file, range)));
        if let Err(error) = own.iter().try_for_each(|(description, range)| description.try_lock(range)) {
            // The host has no memory for a lock. Better one for ever than one too few.
            std::mem::forget(asks);
            return Err(error);
        }
        found
    }
}

const EVERYTHING: Range = Range { start: 0, end: LAST, mode: Mode::Exclusive };

/// The first shared lock that is found beside those that are exclusive, which nobody shares, and those
/// that the guest has waited for: they are on the host before they are in the table.
fn search(asks: &Description, is_the_guests: impl Fn(&Range) -> bool) -> io::Result<Outside> {
    let mut left = vec![EVERYTHING];
    for _ in 0..MAX_SEARCHED {
        let Some(range) = left.pop() else { return Ok(Outside::Nobody) };
        let Some((found, _)) = asks.conflict(&range)? else { continue };
        if found.mode == Mode::Shared && !is_the_guests(&found) {
            return Ok(Outside::Somebody(found));
        }
        if found.start > range.start {
            left.push(Range { end: found.start - 1, ..range });
        }
        if found.end < range.end {
            left.push(Range { start: found.end + 1, ..range });
        }
    }
    Ok(if left.is_empty() { Outside::Nobody } else { Outside::Unknown })
}
