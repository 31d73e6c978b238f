use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmrun_spec::{DiskKind, RateSpec};

use super::*;
use crate::memory::Memory;
use crate::virtio::test_queue::{BUFFERS, Buffer, Failures, Seen, WRITE, memory, queue_with_chains};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const ZERO: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// Where a request's header, its data and its status are; the next request's are behind.
const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x40;
const DATA: u64 = BUFFERS + 0x2000;
const EACH: u64 = 0x100;

const DISK_BYTES: u64 = 64 << 10;

fn spec(read_only: bool) -> DiskSpec {
    DiskSpec {
        bytes: DISK_BYTES,
        kind: DiskKind::File,
        read_only,
        block_bytes: 512,
        physical_block_bytes: 4096,
        serial: "twenty bytes, no more than that".to_owned(),
        rate: None,
    }
}

/// A file whose every sector says which it is.
fn image() -> File {
    let mut file = tempfile::tempfile().unwrap();
    for sector in 0..DISK_BYTES / 512 {
        file.write_all(&[u8::try_from(sector + 1).unwrap(); 512]).unwrap();
    }
    file
}

/// A device that has no session.
struct Bench {
    memory: Memory,
    disk: Disk,
    limiter: Limiter,
    timer: TimerFd,
    file: File,
    failures: Failures,
}

impl Bench {
    fn of(spec: &DiskSpec) -> Self {
        Self::on(spec, image())
    }

    fn on(spec: &DiskSpec, file: File) -> Self {
        let failures = Failures::default();
        let counters = Arc::new(BlockCounters::default());
        let backend = Arc::new(Backend::new(spec, file.try_clone().unwrap().into()));
        let pool = Pool::start(&backend, &counters, &failures.sink()).unwrap();
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).unwrap();
        let disk = Disk { backend, counters, pool };
        Self { memory: memory(), disk, limiter: Limiter::new(spec), timer, file, failures }
    }

    fn writable() -> Self {
        Self::of(&spec(false))
    }

    /// Serves these chains for as long as there are any, and gives what the driver sees then.
    fn serve(&mut self, chains: &[&[Buffer]], flushes: bool) -> (Result<(), String>, Seen) {
        let (queue, seen) = queue_with_chains(&self.memory, chains).split();
        let mut session = Some(DiskQueue { queue, flushes });
        let stop = EventFd::new(EFD_NONBLOCK).unwrap();
        let wanted = u16::try_from(chains.len()).unwrap();
        let served = std::thread::scope(|scope| {
            let serving = scope.spawn(|| {
                worker::serve(&self.disk, &self.timer, &mut self.limiter, &mut session, &stop)
                    .map_err(|error| error.to_string())
            });
            while !serving.is_finished() && seen.used().len() < wanted.into() {
                std::thread::yield_now();
            }
            stop.write(1).unwrap();
            serving.join().unwrap()
        });
        assert!(session.is_some(), "the queue is given back");
        (served, seen)
    }

    /// One request with `data` at `DATA`; gives its status and how much was written, as the driver was told.
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        let [answer] = self.requests(&[(kind, sector, data)]).try_into().unwrap();
        answer
    }

    /// Several at once, each with its own header and status; in the order that they were made.
    fn requests(&mut self, requests: &[(u32, u64, &[Buffer])]) -> Vec<(u8, u32)> {
        let mut chains = Vec::new();
        for (number, (kind, sector, data)) in (0..).zip(requests) {
            chains.push(self.chain(number, *kind, *sector, data));
        }
        let chains: Vec<_> = chains.iter().map(Vec::as_slice).collect();
        let (served, seen) = self.serve(&chains, true);
        served.unwrap();
        let mut used = seen.used();
        used.sort_unstable();
        let status = |number: u64| self.memory.read_obj(GuestAddress(STATUS + number * EACH)).unwrap();
        (0..).zip(used).map(|(number, (_, length))| (status(number), length)).collect()
    }

    fn chain(&self, number: u64, kind: u32, sector: u64, data: &[Buffer]) -> Vec<Buffer> {
        let (header, status) = (HEADER + number * EACH, STATUS + number * EACH);
        self.memory.write_obj(u64::from(kind), GuestAddress(header)).unwrap();
        self.memory.write_obj(sector, GuestAddress(header + 8)).unwrap();
        self.memory.write_obj(0xffu8, GuestAddress(status)).unwrap();
        let ends = [(header, 16, 0), (status, 1, WRITE)];
        ends[..1].iter().chain(data).chain(&ends[1..]).copied().collect()
    }

    fn data(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
        bytes
    }

    fn put_range(&self, sector: u64, count: u32, flags: u32) {
        self.memory.write_obj(sector, GuestAddress(DATA)).unwrap();
        self.memory.write_obj(u64::from(count) | u64::from(flags) << 32, GuestAddress(DATA + 8)).unwrap();
    }

    fn on_disk(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn count(&self, name: &str) -> u64 {
        let figures = self.disk.counters.named().read();
        figures.into_iter().find(|(known, _)| *known == name).unwrap().1
    }
}

