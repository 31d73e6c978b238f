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
use crate::virtio::test_queue::{BUFFERS, Failures, TestQueue, WRITE, memory, queue_with};

fn drain(server: &FileServer, memory: &Memory, queue: &mut ActiveQueue) -> Result<(), QueueError> {
    drain_with(server, queue, &mut Staging::new(memory).unwrap())
}

fn drain_with(server: &FileServer, queue: &mut ActiveQueue, staging: &mut Staging) -> Result<(), QueueError> {
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
            u32::from(*opcode) % 64,
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
            2 => vec![(BUFFERS, length, 0), (BUFFERS + 0x1000, 16, WRITE), (BUFFERS + 0x2000, reply, WRITE)],
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
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "something lies beside the share");
}

/// A request of process `pid` for the whole file system to reach the disk: its header, and 8 bytes of nothing.
fn syncfs_request(pid: u32) -> Vec<u8> {
    let header = [48, Opcode::Syncfs as u32, 5, 0, 1, 0, 0, 0, pid, 0, 0, 0];
    header.into_iter().flat_map(u32::to_le_bytes).collect()
}

#[test]
fn who_asks_for_the_disk_is_answered_when_it_has_all_and_the_agent_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = FileServer::open(directory.path(), Manner::default(), Failures::default().sink()).unwrap();
    serve_here(directory.path());
    let memory = memory();
    let chain = [(BUFFERS, 48, 0), (BUFFERS + 0x1000, 0x1000, WRITE)];
    let answer = || memory.read_obj::<[u32; 4]>(GuestAddress(BUFFERS + 0x1000)).unwrap();
    let mut session = Session::default();
    for (pid, is_later) in [(1, false), (2, true), (0, true)] {
        memory.write_obj([0u32; 4], GuestAddress(BUFFERS + 0x1000)).unwrap();
        memory.write_slice(&syncfs_request(pid), GuestAddress(BUFFERS)).unwrap();
        let mut queues = [queue_with(&memory, &[]).queue, queue_with(&memory, &chain).queue];
        let mut staging = Staging::new(&memory).unwrap();
        server.serve_one(&mut queues[1], &mut staging, 1, &mut session).unwrap();
        assert_eq!(session.syncing.len(), usize::from(is_later), "{pid}");
        while !session.syncing.is_empty() {
            server.reply_to_waiting(&mut queues, &mut session).unwrap();
            thread::yield_now();
        }
        assert_eq!(answer(), [16, 0, 5, 0], "{pid}");
    }
}

