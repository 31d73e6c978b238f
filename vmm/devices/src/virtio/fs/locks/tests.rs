//! A guest's locks against the host's, on real files.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use tempfile::TempDir;
use virtiofsd::filesystem::FileSystem;
use virtiofsd::fuse::{FileLock, InHeader, LK_FLOCK, LkIn, ROOT_ID};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::super::pass_through::pass_through;
use super::*;

const SHARED: libc::c_int = libc::F_RDLCK;
const EXCLUSIVE: libc::c_int = libc::F_WRLCK;
const UNLOCK: libc::c_int = libc::F_UNLCK;

/// A file, and a guest that has it open.
struct Guest {
    directory: TempDir,
    host: Host,
    locks: Locks,
    node: Node,
}

impl Guest {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "content").unwrap();
        let host = Host::new(
            pass_through(directory.path(), 1000).unwrap(),
            100,
            super::super::host::Manner::default(),
        )
        .unwrap();
        let name = CString::new("file").unwrap();
        let node = host.lookup(context(), ROOT_ID, &name).unwrap().inode;
        let locks = Locks::new(3, |why| panic!("{why}")).unwrap();
        Self { directory, host, locks, node }
    }

    fn open(&self, flags: libc::c_int) -> Handle {
        self.host.open(context(), self.node, false, flags.cast_unsigned()).unwrap().0.unwrap()
    }

    fn request(
        &self,
        handle: Handle,
        owner: Owner,
        kind: libc::c_int,
        (start, end): (u64, u64),
    ) -> LockRequest {
        let process = u32::try_from(owner).unwrap();
        let lk = FileLock { start, end, type_: kind.cast_unsigned(), pid: process };
        let arguments = LkIn { fh: handle, owner, lk, lk_flags: 0, padding: 0 };
        LockRequest { ctx: context(), node: self.node, arguments }
    }

    /// The error number, or 0.
    fn lock(&self, handle: Handle, owner: Owner, kind: libc::c_int, range: (u64, u64)) -> i32 {
        let request = self.request(handle, owner, kind, range);
        errno(self.locks.set(&self.host, &request, false))
    }

    fn flock(&self, handle: Handle, kind: libc::c_int) -> i32 {
        let mut request = self.request(handle, 0, kind, (0, LAST));
        request.arguments.lk_flags = LK_FLOCK;
        errno(self.locks.set(&self.host, &request, false))
    }

    fn flush(&self, handle: Handle, owner: Owner) {
        self.locks.flush(&self.host, context(), self.node, handle, owner);
    }

    fn wait(&self, request: &LockRequest) -> Ticket {
        match self.locks.set(&self.host, request, true) {
            Answer::Later(ticket) => ticket,
            Answer::Now(result) => panic!("does not wait: {result:?}"),
        }
    }

    fn ended(&self) -> (Ticket, i32) {
        let (ticket, result) = self.locks.end(self.locks.waiters.next_ended().unwrap());
        (ticket, errno(Answer::Now(result)))
    }

    fn other(&self) -> Other {
        Other::new(&self.directory.path().join("file"))
    }
}

/// Somebody else on the host.
struct Other(File);

impl Other {
    fn new(path: &Path) -> Self {
        Self(OpenOptions::new().read(true).write(true).open(path).unwrap())
    }

    fn lock(&self, kind: libc::c_int, start: i64, length: i64) -> i32 {
        let flock = libc::flock {
            l_type: kind.try_into().unwrap(),
            l_whence: 0,
            l_start: start,
            l_len: length,
            l_pid: 0,
        };
        fcntl(&self.0, FcntlArg::F_OFD_SETLK(&flock)).map_or_else(|errno| errno as i32, |_| 0)
    }

    fn flock(&self) -> bool {
        self.0.try_lock().is_ok()
    }
}

fn context() -> Context {
    Context::from(InHeader::default())
}

fn errno(answer: Answer) -> i32 {
    match answer {
        Answer::Now(Ok(())) => 0,
        Answer::Now(Err(error)) => error.raw_os_error().unwrap(),
        Answer::Later(_) => panic!("waits"),
    }
}

#[test]
fn range_is_locked_on_the_host_until_it_is_unlocked() {
    let guest = Guest::new();
    let handle = guest.open(libc::O_RDWR);
    let other = guest.other();
    assert_eq!(guest.lock(handle, 7, EXCLUSIVE, (10, 19)), 0);
    assert_eq!(other.lock(EXCLUSIVE, 15, 1), libc::EAGAIN);
    assert_eq!(other.lock(EXCLUSIVE, 20, 0), 0);
    assert_eq!(guest.lock(handle, 7, SHARED, (0, LAST)), libc::EAGAIN);
    assert_eq!(guest.lock(handle, 7, UNLOCK, (10, 14)), 0);
    assert_eq!((other.lock(EXCLUSIVE, 10, 5), other.lock(EXCLUSIVE, 15, 5)), (0, libc::EAGAIN));
}