#[test]
fn sectors_are_read_into_the_pieces_that_the_driver_gives() {
    let mut bench = Bench::writable();
    let data = [(DATA, 512, WRITE), (DATA + 512, 256, WRITE), (DATA + 768, 256, WRITE)];
    assert_eq!(bench.request(IN, 3, &data), (OK, 1025));
    assert_eq!(bench.data(1024), [[4; 512], [5; 512]].concat());
    assert_eq!((bench.count("reads"), bench.count("read_bytes")), (1, 1024));
}

#[test]
fn written_sectors_are_in_the_file_and_a_flush_has_them_on_the_disk() {
    let mut bench = Bench::writable();
    bench.memory.write_slice(&[0xab; 1024], GuestAddress(DATA)).unwrap();
    let data = [(DATA, 1000, 0), (DATA + 1000, 24, 0)];
    assert_eq!(bench.requests(&[(OUT, 2, &data), (FLUSH, 0, &[])]), [(OK, 1), (OK, 1)]);
    assert_eq!(bench.on_disk(1024, 1024), [0xab; 1024]);
    assert_eq!((bench.on_disk(512, 512), bench.on_disk(2048, 512)), (vec![2; 512], vec![5; 512]));
    assert_eq!((bench.count("writes"), bench.count("written_bytes"), bench.count("flushes")), (1, 1024, 1));
}

#[test]
fn driver_that_never_flushes_has_its_writes_flushed() {
    let mut bench = Bench::writable();
    bench.memory.write_slice(&[0xcd; 512], GuestAddress(DATA)).unwrap();
    let chain = bench.chain(0, OUT, 1, &[(DATA, 512, 0)]);
    bench.serve(&[&chain], false).0.unwrap();
    assert_eq!(bench.on_disk(512, 512), [0xcd; 512]);
    assert_eq!(bench.count("waited"), 1, "it waits for the disk");
}

#[test]
fn flush_that_fails_is_an_error_of_the_request() {
    // It takes what is written, and there is nothing that it could be on.
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
    let mut bench = Bench::on(&spec(false), null());
    assert_eq!(bench.request(FLUSH, 0, &[]), (IOERR, 1));
    assert_eq!(bench.request(OUT, 0, &[(DATA, 512, 0)]), (OK, 1));
    let chain = bench.chain(0, OUT, 0, &[(DATA, 512, 0)]);
    bench.serve(&[&chain], false).0.unwrap();
    assert_eq!(
        bench.memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap(),
        IOERR,
        "it is to be there at once"
    );
    assert_eq!(["flushes", "errors", "failed", "no_room"].map(|name| bench.count(name)), [0, 2, 2, 0]);
}

#[test]
fn what_is_not_on_the_disk_is_an_error_of_the_request() {
    let mut bench = Bench::writable();
    let last = DISK_BYTES / 512;
    for (kind, sector, length) in [
        (IN, last, 512),
        (IN, last - 1, 1024),
        (IN, u64::MAX, 512),
        (IN, u64::MAX / 512, 512),
        (IN, 0, 511),
        (OUT, last, 512),
        (OUT, 1 << 60, 512),
        (OUT, 0, 100),
    ] {
        let flags = if kind == IN { WRITE } else { 0 };
        assert_eq!(bench.request(kind, sector, &[(DATA, length, flags)]), (IOERR, 1), "{kind} {sector}");
    }
    // These the host has not seen.
    assert_eq!(["errors", "failed"].map(|name| bench.count(name)), [8, 0]);
    assert_eq!(bench.file.metadata().unwrap().len(), DISK_BYTES);
}

