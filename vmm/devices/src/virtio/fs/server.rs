//! The FUSE server behind the queues.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{Mode, umask};
use virtiofsd::descriptor_utils::Writer;
use virtiofsd::fuse::OutHeader;
use virtiofsd::server::Server;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::host::{Host, Manner};
use super::lock_message::{LockMessage, Place, reply, reply_nothing};
use super::locks::{Answer, Locks, Ticket};
use super::pass_through::pass_through;
use super::patience::Patience;
use super::request::{Request, Staging};
use super::requests::Requests;
use super::statx::StatxRequest;
use super::tmpfile::TmpfileRequest;
use super::tree::SharedTree;
use super::{FsError, NAME};
use crate::failure::FailureSink;
use crate::virtio::counters::Counters;
use crate::virtio::queue::{ActiveQueue, QueueError};

/// One in this many of the guest's descriptors is for locks: each process has one for each file of which
/// it has locked a range.
const LOCKS_SHARE: u64 = 4;
/// Likewise for files without names, and no more than a program can want.
const NAMELESS_SHARE: u64 = 8;
const MOST_NAMELESS: u64 = 2048;

/// Descriptors that the guest's files leave to the rest of the process, where vsock connections need
/// most, one each.
const RESERVED_DESCRIPTORS: u64 = 4096;

/// Token of the event that ends the server; the queues' tokens are their numbers.
const STOP: u64 = u64::MAX;
/// Token of the event that tells of locks.
const LOCKS: u64 = STOP - 1;

/// Serves one directory.
pub(super) struct FileServer {
    server: Server<SharedTree>,
    host: Arc<Host>,
    locks: Arc<Locks>,
    requests: Requests,
    directory: PathBuf,
}

impl FileServer {
    /// `failures` hears why if nobody waits for locks any more.
    pub(super) fn open(directory: &Path, manner: Manner, failures: FailureSink) -> Result<Self, FsError> {
        let failed = |errno: nix::Error| FsError::Open { path: directory.to_owned(), source: errno.into() };
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
        Self::with_descriptors(directory, manner, for_the_guest(limit), failures)
    }

    fn with_descriptors(
        directory: &Path,
        manner: Manner,
        count: u64,
        failures: FailureSink,
    ) -> Result<Self, FsError> {
        let failed = |source| FsError::Open { path: directory.to_owned(), source };
        let for_locks = count / LOCKS_SHARE;
        let for_nameless = (count / NAMELESS_SHARE).min(MOST_NAMELESS);
        let named = pass_through(directory, count - for_locks - for_nameless).map_err(failed)?;
        let nameless = usize::try_from(for_nameless).unwrap_or(0);
        let host = Arc::new(Host::new(named, nameless, manner).map_err(failed)?);
        let failed = move |failure| failures.report(NAME, &failure);
        let locks = Arc::new(Locks::new(usize::try_from(for_locks).unwrap_or(usize::MAX), failed)?);
        let server = Server::new(SharedTree::new(Arc::clone(&host), Arc::clone(&locks)));
        Ok(Self { server, host, locks, requests: Requests::default(), directory: directory.to_owned() })
    }

    /// What it counts.
    pub(super) fn counters(&self) -> Counters {
        self.requests.named()
    }