#[test]
fn owners_of_one_handle_exclude_each_other() {
    let guest = Guest::new();
    let handle = guest.open(libc::O_RDWR);
    assert_eq!(guest.lock(handle, 7, EXCLUSIVE, (0, LAST)), 0);
    assert_eq!(guest.lock(handle, 8, SHARED, (0, 0)), libc::EAGAIN);
    let found = guest.locks.get(&guest.host, &guest.request(handle, 8, SHARED, (3, 3))).unwrap();
    assert_eq!((found.start, found.end, found.type_, found.pid), (0, LAST, EXCLUSIVE.cast_unsigned(), 7));
}

#[test]
fn close_loses_what_the_process_has_locked_and_no_other() {
    let guest = Guest::new();
    let handle = guest.open(libc::O_RDWR);
    let other = guest.other();
    assert_eq!(guest.lock(handle, 7, SHARED, (0, 9)), 0);
    assert_eq!(guest.lock(handle, 8, SHARED, (0, 9)), 0);
    guest.flush(handle, 7);
    assert_eq!(other.lock(EXCLUSIVE, 0, 10), libc::EAGAIN);
    guest.flush(handle, 8);
    assert_eq!(other.lock(EXCLUSIVE, 0, 10), 0);
    assert_eq!(guest.locks.table().len(), 0);
}

#[test]
fn last_close_loses_what_a_description_has_locked() {
    let guest = Guest::new();
    let handle = guest.open(libc::O_RDWR);
    let other = guest.other();
    assert_eq!(guest.lock(handle, 7, EXCLUSIVE, (0, 9)), 0);
    guest.locks.release(handle);
    assert_eq!((other.lock(EXCLUSIVE, 0, 10), guest.locks.table().len()), (0, 0));
}

#[test]
fn shared_lock_of_a_reader_becomes_exclusive_by_a_writable_handle() {
    let guest = Guest::new();
    let [reading, writing] = [guest.open(libc::O_RDONLY), guest.open(libc::O_RDWR)];
    let other = guest.other();
    assert_eq!(guest.lock(reading, 7, SHARED, (0, 9)), 0);
    assert_eq!(guest.lock(writing, 7, EXCLUSIVE, (0, 4)), 0);
    assert_eq!((other.lock(SHARED, 0, 5), other.lock(SHARED, 5, 5)), (libc::EAGAIN, 0));
    assert_eq!(other.lock(EXCLUSIVE, 5, 5), libc::EAGAIN);
}

#[test]
fn flock_belongs_to_the_handle() {
    let guest = Guest::new();
    let [one, two] = [guest.open(libc::O_RDONLY), guest.open(libc::O_RDONLY)];
    assert_eq!((guest.flock(one, EXCLUSIVE), guest.flock(two, SHARED)), (0, libc::EAGAIN));
    assert!(!guest.other().flock());
    assert_eq!((guest.flock(one, UNLOCK), guest.flock(two, SHARED)), (0, 0));
    guest.host.release(context(), guest.node, 0, two, false, false, None).unwrap();
    assert!(guest.other().flock());
}

#[test]
fn waiting_request_is_granted_when_the_host_unlocks() {
    let guest = Guest::new();
    let handle = guest.open(libc::O_RDWR);
    let other = guest.other();
    assert_eq!(other.lock(EXCLUSIVE, 0, 10), 0);
    let ticket = guest.wait(&guest.request(handle, 7, EXCLUSIVE, (5, 14)));
    assert_eq!(other.lock(UNLOCK, 0, 10), 0);
    assert_eq!(guest.ended(), (ticket, 0));
    assert_eq!((other.lock(SHARED, 0, 5), other.lock(SHARED, 5, 1)), (0, libc::EAGAIN));
}

#[test]
fn waits_end_when_they_are_interrupted_and_when_the_guest_is_gone() {
    let guest = Guest::new();
    let handle = guest.open(libc::O_RDWR);
    let other = guest.other();
    assert!(other.flock());
    assert_eq!(other.lock(EXCLUSIVE, 0, 0), 0);
    let mut flock = guest.request(handle, 7, EXCLUSIVE, (0, LAST));
    flock.arguments.lk_flags = LK_FLOCK;
    for request in [flock, guest.request(handle, 7, SHARED, (0, 0))] {
        // Twenty times, since the signal may come before the call or in it.
        for _ in 0..20 {
            let ticket = guest.wait(&request);
            guest.locks.interrupt(ticket);
            assert_eq!(guest.ended(), (ticket, libc::EINTR));
        }
    }
    let tickets = [guest.wait(&flock), guest.wait(&flock)];
    guest.locks.clear(tickets.into_iter());
    assert_eq!(guest.locks.waiting.load(Ordering::Relaxed), 0);
    let last = guest.wait(&flock);
    drop(guest);
    assert!(last > tickets[1]);
}

