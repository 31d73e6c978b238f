//! Locks that the guest takes are taken on the host's files, where everyone else's are.
//!
//! ```text
//!   request ─▶ try on the host ─▶ granted ─▶ table, reply
//!                   └ another has it ─▶ refused, or: waiter ─▶ granted ─▶ table, reply
//!                                                      └ interrupted ─▶ reply EINTR
//! ```
//!
//! The host decides, and wakes; the [table] knows whose lock is whose in the guest. Locks go when the
//! guest unlocks, closes (each close of a descriptor names the process as the owner, and that loses
//! its locks of the file) or gives up a handle, and all with the machine.

mod host;
mod outside;
mod ranges;
mod table;
mod waiters;

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtiofsd::filesystem::Context;
use virtiofsd::fuse::{FileLock, LK_FLOCK, LkIn};
use vmm_sys_util::eventfd::EventFd;

use self::host::{Description, Reopener, Wanted, id_of, try_flock};
use self::outside::{LK_OUTSIDE, Outside};
use self::ranges::{LAST, Mode, Range};
pub(super) use self::table::Ticket;
use self::table::{FileId, NO_PROCESS, Owner, Table, Waiting};
pub use self::waiters::LocksError;
use self::waiters::Waiters;
use super::handle_file::with_file;
use super::host::Host;
use super::ids::{Handle, Node};
use super::syncs::Shared;
use crate::thread::ThreadFailure;

/// Requests that may wait at the same time: each takes a place of the request queue's 512, where others
/// need room, too. (Its three buffers are a table of their own, for which the guest has memory as a rule.)
const MAX_WAITING: usize = 384;

/// What a request comes to.
#[derive(Debug)]
pub(super) enum Answer {
    /// This.
    Now(io::Result<()>),
    /// [`Locks::take_ended`] will tell, under this number.
    Later(Ticket),
}

/// A request for a lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct LockRequest {
    pub(super) ctx: Context,
    pub(super) node: Node,
    pub(super) arguments: LkIn,
}

impl LockRequest {
    fn handle(&self) -> Handle {
        self.arguments.fh
    }

    fn owner(&self) -> Owner {
        self.arguments.owner
    }

    fn file(&self, host: &Host) -> io::Result<FileId> {
        with_file(host, self.ctx, self.node, self.handle(), id_of)
    }

    /// What is to be locked; no mode unlocks.
    fn range(&self) -> io::Result<(u64, u64, Option<Mode>)> {
        let FileLock { start, end, type_, .. } = self.arguments.lk;
        let mode = match libc::c_int::try_from(type_) {
            Ok(libc::F_UNLCK) => None,
            Ok(libc::F_RDLCK) => Some(Mode::Shared),
            Ok(libc::F_WRLCK) => Some(Mode::Exclusive),
            _ => return Err(number(libc::EINVAL)),
        };
        if start > end || end > LAST { Err(number(libc::EINVAL)) } else { Ok((start, end, mode)) }
    }
}

/// The guest's locks.
#[derive(Debug)]
pub(super) struct Locks {
    table: Mutex<Table<Arc<Description>>>,
    waiting: AtomicUsize,
    tickets: AtomicU64,
    reopener: Reopener,
    waiters: Waiters,
    /// Descriptions that the locks may take.
    max_held: usize,
}

impl Locks {
    /// `failed` hears why when the thread ends that starts the waiting ones.
    pub(super) fn new(
        max_held: usize,
        failed: impl FnOnce(ThreadFailure) + Send + 'static,
    ) -> Result<Self, LocksError> {
        let reopener = Reopener::new().map_err(LocksError::Descriptors)?;
        let waiters = Waiters::start(failed)?;
        Ok(Self {
            table: Mutex::default(),
            waiting: AtomicUsize::default(),
            tickets: AtomicU64::default(),
            reopener,
            waiters,
            max_held,
        })
    }

    fn table(&self) -> MutexGuard<'_, Table<Arc<Description>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks or unlocks; what another has is waited for if it `waits`.
    pub(super) fn set(&self, host: &Host, request: &LockRequest, waits: bool) -> Answer {
        let is_flock = request.arguments.lk_flags & LK_FLOCK != 0;
        let answer = request.range().and_then(|(start, end, mode)| match mode {
            _ if is_flock => self.flock(host, request, mode, waits),
            None => self.unlock(host, request, start, end),
            Some(mode) => self.lock(host, request, Range { start, end, mode }, waits),
        });
        answer.unwrap_or_else(|error| Answer::Now(Err(error)))
    }

    fn flock(
        &self,
        host: &Host,
        request: &LockRequest,
        mode: Option<Mode>,
        waits: bool,
    ) -> io::Result<Answer> {
        let tried = with_file(host, request.ctx, request.node, request.handle(), |file| {
            match (try_flock(file, mode), mode, waits) {
                (Err(error), Some(mode), true) if is_taken(&error) => {
                    Ok(Some(Wanted::Flock(file.try_clone()?, mode)))
                }
                (result, ..) => result.map(|()| None),
            }
        })?;
        match tried {
            None => Ok(Answer::Now(Ok(()))),
            Some(wanted) => self.wait(wanted).map(Answer::Later),
        }
    }