    /// The directory, for whoever shall name nothing else.
    pub(super) fn root(&self) -> Result<OwnedFd, FsError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        nix::fcntl::open(&self.directory, flags, Mode::empty())
            .map_err(|errno| FsError::Open { path: self.directory.clone(), source: errno.into() })
    }

    /// The guest's file system is gone; so are its open files.
    pub(super) fn forget(&self) {
        self.server.destroy();
    }

    /// Serves the queues until `stop` is readable.
    pub(super) fn serve(&self, queues: &mut [ActiveQueue; 2], stop: &EventFd) -> Result<(), ServeError> {
        let mut session = Session::default();
        let served = self.serve_until(queues, &mut session, stop);
        self.locks.clear(session.waiting.into_keys());
        served
    }

    fn serve_until(
        &self,
        queues: &mut [ActiveQueue; 2],
        session: &mut Session,
        stop: &EventFd,
    ) -> Result<(), ServeError> {
        own_credentials()?;
        let [first, second] = [Staging::new(queues[0].memory())?, Staging::new(queues[1].memory())?];
        let mut stagings = [first, second];
        let epoll = Epoll::new()?;
        let watch =
            |event, token| epoll.ctl(ControlOperation::Add, event, EpollEvent::new(EventSet::IN, token));
        watch(stop.as_raw_fd(), STOP)?;
        watch(self.locks.event(), LOCKS)?;
        watch(queues[0].kick().as_raw_fd(), 0)?;
        watch(queues[1].kick().as_raw_fd(), 1)?;
        let mut ready = [EpollEvent::default(); 4];
        let mut patience = Patience::new(Instant::now());
        loop {
            patience.sleeps(Instant::now());
            let count = match epoll.wait(-1, &mut ready) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                result => result?,
            };
            patience.wakes(Instant::now());
            let mut is_kicked = false;
            for event in &ready[..count] {
                match event.data() {
                    STOP => return Ok(()),
                    LOCKS => self.reply_to_waiting(queues, session)?,
                    kicked => {
                        queues[usize::from(kicked != 0)].clear_kick();
                        is_kicked = true;
                    }
                }
            }
            if is_kicked {
                self.drain(queues, &mut stagings, session, &mut patience)?;
            }
        }
    }

    /// Serves what is in the queues, and what comes soon.
    fn drain(
        &self,
        queues: &mut [ActiveQueue; 2],
        stagings: &mut [Staging; 2],
        session: &mut Session,
        patience: &mut Patience,
    ) -> Result<(), QueueError> {
        let before = session.served;
        loop {
            for index in [0, 1] {
                self.serve_one(&mut queues[index], &mut stagings[index], index, session)?;
            }
            if session.served == before {
                patience.came_for_nothing();
            }
            // They overtake the requests that they are about, which are served by now.
            for unique in std::mem::take(&mut session.interrupted) {
                session.tickets_of(unique).for_each(|ticket| self.locks.interrupt(ticket));
            }
            if !patience.goes_on(Instant::now()) {
                queues.iter().for_each(ActiveQueue::come_back);
                return Ok(());
            }
            if !comes_more(queues, patience)? {
                return Ok(());
            }
        }
    }

    fn serve_one(
        &self,
        queue: &mut ActiveQueue,
        staging: &mut Staging,
        index: usize,
        session: &mut Session,
    ) -> Result<(), QueueError> {
        queue.serve(|_, chain| {
            let request = staging.take(chain.clone())?;
            Ok(self.handle(request, || Place::of(index, chain), session))
        })
    }

    /// Handles one request and returns the length of the reply, or nothing if that comes later. A request
    /// that virtiofsd cannot make sense of fails the guest's call with an I/O error.
    fn handle(
        &self,
        request: Request<'_>,
        place: impl FnOnce() -> Option<Place>,
        session: &mut Session,
    ) -> Option<u32> {
        self.requests.count(request.header.opcode);
        session.served = session.served.wrapping_add(1);
        let is_answered = request.is_answered();
        let Request { header, reader, writer } = request;
        if let Some(message) = LockMessage::read(&header, &reader) {
            return self.handle_lock(header.unique, &message, writer, place, session);
        }
        if let Some(request) = StatxRequest::read(&header, &reader) {
            return Some(request.reply(&self.host, writer));
        }
        if let Some(request) = TmpfileRequest::read(&header, &reader) {
            return Some(request.reply(&self.host, writer));
        }
        let spare = writer.clone();
        Some(match self.server.handle_message(reader, writer, NO_BACKEND).map(u32::try_from) {
            Ok(Ok(length)) => length,
            Ok(Err(_)) | Err(_) if is_answered => refuse(spare, header.unique),
            Ok(Err(_)) | Err(_) => 0,
        })
    }

    fn handle_lock(
        &self,
        unique: u64,
        message: &LockMessage,
        writer: Writer<'_>,
        place: impl FnOnce() -> Option<Place>,
        session: &mut Session,
    ) -> Option<u32> {
        match message {
            LockMessage::Interrupt(interrupted) => {
                session.interrupted.push(*interrupted);
                Some(0)
            }
            LockMessage::Get(request) => Some(reply(writer, unique, &self.locks.get(&self.host, request))),
            LockMessage::Set(request) => {
                Some(reply_nothing(writer, unique, self.locks.set(&self.host, request, false)))
            }
            LockMessage::Wait(request) => {
                let Some(place) = place() else { return Some(refuse(writer, unique)) };
                match self.locks.set(&self.host, request, true) {
                    Answer::Later(ticket) => {
                        session.waiting.insert(ticket, Waiting { unique, place });
                        None
                    }
                    now @ Answer::Now(_) => Some(reply_nothing(writer, unique, now)),
                }
            }
        }
    }

    /// Replies to the requests whose waits are over.
    fn reply_to_waiting(
        &self,
        queues: &mut [ActiveQueue; 2],
        session: &mut Session,
    ) -> Result<(), QueueError> {
        while let Some((ticket, result)) = self.locks.take_ended() {
            let Some(Waiting { unique, place }) = session.waiting.remove(&ticket) else { continue };
            let queue = &mut queues[place.queue];
            let length = place.reply(queue.memory(), unique, &result);
            queue.push_used(place.head, length)?;
            queue.notify()?;
        }
        Ok(())
    }
}