#[test]
fn file_that_has_become_shorter_is_an_error_of_the_request() {
    let mut bench = Bench::writable();
    bench.file.set_len(700).unwrap();
    assert_eq!(bench.request(IN, 0, &[(DATA, 512, WRITE)]), (OK, 513));
    assert_eq!(bench.request(IN, 1, &[(DATA, 512, WRITE)]), (IOERR, 1));
    assert_eq!(bench.request(IN, 8, &[(DATA, 512, WRITE)]), (IOERR, 1));
    assert!(bench.failures.told().is_empty());
}

#[test]
fn nothing_is_written_to_a_disk_that_is_read_only() {
    let mut bench = Bench::of(&spec(true));
    bench.put_range(0, 8, 0);
    for kind in [OUT, DISCARD, ZERO] {
        let length = if kind == OUT { 512 } else { 16 };
        assert_eq!(bench.request(kind, 0, &[(DATA, length, 0)]), (IOERR, 1), "{kind}");
    }
    assert_eq!(bench.on_disk(0, 512), [1; 512]);
    assert_eq!(bench.request(FLUSH, 0, &[]), (OK, 1));
    assert_eq!(bench.request(IN, 0, &[(DATA, 512, WRITE)]), (OK, 513));
}

#[test]
fn discarded_sectors_are_holes_and_zeroed_ones_zeros() {
    let mut bench = Bench::writable();
    bench.file.sync_all().unwrap();
    let room = bench.file.metadata().unwrap().blocks();
    bench.put_range(8, 32, 0);
    assert_eq!(bench.request(DISCARD, 0, &[(DATA, 16, 0)]), (OK, 1));
    assert_eq!(bench.on_disk(4096, 16 << 10), vec![0; 16 << 10]);
    assert_eq!(bench.file.metadata().unwrap().blocks(), room - 32);
    for (sector, unmap) in [(64, 0), (72, 1)] {
        bench.put_range(sector, 3, unmap);
        assert_eq!(bench.request(ZERO, 0, &[(DATA, 16, 0)]), (OK, 1));
        assert_eq!(bench.on_disk(sector * 512, 1536), [0; 1536]);
        assert_ne!(bench.on_disk(sector * 512 + 1536, 512), [0; 512]);
    }
    assert_eq!((bench.count("discards"), bench.count("zeroed")), (1, 2));
    assert_eq!(bench.file.metadata().unwrap().len(), DISK_BYTES);
}

#[test]
fn ranges_that_are_none_are_refused() {
    let mut bench = Bench::writable();
    for (kind, range, status) in [
        (DISCARD, (120, 16, 0), IOERR),
        (DISCARD, (u64::MAX, 1, 0), IOERR),
        (DISCARD, (0, 1 << 22, 0), IOERR),
        (DISCARD, (0, 8, 1), UNSUPP),
        (ZERO, (0, u32::MAX, 0), IOERR),
        (ZERO, (0, 8, 2), UNSUPP),
    ] {
        bench.put_range(range.0, range.1, range.2);
        assert_eq!(bench.request(kind, 0, &[(DATA, 16, 0)]), (status, 1), "{kind} {range:?}");
    }
    for data in [&[][..], &[(DATA, 15, 0)], &[(DATA, 16, 0), (DATA, 16, 0)]] {
        assert_eq!(bench.request(DISCARD, 0, data), (IOERR, 1));
    }
    assert_eq!(bench.on_disk(0, 512), [1; 512]);
}

#[test]
fn name_is_told_and_what_is_unknown_refused() {
    let mut bench = Bench::writable();
    assert_eq!(bench.request(GET_ID, 0, &[(DATA, 15, WRITE), (DATA + 15, 5, WRITE)]), (OK, 21));
    assert_eq!(bench.data(20), b"twenty bytes, no mor");
    assert_eq!(bench.request(2, 0, &[(DATA, 512, WRITE)]), (UNSUPP, 1));
    assert_eq!(bench.request(77, 0, &[]), (UNSUPP, 1));
}

