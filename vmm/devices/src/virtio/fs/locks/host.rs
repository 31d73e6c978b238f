//! Locks of the host's files.
//!
//! ```text
//!   the guest's                          the host's
//!   flock, by an open file description   flock, by the description behind it
//!   byte ranges, by an owner             an open file description of its own for each owner and
//!   (process or description)             file, which owns the locks (F_OFD_SETLK, fcntl(2))
//! ```
//!
//! The process of the monitor itself owns no lock: it would be one owner for the whole guest, and lose
//! all locks of a file when it closes any descriptor of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::fs::{FlockOperation, Mode as Permissions, OFlags, fstat, openat};

use super::super::descriptors;
use super::ranges::{LAST, Mode, Range};
use super::table::{FileId, NO_PROCESS};

/// Opens the files behind descriptors anew.
#[derive(Debug)]
pub(super) struct Reopener {
    /// `/proc/self/fd`
    descriptors: OwnedFd,
}

/// An open file description that owns locks.
#[derive(Debug)]
pub(super) struct Description {
    file: File,
    /// Exclusive locks need that.
    pub(super) is_writable: bool,
}

impl Reopener {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { descriptors: descriptors::open()? })
    }

    /// A description of the file behind `handle`, for as much as that is open for: no more, since who
    /// writes to a file keeps others from running it.
    pub(super) fn reopen(&self, handle: &File) -> io::Result<Description> {
        let flags = OFlag::from_bits_truncate(fcntl(handle, FcntlArg::F_GETFL)?);
        let is_writable = flags.intersection(OFlag::O_ACCMODE) != OFlag::O_RDONLY;
        let open = |access| {
            let name = handle.as_raw_fd().to_string();
            let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
            openat(&self.descriptors, name, flags, Permissions::empty())
        };
        let file = if is_writable {
            open(OFlags::RDWR).or_else(|_| open(OFlags::WRONLY))
        } else {
            open(OFlags::RDONLY)
        };
        Ok(Description { file: File::from(file?), is_writable })
    }
}

impl Description {
    /// Locks the range, or fails with `EAGAIN`.
    pub(super) fn try_lock(&self, range: &Range) -> io::Result<()> {
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&flock(kind(range.mode), range.start, range.end)))?;
        Ok(())
    }

    /// Locks the range, and waits for that; a signal ends it.
    fn lock(&self, range: &Range) -> io::Result<()> {
        fcntl(&self.file, FcntlArg::F_OFD_SETLKW(&flock(kind(range.mode), range.start, range.end)))?;
        Ok(())
    }

    pub(super) fn unlock(&self, start: u64, end: u64) -> io::Result<()> {
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&flock(libc::F_UNLCK, start, end)))?;
        Ok(())
    }

    /// The first lock of another that keeps this one from `wanted`, and the number that the guest
    /// knows its process by: none, which is 0 as for any process outside, or that of no process.
    pub(super) fn conflict(&self, wanted: &Range) -> io::Result<Option<(Range, u32)>> {
        let mut found = flock(kind(wanted.mode), wanted.start, wanted.end);
        fcntl(&self.file, FcntlArg::F_OFD_GETLK(&mut found))?;
        let mode = match libc::c_int::from(found.l_type) {
            libc::F_UNLCK => return Ok(None),
            libc::F_RDLCK => Mode::Shared,
            _ => Mode::Exclusive,
        };
        let start = u64::try_from(found.l_start).unwrap_or(0);
        let end = match u64::try_from(found.l_len) {
            Ok(length @ 1..) => start.saturating_add(length - 1).min(LAST),
            _ => LAST,
        };
        let process = if found.l_pid < 0 { NO_PROCESS } else { 0 };
        Ok(Some((Range { start, end, mode }, process)))
    }
}

/// Which file it is.
pub(super) fn id_of(file: &File) -> io::Result<FileId> {
    let found = fstat(file)?;
    Ok((found.st_dev, found.st_ino))
}

fn kind(mode: Mode) -> libc::c_int {
    match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
    }
}

/// Bytes `start` to `end`, of which the last stands for all that follow.
fn flock(kind: libc::c_int, start: u64, end: u64) -> libc::flock {
    let length = if end >= LAST { 0 } else { end.saturating_sub(start).saturating_add(1) };
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: i64::try_from(start).unwrap_or(i64::MAX),
        l_len: i64::try_from(length).unwrap_or_default(),
        // F_OFD_* insist on that.
        l_pid: 0,
    }
}

/// What is waited for on the host.
#[derive(Debug)]
pub(super) enum Wanted {
    /// A range, of a description that the table has, too.
    Range(std::sync::Arc<Description>, Range),
    /// `flock` of the open file description that this is a duplicate of.
    Flock(File, Mode),
}

impl Wanted {
    /// Waits until it is granted; a signal ends it.
    pub(super) fn wait(&self) -> io::Result<()> {
        match self {
            Self::Range(description, range) => description.lock(range),
            Self::Flock(file, mode) => Ok(rustix::fs::flock(
                file.as_fd(),
                match mode {
                    Mode::Shared => FlockOperation::LockShared,
                    Mode::Exclusive => FlockOperation::LockExclusive,
                },
            )?),
        }
    }
}

/// `flock` without waiting: fails with `EAGAIN` if another has it. None unlocks.
pub(super) fn try_flock(file: &File, mode: Option<Mode>) -> io::Result<()> {
    let operation = match mode {
        None => FlockOperation::Unlock,
        Some(Mode::Shared) => FlockOperation::NonBlockingLockShared,
        Some(Mode::Exclusive) => FlockOperation::NonBlockingLockExclusive,
    };
    Ok(rustix::fs::flock(file.as_fd(), operation)?)
}