/// What of the queues' service outlasts one request.
#[derive(Debug, Default)]
struct Session {
    /// Requests that wait for locks.
    waiting: HashMap<Ticket, Waiting>,
    /// Numbers of requests whose processes have a signal.
    interrupted: Vec<u64>,
    /// How many requests there were.
    served: u64,
}

/// A request that waits for a lock.
#[derive(Debug)]
struct Waiting {
    unique: u64,
    place: Place,
}

impl Session {
    fn tickets_of(&self, unique: u64) -> impl Iterator<Item = Ticket> {
        self.waiting.iter().filter(move |(_, waiting)| waiting.unique == unique).map(|(ticket, _)| *ticket)
    }
}

/// Whether there are requests by now, or soon; if not, the guest kicks for the next one.
fn comes_more(queues: &mut [ActiveQueue; 2], patience: &mut Patience) -> Result<bool, QueueError> {
    let [first, second] = queues;
    let found = || Ok::<_, QueueError>(second.has_more()? || first.has_more()?);
    if patience.looks() && patience.look(found)? {
        return Ok(true);
    }
    // Both are asked: neither may be left without kicks.
    Ok(first.rearm()? | second.rearm()?)
}

/// Why the server cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error("cannot wait for requests: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Answers a request with `EIO`.
fn refuse(mut writer: Writer<'_>, unique: u64) -> u32 {
    let reply = OutHeader { len: OUT_HEADER_BYTES, error: -libc::EIO, unique };
    // There is room for it, or it would be no request.
    if writer.write_obj(reply).is_ok() { OUT_HEADER_BYTES } else { 0 }
}

/// Size of `struct fuse_out_header`.
const OUT_HEADER_BYTES: u32 = 16;

/// How many of the `limit` descriptors of this process the files may take that the guest knows: when
/// they are used up, a request fails with `ENFILE`, and the other devices go on.
fn for_the_guest(limit: u64) -> u64 {
    limit - RESERVED_DESCRIPTORS.min(limit / 2)
}

/// No DAX window: nothing is ever mapped into the guest on request.
const NO_BACKEND: Option<&mut ()> = None;

/// The file system switches user, working directory and umask a request, which
/// must not leak into other threads of the process.
fn own_credentials() -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS)?;
    umask(Mode::empty());
    Ok(())
}

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(feature = "fuzzing", allow(dead_code, unused_imports))]
#[allow(clippy::unwrap_used, clippy::panic)] // Clippy knows tests by `cfg(test)` alone.
mod tests {
    use proptest::prelude::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use virtiofsd::fuse::Opcode;
    use vm_memory::{Bytes, GuestAddress};