#[test]
fn request_that_cannot_be_answered_is_the_end() {
    for (chain, why) in [
        (&[(HEADER, 16, 0)][..], "the guest sent a disk's request without room for its status"),
        (&[(HEADER, 8, 0), (STATUS, 1, WRITE)], "the guest sent a disk's request without a header"),
        (
            &[(1 << 40, 16, 0), (STATUS, 1, WRITE)],
            "the guest sent a disk's request that is not in its memory",
        ),
    ] {
        let mut bench = Bench::writable();
        let (served, seen) = bench.serve(&[chain], true);
        assert_eq!(served.unwrap_err(), why);
        assert!(seen.used().is_empty());
    }
}

#[test]
fn header_and_status_may_be_divided_as_the_driver_likes() {
    let mut bench = Bench::writable();
    bench.memory.write_obj(u64::from(IN), GuestAddress(HEADER)).unwrap();
    bench.memory.write_obj(5u64, GuestAddress(HEADER + 8)).unwrap();
    let chain = [(HEADER, 3, 0), (HEADER + 3, 13, 0), (DATA, 513, WRITE)];
    let (served, seen) = bench.serve(&[&chain], true);
    served.unwrap();
    assert_eq!(seen.used(), [(0, 513)]);
    assert_eq!(bench.data(513), [&[6; 512][..], &[OK]].concat());
}

#[test]
fn requests_beyond_the_rate_come_later_and_all_of_them_come() {
    let mut limited = spec(false);
    limited.rate = Some(RateSpec { bytes: None, packets: NonZeroU64::new(100) });
    let mut bench = Bench::of(&limited);
    let data = [(DATA, 512, WRITE)];
    for _ in 0..4 {
        let answers = bench.requests(&[(IN, 0, &data), (IN, 1, &data), (IN, 2, &data), (IN, 3, &data)]);
        assert_eq!(answers, [(OK, 513); 4]);
    }
    assert!(bench.count("limited") > 0);
}

#[test]
fn zeros_count_as_bytes_though_the_driver_sends_none() {
    let mut limited = spec(false);
    limited.rate = Some(RateSpec { bytes: NonZeroU64::new(1 << 20), packets: None });
    let mut bench = Bench::of(&limited);
    bench.put_range(0, 128, 0);
    let data = [(DATA, 16, 0)];
    let enough = (0..64).any(|_| {
        assert_eq!(bench.requests(&[(ZERO, 0, &data), (ZERO, 0, &data)]), [(OK, 1); 2]);
        bench.count("limited") > 0
    });
    assert!(enough, "8 MiB of zeros are within a rate of 1 MiB");
}

/// A ring of an empty queue.
fn ring() -> Arc<ring::Ring> {
    Arc::new(ring::Ring::new(queue_with_chains(&memory(), &[]).split().0))
}

#[test]
fn request_whose_thread_panics_is_not_under_way_any_more() {
    let ring = ring();
    let under_way = ring::Ring::depart(&ring);
    assert!(!ring.is_idle());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _under_way = under_way;
        panic!("a bug");
    }));
    assert!(panicked.is_err() && ring.is_idle());
    assert!(ring.take().is_some());
}

#[test]
fn thread_that_cannot_be_started_ends_those_before_it() {
    let (jobs, incoming) = std::sync::mpsc::channel();
    let incoming = Arc::new(std::sync::Mutex::new(incoming));
    let started = std::cell::Cell::new(0);
    let start = || {
        if started.replace(started.get() + 1) == 2 {
            return Err("no more");
        }
        let incoming = Arc::clone(&incoming);
        let work = move || while pool::next(&incoming).is_some() {};
        crate::thread::Worker::start("test", BLOCK, work, |_| {}).map_err(|_| "not even one")
    };
    assert_eq!(Pool::of_threads(jobs, start).unwrap_err(), "no more");
}