    fn unlock(&self, host: &Host, request: &LockRequest, start: u64, end: u64) -> io::Result<Answer> {
        let mut table = self.table();
        let (owner, has_room) = (request.owner(), table.has_room());
        if !table.knows(owner) {
            return Ok(Answer::Now(Ok(())));
        }
        let file = request.file(host)?;
        let Some(holding) = table.get(file, owner) else { return Ok(Answer::Now(Ok(()))) };
        if !has_room && holding.ranges.is_split(start, end) {
            return Err(number(libc::ENOLCK));
        }
        holding.description.unlock(start, end)?;
        table.unlock(file, owner, start, end);
        Ok(Answer::Now(Ok(())))
    }

    fn lock(&self, host: &Host, request: &LockRequest, range: Range, waits: bool) -> io::Result<Answer> {
        let (file, owner) = (request.file(host)?, request.owner());
        let mut table = self.table();
        if !table.has_room() {
            return Err(number(libc::ENOLCK));
        }
        let description = self.description(&mut table, host, request, file, range.mode)?;
        let process = request.arguments.lk.pid;
        let shares_first = self.shares_first(&mut table, host, request, file, &range);
        let answer = match (description.try_lock(&range), waits) {
            (Ok(()), _) => {
                table.lock(file, owner, process, range);
                if shares_first {
                    table.is_first(file);
                }
                Ok(Answer::Now(Ok(())))
            }
            (Err(error), true) if is_taken(&error) => {
                let handle = request.handle();
                let wait = Waiting { file, owner, range, process, handle, is_interrupted: false };
                if table.is_deadlock(&wait) {
                    Err(number(libc::EDEADLK))
                } else {
                    self.wait(Wanted::Range(description, range)).map(|ticket| {
                        table.wait(ticket, wait);
                        Answer::Later(ticket)
                    })
                }
            }
            (Err(error), _) => Err(error),
        };
        table.tidy(file, owner);
        answer
    }

    /// Whether who has had a range for itself shares it from now on, and nobody outside shares the file: so
    /// programs begin to share memory, before they map it. Whoever comes meanwhile is second.
    fn shares_first(
        &self,
        table: &mut Table<Arc<Description>>,
        host: &Host,
        request: &LockRequest,
        file: FileId,
        range: &Range,
    ) -> bool {
        let holding = table.get(file, request.owner());
        let was_alone =
            |range: &Range| holding.is_some_and(|holding| holding.ranges.conflict(range).is_some());
        if range.mode == Mode::Exclusive || !was_alone(range) || table.was_first(file) {
            return false;
        }
        // If it cannot be told, it is when the memory is mapped.
        self.look_outside(table, host, request, file).is_ok_and(|found| found == Outside::Nobody)
    }

    /// By which the owner locks, and which is open for what is wanted.
    fn description(
        &self,
        table: &mut Table<Arc<Description>>,
        host: &Host,
        request: &LockRequest,
        file: FileId,
        mode: Mode,
    ) -> io::Result<Arc<Description>> {
        let (node, owner, handle) = (request.node, request.owner(), request.handle());
        let reopen =
            || with_file(host, request.ctx, node, handle, |file| self.reopener.reopen(file)).map(Arc::new);
        let known = table.get(file, owner).map(|holding| Arc::clone(&holding.description));
        let description = match known {
            None if table.len() >= self.max_held => return Err(number(libc::ENOLCK)),
            None => reopen()?,
            Some(known) if mode == Mode::Shared || known.is_writable => known,
            Some(_) => {
                let writable = reopen()?;
                // What is not writable has shared locks only, which both may have for a moment.
                if let Some(holding) = table.get(file, owner) {
                    holding.ranges.iter().try_for_each(|range| writable.try_lock(range))?;
                    let old = std::mem::replace(&mut holding.description, Arc::clone(&writable));
                    // Who waits keeps it, and it must not be in the way of its own owner.
                    old.unlock(0, LAST)?;
                }
                writable
            }
        };
        Ok(Arc::clone(&table.hold(file, owner, handle, description).description))
    }

    fn wait(&self, wanted: Wanted) -> io::Result<Ticket> {
        // The guest's kernel asks again, until somebody else has done with waiting or the lock is free.
        if self.waiting.load(Ordering::Relaxed) >= MAX_WAITING {
            return Err(number(libc::EAGAIN));
        }
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        self.waiters.wait(ticket, wanted)?;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Ok(ticket)
    }