    use super::super::init_request;
    use super::super::pass_through::serve_here;
    use super::*;
    use crate::memory::Memory;
    use crate::virtio::test_queue::{BUFFERS, Failures, WRITE, memory, queue_with};

    fn drain(server: &FileServer, memory: &Memory, queue: &mut ActiveQueue) -> Result<(), QueueError> {
        drain_with(server, queue, &mut Staging::new(memory).unwrap())
    }

    fn drain_with(
        server: &FileServer,
        queue: &mut ActiveQueue,
        staging: &mut Staging,
    ) -> Result<(), QueueError> {
        let mut session = Session::default();
        let drained = server.serve_one(queue, staging, 1, &mut session);
        server.locks.clear(session.waiting.into_keys());
        drained
    }

    /// Runs a guest's `program` of requests: each an opcode, a node, where a byte of it changes under way
    /// and to what, how much room there is for the reply, and 16 bytes of its arguments.
    pub(crate) fn run(program: &[u8]) {
        const STEP: usize = 24;
        const SECRET: &[u8] = b"what lies beside the share";
        let directory = tempfile::tempdir().unwrap();
        let [share, secret] = ["share", "secret"].map(|name| directory.path().join(name));
        std::fs::create_dir_all(share.join("d")).unwrap();
        std::fs::write(share.join("a"), "a file").unwrap();
        std::fs::write(&secret, SECRET).unwrap();
        std::os::unix::fs::symlink("../secret", share.join("l")).unwrap();
        let server =
            FileServer::with_descriptors(&share, Manner::default(), 64, Failures::default().sink()).unwrap();
        serve_here(&share);
        let memory = memory();
        let mut staging = Staging::new(&memory).unwrap();
        memory.write_slice(&init_request(), GuestAddress(BUFFERS)).unwrap();
        let mut first = queue_with(&memory, &[(BUFFERS, 56, 0), (BUFFERS + 0x1000, 0x1000, WRITE)]);
        drain_with(&server, &mut first.queue, &mut staging).unwrap();
        for (unique, step) in (1u64..).zip(program.chunks_exact(STEP)) {
            let [opcode, node, place, byte, length, room, cuts, how, arguments @ ..] = step else { continue };
            // Names are at the end of arguments whose size the opcode tells.
            let body = arguments.iter().copied().chain([0; 48]).chain(*b"a\0d\0l\0..\0a\0");
            let length = 40 + u32::from(*length);
            let header = [
                if *how & 1 == 0 { length } else { u32::from(*cuts) << (*how >> 4) },
                u32::from(*opcode) % 56,
                u32::try_from(unique).unwrap(),
                0,
                u32::from(*node),
                0,
                0,
                0,
                1,
                0,
            ];
            let request: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).chain(body).collect();
            memory.write_slice(&request, GuestAddress(BUFFERS)).unwrap();
            let reply = u32::from(*room) * 32;
            let chain = match *how >> 1 & 3 {
                0 => vec![(BUFFERS, length, 0), (BUFFERS + 0x1000, reply, WRITE)],
                1 => vec![(BUFFERS, 40, 0), (BUFFERS + 40, length - 40, 0), (BUFFERS + 0x1000, reply, WRITE)],
                2 => vec![
                    (BUFFERS, length, 0),
                    (BUFFERS + 0x1000, 16, WRITE),
                    (BUFFERS + 0x2000, reply, WRITE),
                ],
                _ => vec![(BUFFERS, length, 0)],
            };
            let mut test = queue_with(&memory, &chain);
            if *how & 8 == 0 {
                let _ = drain_with(&server, &mut test.queue, &mut staging);
            } else {
                let over = AtomicBool::new(false);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        let place = GuestAddress(BUFFERS + u64::from(*place) % u64::from(length));
                        while !over.load(Ordering::Relaxed) {
                            memory.write_obj(*byte, place).unwrap();
                            memory.write_obj(0u8, place).unwrap();
                        }
                    });
                    let _ = drain_with(&server, &mut test.queue, &mut staging);
                    over.store(true, Ordering::Relaxed);
                });
            }
            if let Some(used) = test.used_length() {
                assert!(used <= reply + 16, "{used} bytes into {reply}");
            }
            let mut reply = vec![0; 0x3000];
            memory.read_slice(&mut reply, GuestAddress(BUFFERS + 0x1000)).unwrap();
            assert!(
                !reply.windows(SECRET.len()).any(|bytes| bytes == SECRET),
                "a file beside the share was read"
            );
        }
        assert_eq!(std::fs::read(&secret).unwrap(), SECRET, "a file beside the share was written");
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            2,
            "something lies beside the share"
        );
    }

    #[test]
    fn request_gets_its_reply() {
        let directory = tempfile::tempdir().unwrap();
        let server =
            FileServer::open(directory.path(), Manner::default(), Failures::default().sink()).unwrap();
        serve_here(directory.path());
        let memory = memory();
        let request = init_request();
        memory.write_slice(&request, GuestAddress(BUFFERS)).unwrap();
        let length = u32::try_from(request.len()).unwrap();
        let mut test = queue_with(&memory, &[(BUFFERS, length, 0), (BUFFERS + 0x1000, 0x1000, WRITE)]);
        drain(&server, &memory, &mut test.queue).unwrap();
        let reply: [u32; 2] = memory.read_obj(GuestAddress(BUFFERS + 0x1000)).unwrap();
        assert_eq!(Some(reply[0]), test.used_length());
        // No error, and version 7.
        assert_eq!(reply[1], 0);
        assert_eq!(memory.read_obj::<u32>(GuestAddress(BUFFERS + 0x1010)).unwrap(), 7);
    }

    #[test]
    fn directory_that_is_not_there_cannot_be_shared() {
        assert!(
            FileServer::open(Path::new("/no/such/directory"), Manner::default(), Failures::default().sink())
                .is_err()
        );
    }

    /// Looks `name` up in the root, and returns the error number.
    fn look_up(server: &FileServer, name: &str) -> i32 {
        let memory = memory();
        let length = u32::try_from(40 + name.len() + 1).unwrap();
        let header = [length, Opcode::Lookup as u32, 0, 0, 1, 0, 0, 0, 0, 0];
        let request: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).chain(name.bytes()).collect();
        memory.write_slice(&request, GuestAddress(BUFFERS)).unwrap();
        let chain = [(BUFFERS, length, 0), (BUFFERS + 0x1000, 0x1000, WRITE)];
        drain(server, &memory, &mut queue_with(&memory, &chain).queue).unwrap();
        -memory.read_obj::<i32>(GuestAddress(BUFFERS + 0x1004)).unwrap()
    }

    #[test]
    fn guest_that_has_its_share_of_descriptors_gets_no_more() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        // The root has one, and one is for locks.
        let server =
            FileServer::with_descriptors(directory.path(), Manner::default(), 4, Failures::default().sink())
                .unwrap();
        serve_here(directory.path());
        assert_eq!(["a", "b", "c", "a"].map(|name| look_up(&server, name)), [0, 0, libc::ENFILE, 0]);
    }

    #[test]
    fn descriptors_are_left_to_the_other_devices() {
        assert_eq!(for_the_guest(1_000_000), 1_000_000 - RESERVED_DESCRIPTORS);
        assert_eq!([for_the_guest(1024), for_the_guest(1), for_the_guest(0)], [512, 1, 0]);
        assert_eq!(for_the_guest(u64::MAX), u64::MAX - RESERVED_DESCRIPTORS);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn requests_one_after_the_other_reach_nothing_beside_the_share(program in prop::collection::vec(any::<u8>(), 0..240)) {
            run(&program);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_requests_and_chains_never_panic(
            request in prop::collection::vec(any::<u8>(), 0..200),
            opcode in 0u32..60,
            chain in prop::collection::vec((BUFFERS..0x2_1000, 0u32..0x3000, 0u16..4), 0..6),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let server = FileServer::open(directory.path(), Manner::default(), Failures::default().sink()).unwrap();
            serve_here(directory.path());
            let memory = memory();
            memory.write_slice(&init_request(), GuestAddress(BUFFERS)).unwrap();
            let mut first = queue_with(&memory, &[(BUFFERS, 56, 0), (BUFFERS + 0x1000, 0x1000, WRITE)]);
            drain(&server, &memory, &mut first.queue).unwrap();
            memory.write_slice(&request, GuestAddress(BUFFERS)).unwrap();
            memory.write_obj(opcode, GuestAddress(BUFFERS + 4)).unwrap();
            let mut chain = chain;
            chain.insert(0, (BUFFERS, 200, 0));
            let _ = drain(&server, &memory, &mut queue_with(&memory, &chain).queue);
        }
    }

    #[test]
    fn request_that_makes_no_sense_fails_with_an_io_error() {
        let directory = tempfile::tempdir().unwrap();
        let server =
            FileServer::open(directory.path(), Manner::default(), Failures::default().sink()).unwrap();
        serve_here(directory.path());
        // A name without its end.
        let memory = memory();
        let request = [44u32, Opcode::Lookup as u32, 7, 0, 1, 0, 0, 0, 0, 0, 0x6161_6161];
        let request: Vec<u8> = request.into_iter().flat_map(u32::to_le_bytes).collect();
        memory.write_slice(&request, GuestAddress(BUFFERS)).unwrap();
        let mut test = queue_with(&memory, &[(BUFFERS, 44, 0), (BUFFERS + 0x1000, 0x1000, WRITE)]);
        drain(&server, &memory, &mut test.queue).unwrap();
        assert_eq!(test.used_length(), Some(OUT_HEADER_BYTES));
        let reply: OutHeader = memory.read_obj(GuestAddress(BUFFERS + 0x1000)).unwrap();
        assert_eq!((reply.len, reply.error, reply.unique), (OUT_HEADER_BYTES, -libc::EIO, 7));
    }

    /// Without a copy virtiofsd takes what was a `FORGET` for a `READ`, panics for want of room for
    /// the reply, or answers what nobody waits for.
    #[test]
    fn guest_that_changes_a_request_under_way_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let server =
            FileServer::open(directory.path(), Manner::default(), Failures::default().sink()).unwrap();
        serve_here(directory.path());
        let (memory, over) = (memory(), AtomicBool::new(false));
        memory.write_slice(&init_request(), GuestAddress(BUFFERS)).unwrap();
        let mut first = queue_with(&memory, &[(BUFFERS, 56, 0), (BUFFERS + 0x1000, 0x1000, WRITE)]);
        drain(&server, &memory, &mut first.queue).unwrap();
        let request = [80u32, Opcode::Forget as u32, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        let request: Vec<u8> = request.into_iter().flat_map(u32::to_le_bytes).collect();
        memory.write_slice(&request, GuestAddress(BUFFERS)).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for opcode in [Opcode::Read, Opcode::Forget, Opcode::Readdir, Opcode::Forget] {
                        memory.write_obj(opcode as u32, GuestAddress(BUFFERS + 4)).unwrap();
                    }
                }
            });
            let mut staging = Staging::new(&memory).unwrap();
            let served: Vec<_> = (0..2000)
                .map(|_| {
                    let mut test = queue_with(&memory, &[(BUFFERS, 80, 0)]);
                    let drained =
                        catch_unwind(AssertUnwindSafe(|| drain_with(&server, &mut test.queue, &mut staging)));
                    (drained, test.used_length())
                })
                .collect();
            over.store(true, Ordering::Relaxed);
            for (drained, used) in served {
                // What is not a `FORGET` when it is copied is no request.
                match drained.unwrap() {
                    Ok(()) => assert_eq!(used, Some(0)),
                    Err(error) => assert!(error.to_string().contains("room for the reply"), "{error}"),
                }
            }
        });
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) use tests::run as fuzz;