#[test]
fn device_says_what_the_disk_is_and_serves_what_it_is_given() {
    let failures = Failures::default();
    assert!(matches!(
        Block::new(&DiskSpec { bytes: 511, ..spec(false) }, image().into(), failures.sink()),
        Err(BlockError::Small(511))
    ));
    let read_only = Block::new(&spec(true), image().into(), failures.sink()).unwrap();
    let mut file = image();
    let mut block = Block::new(&spec(false), file.try_clone().unwrap().into(), failures.sink()).unwrap();
    assert_eq!(block.features() ^ read_only.features(), 1 << 5 | 1 << 13 | 1 << 14);
    let config = block.config().bytes();
    assert_eq!(config.len(), 60);
    assert_eq!(config[..8], (DISK_BYTES / 512).to_le_bytes());
    assert_eq!(config[20..28], [0, 2, 0, 0, 3, 0, 8, 0]);
    let memory = memory();
    memory.write_slice(&[0x77; 512], GuestAddress(DATA)).unwrap();
    memory.write_obj(u64::from(OUT), GuestAddress(HEADER)).unwrap();
    memory.write_obj(4u64, GuestAddress(HEADER + 8)).unwrap();
    let chain = [(HEADER, 16, 0), (DATA, 512, 0), (STATUS, 1, WRITE)];
    let activation = queue_with_chains(&memory, &[&chain]).activation();
    block.activate(activation).unwrap();
    while !block.counters().read().contains(&("writes", 1)) {
        std::thread::yield_now();
    }
    let suspended = block.suspend().unwrap();
    assert!(block.suspend().is_none());
    assert_eq!(suspended.queues.len(), 1);
    block.restore(&suspended.state.unwrap()).unwrap();
    let mut written = [0; 512];
    file.seek(SeekFrom::Start(2048)).unwrap();
    file.read_exact(&mut written).unwrap();
    assert_eq!(written, [0x77; 512]);
    assert!(failures.told().is_empty());
}

/// Runs a driver's `program`: chains of up to three buffers, 8 bytes each, behind a header that is likely to be a good one.
pub(crate) fn run(program: &[u8]) {
    let mut bench = Bench::of(&spec(program.len().is_multiple_of(7)));
    let mut chains = Vec::new();
    for (number, step) in (0..3).zip(program.chunks(40)) {
        let [kind, sector, count, flags, rest @ ..] = step else { continue };
        let kinds = [IN, OUT, FLUSH, GET_ID, DISCARD, ZERO, 2];
        let kind = kinds[usize::from(*kind) % kinds.len()];
        let sector = u64::from(*sector) << (flags % 57);
        bench.put_range(sector, u32::from(*count) << (flags % 24), u32::from(flags / 64));
        let data: Vec<Buffer> = rest
            .chunks_exact(8)
            .take(3)
            .map(|buffer| {
                let (place, length) = buffer.split_at(2);
                let at = u64::from(u16::from_le_bytes([place[0], place[1]]));
                let length = u32::from_le_bytes([length[0], length[1], 0, 0]) & !0xff;
                // Some are nowhere, and some in the rings.
                let at = if buffer[4] % 16 == 0 { at << 20 } else { at };
                (at, length >> (buffer[5] % 8), u16::from(buffer[6]) & WRITE)
            })
            .collect();
        let mut chain = bench.chain(number, kind, sector, &data);
        if program[0].is_multiple_of(16) {
            let by = usize::from(program[0] / 16) % chain.len();
            chain.rotate_left(by);
        }
        chains.push(chain);
    }
    let chains: Vec<_> = chains.iter().map(Vec::as_slice).collect();
    let (queue, seen) = queue_with_chains(&bench.memory, &chains).split();
    assert_eq!(seen.counters.kicks.get(), 0);
    let untouched = queue.save().next_avail;
    let mut session = Some(DiskQueue { queue, flushes: true });
    let stop = EventFd::new(EFD_NONBLOCK).unwrap();
    stop.write(1).unwrap();
    for _ in 0..2 {
        // One turn, behind which somebody wants it to stop; what it has taken is done by then.
        let _ = worker::serve(&bench.disk, &bench.timer, &mut bench.limiter, &mut session, &stop);
        let queue = &session.as_ref().unwrap().queue;
        assert!(chains.is_empty() || queue.save().next_avail != untouched, "nothing was taken");
    }
    assert!(bench.file.metadata().unwrap().len() <= DISK_BYTES);
}

proptest! {
    #[test]
    fn arbitrary_requests_never_panic_and_never_make_the_file_longer(
        program in prop::collection::vec(any::<u8>(), 1..120),
    ) {
        run(&program);
    }
}