#[test]
fn processes_that_would_wait_for_each_other_are_refused() {
    let guest = Guest::new();
    let handle = guest.open(libc::O_RDWR);
    assert_eq!(guest.lock(handle, 7, EXCLUSIVE, (0, 0)), 0);
    assert_eq!(guest.lock(handle, 8, EXCLUSIVE, (1, 1)), 0);
    let first = guest.wait(&guest.request(handle, 7, EXCLUSIVE, (1, 1)));
    let second = guest.request(handle, 8, EXCLUSIVE, (0, 0));
    assert_eq!(errno(guest.locks.set(&guest.host, &second, true)), libc::EDEADLK);
    guest.flush(handle, 8);
    assert_eq!(guest.ended(), (first, 0));
}

#[test]
fn locks_take_no_more_descriptors_than_they_may() {
    let guest = Guest::new();
    let handle = guest.open(libc::O_RDWR);
    for owner in 1..=3 {
        assert_eq!(guest.lock(handle, owner, SHARED, (0, 0)), 0);
    }
    assert_eq!(guest.lock(handle, 4, SHARED, (0, 0)), libc::ENOLCK);
    guest.flush(handle, 1);
    assert_eq!(guest.lock(handle, 4, SHARED, (0, 0)), 0);
}

#[test]
fn who_shares_a_file_outside_is_told_from_who_does_so_inside() {
    let guest = Guest::new();
    let handle = guest.open(libc::O_RDWR);
    let other = guest.other();
    let is_shared_outside = || {
        let mut request = guest.request(handle, 0, EXCLUSIVE, (0, LAST));
        request.arguments.lk_flags = outside::LK_OUTSIDE;
        guest.locks.get(&guest.host, &request).unwrap().type_ == SHARED.cast_unsigned()
    };
    assert!(!is_shared_outside());
    assert_eq!(guest.lock(handle, 7, SHARED, (128, 128)), 0);
    assert_eq!(guest.lock(handle, 8, SHARED, (120, 130)), 0);
    assert_eq!(guest.lock(handle, 7, EXCLUSIVE, (5, 9)), 0);
    // Whoever is first remains so until it lets go.
    assert!(!is_shared_outside());
    assert_eq!(other.lock(SHARED, 128, 1), 0);
    assert!(!is_shared_outside());
    guest.flush(handle, 7);
    guest.flush(handle, 8);
    assert!(is_shared_outside());
    assert_eq!(guest.lock(handle, 7, SHARED, (128, 128)), 0);
    assert_eq!(guest.lock(handle, 8, SHARED, (120, 130)), 0);
    assert_eq!(guest.lock(handle, 7, EXCLUSIVE, (5, 9)), 0);
    // The guest's are before it and beside it, and are all there afterwards.
    assert!(is_shared_outside());
    assert_eq!(other.lock(UNLOCK, 128, 1), 0);
    assert!(!is_shared_outside());
    for (start, mode, taken) in [(5, SHARED, true), (120, EXCLUSIVE, true), (130, EXCLUSIVE, true)] {
        assert_eq!(other.lock(mode, start, 1) == libc::EAGAIN, taken, "{start}");
    }
    guest.flush(handle, 8);
    assert_eq!((other.lock(EXCLUSIVE, 120, 1), other.lock(EXCLUSIVE, 128, 1)), (0, libc::EAGAIN));
    // One who writes shares with nobody; others may beside that.
    guest.flush(handle, 7);
    assert!(!is_shared_outside());
    assert_eq!(other.lock(SHARED, 300, 1), 0);
    assert!(is_shared_outside());
    assert_eq!(guest.locks.table().len(), 0);
}

#[test]
fn who_shares_what_was_its_own_is_first_before_it_maps_anything() {
    let guest = Guest::new();
    let handle = guest.open(libc::O_RDWR);
    let other = guest.other();
    let mut request = guest.request(handle, 0, EXCLUSIVE, (0, LAST));
    request.arguments.lk_flags = outside::LK_OUTSIDE;
    let is_shared_outside =
        || guest.locks.get(&guest.host, &request).unwrap().type_ == SHARED.cast_unsigned();
    assert_eq!(guest.lock(handle, 7, EXCLUSIVE, (128, 128)), 0);
    assert_eq!(guest.lock(handle, 7, SHARED, (128, 128)), 0);
    assert_eq!(other.lock(SHARED, 128, 1), 0);
    assert!(!is_shared_outside());
    guest.flush(handle, 7);
    assert!(is_shared_outside());
    // While another shares it already, it is not.
    assert_eq!(guest.lock(handle, 7, EXCLUSIVE, (300, 300)), 0);
    assert_eq!(guest.lock(handle, 7, SHARED, (300, 300)), 0);
    assert!(is_shared_outside());
}