#[test]
fn request_gets_its_reply() {
    let directory = tempfile::tempdir().unwrap();
    let server = FileServer::open(directory.path(), Manner::default(), Failures::default().sink()).unwrap();
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
    let server = FileServer::open(directory.path(), Manner::default(), Failures::default().sink()).unwrap();
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
    let server = FileServer::open(directory.path(), Manner::default(), Failures::default().sink()).unwrap();
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

/// A request of `opcode` about the root, with `arguments`.
fn about_the_root(opcode: u32, arguments: &[u8]) -> Vec<u8> {
    let length = u32::try_from(40 + arguments.len()).unwrap();
    let header = [length, opcode, 7, 0, 1, 0, 0, 0, 0, 0];
    header.into_iter().flat_map(u32::to_le_bytes).chain(arguments.iter().copied()).collect()
}

/// A server with a session, as one guest has it.
struct Guest {
    server: FileServer,
    session: Session,
    memory: Memory,
}

impl Guest {
    fn of(directory: &Path) -> Self {
        let server = FileServer::open(directory, Manner::default(), Failures::default().sink()).unwrap();
        serve_here(directory);
        let mut guest = Self { server, session: Session::default(), memory: memory() };
        assert_eq!(guest.asks(&init_request()), Some(0));
        guest
    }

    /// Sends a request; returns the error number of its reply, if there is one.
    fn asks(&mut self, request: &[u8]) -> Option<i32> {
        self.sends(request, 0x1000).used_length()?;
        Some(-self.memory.read_obj::<i32>(GuestAddress(BUFFERS + 0x1004)).unwrap())
    }

    fn sends(&mut self, request: &[u8], room: u32) -> TestQueue {
        self.memory.write_slice(request, GuestAddress(BUFFERS)).unwrap();
        let length = u32::try_from(request.len()).unwrap();
        let chain = [(BUFFERS, length, 0), (BUFFERS + 0x1000, room, WRITE)];
        let mut test = queue_with(&self.memory, &chain);
        let mut staging = Staging::new(&self.memory).unwrap();
        self.server.serve_one(&mut test.queue, &mut staging, 1, &mut self.session).unwrap();
        test
    }

    fn watches(&mut self, mask: u32) -> Option<i32> {
        self.asks(&about_the_root(EVENTS - 1, &[mask.to_le_bytes(), [0; 4]].concat()))
    }

    /// Asks for events, and looks whether there are any; their masks and names.
    fn is_told(&mut self) -> Vec<(u32, String)> {
        let test = self.sends(&about_the_root(EVENTS, &[]), 0x1000);
        assert_eq!(test.used_length(), None, "it waits");
        self.memory.write_obj(0u32, GuestAddress(BUFFERS + 0x1000)).unwrap();
        let unused = queue_with(&self.memory, &[]).queue;
        let mut queues = [unused, test.queue];
        self.session.events.come(&self.server.host);
        tell(&mut queues, &mut self.session).unwrap();
        let length: u32 = self.memory.read_obj(GuestAddress(BUFFERS + 0x1000)).unwrap();
        let mut events = vec![0; usize::try_from(length).unwrap().checked_sub(16).expect("a reply")];
        self.memory.read_slice(&mut events, GuestAddress(BUFFERS + 0x1010)).unwrap();
        let mut told = Vec::new();
        while let [_, _, _, _, _, _, _, _, a, b, c, d, _, _, _, _, count, ..] = events[..] {
            let mask = u32::from_le_bytes([a, b, c, d]);
            let name = String::from_utf8(events[24..24 + usize::from(count)].to_vec()).unwrap();
            let name_bytes = if count == 0 { 0 } else { (usize::from(count) + 1).next_multiple_of(8) };
            told.push((mask, name));
            events.drain(..24 + name_bytes);
        }
        told
    }
}

#[test]
fn guest_is_told_what_others_do_and_not_what_it_does_itself() {
    let directory = tempfile::tempdir().unwrap();
    let mut guest = Guest::of(directory.path());
    let made = |name: &str| (libc::IN_CREATE | libc::IN_ISDIR, name.to_owned());
    let make = |name: &str| std::fs::create_dir(directory.path().join(name)).unwrap();
    make("before");
    assert_eq!(guest.watches(libc::IN_CREATE | libc::IN_DELETE), Some(0));
    make("first");
    let arguments = [&[0xff, 1, 0, 0, 0, 0, 0, 0][..], b"own\0"].concat();
    assert_eq!(guest.asks(&about_the_root(Opcode::Mkdir as u32, &arguments)), Some(0));
    make("second");
    assert_eq!(guest.is_told(), [made("first"), made("second")]);
    // Its own is there, and nobody else's is taken for it.
    std::fs::remove_dir(directory.path().join("own")).unwrap();
    make("own");
    assert_eq!(guest.is_told(), [(libc::IN_DELETE | libc::IN_ISDIR, "own".to_owned()), made("own")]);
    assert_eq!(guest.watches(0), Some(0));
    make("after");
    assert_eq!(guest.watches(libc::IN_CREATE), Some(0));
    make("last");
    assert_eq!(guest.is_told(), [made("last")]);
}

#[test]
fn request_for_events_that_comes_after_the_end_does_not_wait() {
    let directory = tempfile::tempdir().unwrap();
    let mut guest = Guest::of(directory.path());
    let asks = |guest: &mut Guest| guest.asks(&about_the_root(EVENTS, &[0; 8]));
    assert_eq!(asks(&mut guest), Some(libc::ENOTCONN), "nothing is watched yet");
    assert_eq!(guest.watches(libc::IN_CREATE), Some(0));
    assert_eq!(asks(&mut guest), None, "it waits");
    let end = [[0; 4], 1u32.to_le_bytes()].concat();
    assert_eq!(guest.asks(&about_the_root(EVENTS - 1, &end)), Some(0));
    assert_eq!(asks(&mut guest), Some(libc::ENOTCONN), "the end was first");
}

#[test]
fn guest_that_asks_twice_has_one_request_that_waits() {
    let directory = tempfile::tempdir().unwrap();
    let mut guest = Guest::of(directory.path());
    assert_eq!(guest.watches(libc::IN_CREATE), Some(0));
    let [_, second] = [0, 1].map(|_| guest.sends(&about_the_root(EVENTS, &[]), 0x1000));
    let mut queues = [queue_with(&guest.memory, &[]).queue, second.queue];
    tell(&mut queues, &mut guest.session).unwrap();
    let reply: OutHeader = guest.memory.read_obj(GuestAddress(BUFFERS + 0x1000)).unwrap();
    assert_eq!((reply.len, reply.error), (OUT_HEADER_BYTES, 0));
    assert_eq!(
        guest.sends(&about_the_root(EVENTS, &[]), 64).used_length(),
        Some(OUT_HEADER_BYTES),
        "no room"
    );
    let nowhere = [48u32, 62, 7, 0, 99, 0, 0, 0, 0, 0, 2, 0];
    let nowhere: Vec<u8> = nowhere.into_iter().flat_map(u32::to_le_bytes).collect();
    assert_ne!(guest.asks(&nowhere), Some(0), "there is no such node");
}