    /// The lock that keeps the request's from being granted, or that there is none.
    pub(super) fn get(&self, host: &Host, request: &LockRequest) -> io::Result<FileLock> {
        if request.arguments.lk_flags & LK_OUTSIDE != 0 {
            return Ok(told(request, self.outside(host, request)?, 0));
        }
        let (start, end, mode) = request.range()?;
        let (node, owner, file) = (request.node, request.owner(), request.file(host)?);
        let mut table = self.table();
        let holding = table.get(file, owner);
        let Some(mode) = mode else {
            // F_OFD_GETLK asks like that for the owner's own.
            let own = holding.and_then(|holding| holding.ranges.within(start, end));
            return Ok(told(request, own, NO_PROCESS));
        };
        let wanted = Range { start, end, mode };
        let description = match holding {
            Some(holding) => Arc::clone(&holding.description),
            None => with_file(host, request.ctx, node, request.handle(), |file| self.reopener.reopen(file))
                .map(Arc::new)?,
        };
        let found = description.conflict(&wanted)?;
        // The host knows that there is one, the table whose it is.
        let Some((range, process)) = found else { return Ok(told(request, None, NO_PROCESS)) };
        let (range, process) = table.conflict(file, owner, &wanted).unwrap_or((range, process));
        Ok(told(request, Some(range), process))
    }

    /// The guest's process `owner` has closed a descriptor, whose handle is `handle` of `node`: its locks
    /// of the file go.
    pub(super) fn flush(&self, host: &Host, ctx: Context, node: Node, handle: Handle, owner: Owner) {
        let mut table = self.table();
        if !table.knows(owner) {
            return;
        }
        // A handle that there is not is no descriptor of anybody's.
        let Ok(file) = with_file(host, ctx, node, handle, id_of) else { return };
        Self::unlock_all(&mut table, file, owner);
        table.forget_handles(file, owner);
    }

    fn unlock_all(table: &mut Table<Arc<Description>>, file: FileId, owner: Owner) {
        let Some(holding) = table.get(file, owner) else { return };
        // Fails on no file system that has locks; the last close unlocks as well.
        let _ = holding.description.unlock(0, LAST);
        table.unlock(file, owner, 0, LAST);
    }

    /// The guest has given `handle` up: what an open file description has locked goes with it.
    pub(super) fn release(&self, handle: Handle) {
        let mut table = self.table();
        for (file, owner) in table.release(handle) {
            Self::unlock_all(&mut table, file, owner);
        }
    }

    /// Ends a wait with `EINTR`, unless it is over.
    pub(super) fn interrupt(&self, ticket: Ticket) {
        // It may be about to wait anew.
        self.table().interrupt(ticket);
        // If nothing can be told to them, nobody waits.
        let _ = self.waiters.cancel(ticket);
    }

    /// Readable while [`Self::take_ended`] has something; or [`super::syncs::Syncs::take_done`].
    pub(super) fn event(&self) -> &Arc<EventFd> {
        self.waiters.event()
    }

    /// Starts a thread that does these.
    pub(super) fn start_syncing(&self, jobs: Arc<Shared>) {
        self.waiters.sync(jobs);
    }

    /// A wait that is over.
    pub(super) fn take_ended(&self) -> Option<(Ticket, io::Result<()>)> {
        loop {
            let ended = self.waiters.take_ended()?;
            let ticket = ended.ticket;
            let result = match ended.result {
                Ok(()) => self.confirm(ticket),
                failed => Some(failed),
            };
            if let Some(result) = result {
                return Some(self.end(waiters::Ended { ticket, result }));
            }
        }
    }

    /// What has come of a lock that was granted. While it waited, its owner may have got another
    /// description, for locks that the old one cannot have: then the lock has to be taken by that one.
    /// Nothing if somebody has come before, for whom it waits anew.
    fn confirm(&self, ticket: Ticket) -> Option<io::Result<()>> {
        let mut table = self.table();
        let Some(wait) = table.waits(ticket) else { return Some(Ok(())) };
        let Some(holding) = table.get(wait.file, wait.owner) else { return Some(Ok(())) };
        match holding.description.try_lock(&wait.range) {
            Err(error) if is_taken(&error) && wait.is_interrupted => Some(Err(number(libc::EINTR))),
            Err(error) if is_taken(&error) => {
                let wanted = Wanted::Range(Arc::clone(&holding.description), wait.range);
                self.waiters.wait(ticket, wanted).err().map(Err)
            }
            taken => Some(taken),
        }
    }

    fn end(&self, ended: waiters::Ended) -> (Ticket, io::Result<()>) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut table = self.table();
        if let Some(wait) = table.end_wait(ended.ticket) {
            if ended.result.is_ok() {
                table.granted(&wait);
            }
            table.tidy(wait.file, wait.owner);
        }
        (ended.ticket, ended.result)
    }

    /// Ends all waits and gives all ranges back. `flock`s go with the handles.
    pub(super) fn clear(&self, under_way: impl Iterator<Item = Ticket>) {
        under_way.for_each(|ticket| self.interrupt(ticket));
        while self.waiting.load(Ordering::Relaxed) > 0
            && let Some(ended) = self.waiters.next_ended()
        {
            // Nobody is left to be told.
            let _ = self.end(ended);
        }
        *self.table() = Table::default();
    }
}

/// What `F_GETLK` tells.
fn told(request: &LockRequest, found: Option<Range>, process: u32) -> FileLock {
    let Some(Range { start, end, mode }) = found else {
        return FileLock { type_: libc::F_UNLCK.cast_unsigned(), ..request.arguments.lk };
    };
    let type_ = match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
    };
    FileLock { start, end, type_: type_.cast_unsigned(), pid: process }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}

fn number(errno: libc::c_int) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

#[cfg(test)]
mod tests;
