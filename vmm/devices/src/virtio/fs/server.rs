//! The FUSE server behind the queues.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{Mode, umask};
use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_queue::DescriptorChain;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{InHeader, Opcode, OutHeader};
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};
use virtiofsd::server::Server;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::FsError;
use super::lock_message::{LockMessage, Place, reply, reply_nothing};
use super::locks::{Answer, Locks, Ticket};
use super::tree::SharedTree;
use crate::memory::Memory;
use crate::virtio::queue::{ActiveQueue, QueueError};

/// How long the guest may trust names and attributes that it has seen. Others on
/// the host may change the tree, so this bounds how stale the guest's view gets.
const CACHE_TIMEOUT: Duration = Duration::from_secs(1);

/// One in this many of the guest's descriptors is for locks: each process has one for each file of which
/// it has locked a range.
const LOCKS_SHARE: u64 = 4;

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
    host: Arc<PassthroughFs>,
    locks: Arc<Locks>,
}

impl FileServer {
    pub(super) fn open(directory: &Path) -> Result<Self, FsError> {
        let failed = |source| FsError::Open { path: directory.to_owned(), source };
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| failed(errno.into()))?;
        Self::with_descriptors(directory, for_the_guest(limit))
    }

    fn with_descriptors(directory: &Path, count: u64) -> Result<Self, FsError> {
        let failed = |source| FsError::Open { path: directory.to_owned(), source };
        let for_locks = count / LOCKS_SHARE;
        let host = Arc::new(pass_through(directory, count - for_locks).map_err(failed)?);
        let failed = |failure| log::error!("virtio-fs: nobody waits for locks any more: {failure}");
        let locks = Arc::new(Locks::new(usize::try_from(for_locks).unwrap_or(usize::MAX), failed)?);
        let server = Server::new(SharedTree::new(Arc::clone(&host), Arc::clone(&locks)));
        Ok(Self { server, host, locks })
    }

    /// The guest's file system is gone; so are its open files.
    pub(super) fn forget(&self) {
        self.server.destroy();
    }

    /// Serves the queues until `stop` is readable.
    pub(super) fn serve(&self, mut queues: [ActiveQueue; 2], stop: &EventFd) {
        let mut session = Session::default();
        let served = own_credentials().and_then(|()| self.serve_until(&mut queues, &mut session, stop));
        self.locks.clear(session.waiting.into_keys());
        if let Err(error) = served {
            log::error!("virtio-fs: the server ends: {error}");
            queues[0].signal_needs_reset();
        }
    }

    fn serve_until(
        &self,
        queues: &mut [ActiveQueue; 2],
        session: &mut Session,
        stop: &EventFd,
    ) -> io::Result<()> {
        let epoll = Epoll::new()?;
        let watch =
            |event, token| epoll.ctl(ControlOperation::Add, event, EpollEvent::new(EventSet::IN, token));
        watch(stop.as_raw_fd(), STOP)?;
        watch(self.locks.event(), LOCKS)?;
        watch(queues[0].kick().as_raw_fd(), 0)?;
        watch(queues[1].kick().as_raw_fd(), 1)?;
        let mut ready = [EpollEvent::default(); 4];
        loop {
            let count = match epoll.wait(-1, &mut ready) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                result => result?,
            };
            for event in &ready[..count] {
                match event.data() {
                    STOP => return Ok(()),
                    LOCKS => self.reply_to_waiting(queues, session).map_err(io::Error::other)?,
                    token => {
                        let Ok(index) = usize::try_from(token) else { continue };
                        self.drain(queues, index, session).map_err(io::Error::other)?;
                    }
                }
            }
        }
    }

    /// Serves what is in the queue of this number.
    fn drain(
        &self,
        queues: &mut [ActiveQueue; 2],
        index: usize,
        session: &mut Session,
    ) -> Result<(), QueueError> {
        self.drain_one(&mut queues[index], index, session)?;
        if !session.interrupted.is_empty() {
            // They overtake the requests that they are about, which are in the queue by now.
            self.drain_one(&mut queues[1], 1, session)?;
            for unique in std::mem::take(&mut session.interrupted) {
                session.tickets_of(unique).for_each(|ticket| self.locks.interrupt(ticket));
            }
        }
        Ok(())
    }

    fn drain_one(
        &self,
        queue: &mut ActiveQueue,
        index: usize,
        session: &mut Session,
    ) -> Result<(), QueueError> {
        queue.clear_kick();
        queue.drain_some(|memory, chain| self.handle(memory, chain, index, session))
    }

    /// Handles one request and returns the length of the reply, or nothing if that comes later. A chain
    /// that is no request gets no reply, which fails the guest's call with an I/O error.
    fn handle(
        &self,
        memory: &Memory,
        chain: DescriptorChain<&Memory>,
        queue: usize,
        session: &mut Session,
    ) -> Option<u32> {
        let Some((header, reader, writer)) = request(memory, chain.clone()) else {
            log::debug!("virtio-fs: dropped a malformed request");
            return Some(0);
        };
        if let Some(message) = LockMessage::read(&header, &reader) {
            return self.handle_lock(&header, message, writer, || Place::of(queue, chain), session);
        }
        let written = self.server.handle_message(reader, writer, NO_BACKEND);
        Some(written.ok().and_then(|length| u32::try_from(length).ok()).unwrap_or_else(|| {
            log::debug!("virtio-fs: dropped a request that could not be answered");
            0
        }))
    }

    fn handle_lock(
        &self,
        header: &InHeader,
        message: LockMessage,
        writer: Writer<'_>,
        place: impl FnOnce() -> Option<Place>,
        session: &mut Session,
    ) -> Option<u32> {
        let unique = header.unique;
        match message {
            LockMessage::Interrupt(interrupted) => {
                session.interrupted.push(interrupted);
                Some(0)
            }
            LockMessage::Get(request) => Some(reply(writer, unique, self.locks.get(&self.host, &request))),
            LockMessage::Set(request) => {
                Some(reply_nothing(writer, unique, self.locks.set(&self.host, &request, false)))
            }
            LockMessage::Wait(request) => {
                let Some(place) = place() else { return Some(0) };
                match self.locks.set(&self.host, &request, true) {
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
            let length = place.reply(queue.memory(), unique, result);
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

/// How many of the `limit` descriptors of this process the files may take that the guest knows: when
/// they are used up, a request fails with `ENFILE`, and the other devices go on.
fn for_the_guest(limit: u64) -> u64 {
    limit - RESERVED_DESCRIPTORS.min(limit / 2)
}

/// virtiofsd's file system, at its root node.
pub(super) fn pass_through(directory: &Path, guest_fd_limit: u64) -> io::Result<PassthroughFs> {
    let root_dir = directory
        .to_str()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "its name is not UTF-8"))?
        .to_owned();
    let config = Config {
        root_dir,
        entry_timeout: CACHE_TIMEOUT,
        attr_timeout: CACHE_TIMEOUT,
        cache_policy: CachePolicy::Auto,
        xattr: true,
        // Each bind mount in the tree gets a device number of its own in the
        // guest, so that (st_dev, st_ino) names a file there as it does here.
        announce_submounts: true,
        readdirplus: true,
        // A write clears set-user-id bits, as it does on a local file system.
        killpriv_v2: true,
        allow_direct_io: true,
        allow_mmap: true,
        guest_fd_limit,
        ..Config::default()
    };
    let fs = PassthroughFs::new(config)?;
    fs.open_root_node()?;
    Ok(fs)
}

/// The header and the two halves of a chain, if it is long enough to be a request. The server
/// takes it for granted that a reply's header fits.
fn request<'m>(
    memory: &'m Memory,
    chain: DescriptorChain<&'m Memory>,
) -> Option<(InHeader, Reader<'m>, Writer<'m>)> {
    let reader = Reader::<BitmapMmapRegion>::new(memory, chain.clone()).ok()?;
    let writer = Writer::<BitmapMmapRegion>::new(memory, chain).ok()?;
    let header: InHeader = reader.clone().read_obj().ok()?;
    let opcode = header.opcode;
    let unanswered = [Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt];
    let fits = writer.available_bytes() >= size_of::<OutHeader>();
    (fits || unanswered.iter().any(|&known| known as u32 == opcode)).then_some((header, reader, writer))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    use super::super::init_request;
    use super::*;
    use crate::virtio::test_queue::{BUFFERS, WRITE, memory, queue_with};

    impl FileServer {
        fn drain_test(&self, queue: &mut ActiveQueue) -> Result<(), QueueError> {
            let mut session = Session::default();
            let drained = self.drain_one(queue, 1, &mut session);
            self.locks.clear(session.waiting.into_keys());
            drained
        }
    }

    #[test]
    fn request_gets_its_reply() {
        let directory = tempfile::tempdir().unwrap();
        let server = FileServer::open(directory.path()).unwrap();
        let memory = memory();
        let request = init_request();
        memory.write_slice(&request, GuestAddress(BUFFERS)).unwrap();
        let length = u32::try_from(request.len()).unwrap();
        let mut test = queue_with(&memory, &[(BUFFERS, length, 0), (BUFFERS + 0x1000, 0x1000, WRITE)]);
        server.drain_test(&mut test.queue).unwrap();
        let reply: [u32; 2] = memory.read_obj(GuestAddress(BUFFERS + 0x1000)).unwrap();
        assert_eq!(Some(reply[0]), test.used_length());
        // No error, and version 7.
        assert_eq!(reply[1], 0);
        assert_eq!(memory.read_obj::<u32>(GuestAddress(BUFFERS + 0x1010)).unwrap(), 7);
    }

    #[test]
    fn directory_that_is_not_there_cannot_be_shared() {
        assert!(FileServer::open(Path::new("/no/such/directory")).is_err());
    }

    /// Looks `name` up in the root, and returns the error number.
    fn look_up(server: &FileServer, name: &str) -> i32 {
        let memory = memory();
        let length = u32::try_from(40 + name.len() + 1).unwrap();
        let header = [length, Opcode::Lookup as u32, 0, 0, 1, 0, 0, 0, 0, 0];
        let request: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).chain(name.bytes()).collect();
        memory.write_slice(&request, GuestAddress(BUFFERS)).unwrap();
        let chain = [(BUFFERS, length, 0), (BUFFERS + 0x1000, 0x1000, WRITE)];
        server.drain_test(&mut queue_with(&memory, &chain).queue).unwrap();
        -memory.read_obj::<i32>(GuestAddress(BUFFERS + 0x1004)).unwrap()
    }

    #[test]
    fn guest_that_has_its_share_of_descriptors_gets_no_more() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        // The root has one, and one is for locks.
        let server = FileServer::with_descriptors(directory.path(), 4).unwrap();
        assert_eq!(["a", "b", "c", "a"].map(|name| look_up(&server, name)), [0, 0, libc::ENFILE, 0]);
    }

    #[test]
    fn descriptors_are_left_to_the_other_devices() {
        assert_eq!(for_the_guest(1_000_000), 1_000_000 - RESERVED_DESCRIPTORS);
        assert_eq!([for_the_guest(1024), for_the_guest(1), for_the_guest(0)], [512, 1, 0]);
        assert_eq!(for_the_guest(u64::MAX), u64::MAX - RESERVED_DESCRIPTORS);
    }

    proptest! {
        #[test]
        fn arbitrary_requests_and_chains_never_panic(
            request in prop::collection::vec(any::<u8>(), 0..200),
            opcode in 0u32..60,
            chain in prop::collection::vec((BUFFERS..0x2_1000, 0u32..0x3000, 0u16..4), 0..6),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let server = FileServer::open(directory.path()).unwrap();
            let memory = memory();
            memory.write_slice(&init_request(), GuestAddress(BUFFERS)).unwrap();
            let mut first = queue_with(&memory, &[(BUFFERS, 56, 0), (BUFFERS + 0x1000, 0x1000, WRITE)]);
            server.drain_test(&mut first.queue).unwrap();
            memory.write_slice(&request, GuestAddress(BUFFERS)).unwrap();
            memory.write_obj(opcode, GuestAddress(BUFFERS + 4)).unwrap();
            let mut chain = chain;
            chain.insert(0, (BUFFERS, 200, 0));
            let _ = server.drain_test(&mut queue_with(&memory, &chain).queue);
        }
    }
}