#[test]
fn what_the_guest_has_waited_for_is_not_somebody_elses() {
    let guest = Guest::new();
    let handle = guest.open(libc::O_RDWR);
    assert_eq!(guest.lock(handle, 7, EXCLUSIVE, (128, 128)), 0);
    let ticket = guest.wait(&guest.request(handle, 8, SHARED, (128, 128)));
    assert_eq!(guest.lock(handle, 7, SHARED, (128, 128)), 0);
    // It is granted, and nobody has noted it yet.
    let ended = guest.locks.waiters.next_ended().unwrap();
    let mut request = guest.request(handle, 0, EXCLUSIVE, (0, LAST));
    request.arguments.lk_flags = outside::LK_OUTSIDE;
    assert_eq!(guest.locks.get(&guest.host, &request).unwrap().type_, UNLOCK.cast_unsigned());
    assert_eq!(guest.locks.end(ended).0, ticket);
}

#[test]
fn of_more_locks_than_can_be_looked_behind_nothing_is_noted() {
    let guest = Guest::new();
    let handle = guest.open(libc::O_RDWR);
    let other = guest.other();
    for at in 0..300 {
        assert_eq!(guest.lock(handle, 7, EXCLUSIVE, (at * 2, at * 2)), 0);
    }
    assert_eq!(other.lock(SHARED, 10_000, 1), 0);
    assert_eq!(guest.lock(handle, 7, SHARED, (9_000, 9_000)), 0);
    let mut request = guest.request(handle, 0, EXCLUSIVE, (0, LAST));
    request.arguments.lk_flags = outside::LK_OUTSIDE;
    let asked = || guest.locks.get(&guest.host, &request).unwrap().type_;
    // It gives up, whichever way it looks first.
    asked();
    assert_eq!(guest.lock(handle, 7, UNLOCK, (0, 600)), 0);
    assert_eq!(asked(), SHARED.cast_unsigned());
}

#[test]
fn nonsense_is_refused() {
    let guest = Guest::new();
    let handle = guest.open(libc::O_RDWR);
    assert_eq!(guest.lock(handle, 7, EXCLUSIVE, (2, 1)), libc::EINVAL);
    assert_eq!(guest.lock(handle, 7, EXCLUSIVE, (0, LAST + 1)), libc::EINVAL);
    assert_eq!(guest.lock(handle, 7, 77, (0, 1)), libc::EINVAL);
    assert_eq!(guest.lock(handle + 9, 7, EXCLUSIVE, (0, 1)), libc::EBADF);
    assert_eq!(guest.lock(guest.open(libc::O_RDONLY), 7, EXCLUSIVE, (0, 1)), libc::EBADF);
}

#[test]
fn signal_between_two_waits_for_one_lock_ends_the_second() {
    for is_interrupted_before in [true, false] {
        let guest = Guest::new();
        let [reading, writing] = [guest.open(libc::O_RDONLY), guest.open(libc::O_RDWR)];
        let [first, second] = [guest.other(), guest.other()];
        assert_eq!(first.lock(EXCLUSIVE, 0, 1), 0);
        let ticket = guest.wait(&guest.request(reading, 7, SHARED, (0, 0)));
        // Which the description that waits cannot have.
        assert_eq!(guest.lock(writing, 7, EXCLUSIVE, (5, 5)), 0);
        assert_eq!(first.lock(UNLOCK, 0, 1), 0);
        await_event(&guest.locks);
        assert_eq!(second.lock(EXCLUSIVE, 0, 1), 0);
        if is_interrupted_before {
            guest.locks.interrupt(ticket);
        } else {
            assert!(guest.locks.take_ended().is_none());
            guest.locks.interrupt(ticket);
            await_event(&guest.locks);
        }
        let (ended, result) = guest.locks.take_ended().unwrap();
        assert_eq!((ended, errno(Answer::Now(result))), (ticket, libc::EINTR));
    }
}

fn await_event(locks: &Locks) {
    let epoll = Epoll::new().unwrap();
    let event = EpollEvent::new(EventSet::IN, 0);
    epoll.ctl(ControlOperation::Add, locks.event().as_raw_fd(), event).unwrap();
    epoll.wait(-1, &mut [EpollEvent::default()]).unwrap();
}
