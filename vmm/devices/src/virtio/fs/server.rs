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
use virtio_queue::DescriptorChain;
use virtiofsd::descriptor_utils::Writer;
use virtiofsd::filesystem::Context;
use virtiofsd::fuse::OutHeader;
use virtiofsd::server::Server;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::events::{EVENTS, Events, Reply, Room, WatchRequest};
use super::host::{Host, Manner};
use super::lock_message::{LockMessage, Place, reply, reply_nothing};
use super::locks::{Answer, Locks, Ticket};
use super::pass_through::pass_through;
use super::patience::Patience;
use super::request::{Request, Staging};
use super::requests::Requests;
use super::statx::StatxRequest;
use super::syncs::{SyncRequest, Syncs};
use super::tmpfile::TmpfileRequest;
use super::tree::SharedTree;
use super::write::WriteRequest;
use super::{FsError, NAME};
use crate::failure::FailureSink;
use crate::memory::Memory;
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
/// Token of what others do to files that are watched.
const OTHERS: u64 = STOP - 2;

/// Serves one directory.
pub(super) struct FileServer {
    server: Server<SharedTree>,
    host: Arc<Host>,
    locks: Arc<Locks>,
    syncs: Syncs,
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
        let syncs = Syncs::new(Arc::clone(locks.event()));
        let server = Server::new(SharedTree::new(Arc::clone(&host), Arc::clone(&locks)));
        Ok(Self {
            server,
            host,
            locks,
            syncs,
            requests: Requests::default(),
            directory: directory.to_owned(),
        })
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
        watch(self.locks.event().as_raw_fd(), LOCKS)?;
        watch(queues[0].kick().as_raw_fd(), 0)?;
        watch(queues[1].kick().as_raw_fd(), 1)?;
        let mut ready = [EpollEvent::default(); 5];
        let mut patience = Patience::new(Instant::now());
        loop {
            session.events.listen(&epoll, OTHERS)?;
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
                    OTHERS => {
                        session.events.come(&self.host);
                        tell(queues, session)?;
                    }
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
            tell(queues, session)?;
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
            Ok(self.handle(request, index, chain, session))
        })
    }

    /// Handles one request and returns the length of the reply, or nothing if that comes later.
    fn handle(
        &self,
        request: Request<'_>,
        queue: usize,
        chain: DescriptorChain<&Memory>,
        session: &mut Session,
    ) -> Option<u32> {
        let (header, unique) = (request.header, request.header.unique);
        self.requests.count(header.opcode);
        session.served = session.served.wrapping_add(1);
        if header.opcode == EVENTS {
            let (place, room) = (Place::of(queue, chain.clone()), Room::of(chain));
            let Some((place, room)) = place.zip(room) else { return Some(refuse(request.writer, unique)) };
            if !session.events.has_watched() {
                // The end of its watches has overtaken it: nothing would ever answer, and an unmount would wait for that.
                let gone = io::Error::from_raw_os_error(libc::ENOTCONN);
                return Some(reply_nothing(request.writer, unique, Answer::Now(Err(gone))));
            }
            session.events.ask(unique, place, room);
            return None;
        }
        if let Some(asked) = WatchRequest::read(&header, &request.reader) {
            let watched = Answer::Now(session.events.watch(&self.host, &asked));
            return Some(reply_nothing(request.writer, unique, watched));
        }
        let echo = session.events.before(&self.host, &header, &request.reader);
        let length = self.serve_request(request, || Place::of(queue, chain), session);
        if let Some(echo) = echo {
            session.events.after(&self.host, Context::from(header), echo);
        }
        length
    }

    /// A request that virtiofsd cannot make sense of fails the guest's call with an I/O error.
    fn serve_request(
        &self,
        request: Request<'_>,
        place: impl FnOnce() -> Option<Place>,
        session: &mut Session,
    ) -> Option<u32> {
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
        if let Some(request) = WriteRequest::read(&header, &reader) {
            return Some(request.reply(&self.host, writer));
        }
        if let Some(request) = SyncRequest::read(&header, &reader) {
            return self.handle_sync(header.unique, &request, writer, place, session);
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

    /// What brings files to the disk is done by another thread, if it can be, and answered when it is.
    fn handle_sync(
        &self,
        unique: u64,
        request: &SyncRequest,
        writer: Writer<'_>,
        place: impl FnOnce() -> Option<Place>,
        session: &mut Session,
    ) -> Option<u32> {
        if request.is_the_agents() {
            return Some(reply_nothing(writer, unique, Answer::Now(Ok(()))));
        }
        let result = match (request.job(&self.host), place()) {
            (Ok(job), Some(place)) => match self.syncs.begin(job, |jobs| self.locks.start_syncing(jobs)) {
                Ok(number) => {
                    session.syncing.insert(number, Waiting { unique, place });
                    return None;
                }
                Err(job) => job.run(),
            },
            (Ok(job), None) => job.run(),
            (Err(error), _) => Err(error),
        };
        Some(reply_nothing(writer, unique, Answer::Now(result)))
    }

    /// Replies to the requests whose waits are over.
    fn reply_to_waiting(
        &self,
        queues: &mut [ActiveQueue; 2],
        session: &mut Session,
    ) -> Result<(), QueueError> {
        while let Some((ticket, result)) = self.locks.take_ended() {
            let waiting = session.waiting.remove(&ticket);
            waiting.map_or(Ok(()), |waiting| waiting.reply(queues, &result))?;
        }
        while let Some((number, result)) = self.syncs.take_done() {
            // Those of a guest that has begun anew are nobody's.
            let waiting = session.syncing.remove(&number);
            waiting.map_or(Ok(()), |waiting| waiting.reply(queues, &result))?;
        }
        Ok(())
    }
}

/// Replies to the request that waits for events, if there are some.
fn tell(queues: &mut [ActiveQueue; 2], session: &mut Session) -> Result<(), QueueError> {
    while let Some(Reply { unique, place, events }) = session.events.reply() {
        let queue = &mut queues[place.queue];
        let length = match events {
            Some((room, events)) => room.reply(queue.memory(), unique, &events),
            None => place.reply(queue.memory(), unique, &Ok(())),
        };
        queue.push_used(place.head, length)?;
        queue.notify()?;
    }
    Ok(())
}

/// What of the queues' service outlasts one request.
#[derive(Debug, Default)]
struct Session {
    /// What others do to what is watched.
    events: Events,
    /// Requests that wait for locks.
    waiting: HashMap<Ticket, Waiting>,
    /// Those that wait for the disk, by the number of the job.
    syncing: HashMap<u64, Waiting>,
    /// Numbers of requests whose processes have a signal.
    interrupted: Vec<u64>,
    /// How many requests there were.
    served: u64,
}

/// A request that waits.
#[derive(Debug)]
struct Waiting {
    unique: u64,
    place: Place,
}

impl Waiting {
    fn reply(&self, queues: &mut [ActiveQueue; 2], result: &io::Result<()>) -> Result<(), QueueError> {
        let queue = &mut queues[self.place.queue];
        let length = self.place.reply(queue.memory(), self.unique, result);
        queue.push_used(self.place.head, length)?;
        queue.notify()
    }
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
#[path = "server_tests.rs"]
mod tests;

#[cfg(feature = "fuzzing")]
pub(crate) use tests::run as fuzz;
