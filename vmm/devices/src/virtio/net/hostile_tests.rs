//! A driver that writes what it likes into its rings, whenever it likes: bytes are its program.

use std::num::NonZeroU64;
use std::os::unix::net::UnixStream;

use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmrun_spec::{NetSpec, RateSpec};

use super::super::counters::NetCounters;
use super::super::link::Link;
use super::super::stream::Stream;
use super::super::test_tap::{SocketTap, frame, tap};
use super::*;
use crate::memory::Memory;
use crate::virtio::test_queue::{BUFFERS, Buffer, TestQueue, WRITE, memory, queue_with_chains};

/// Where the test queues' descriptors and rings lie.
const RINGS_BYTES: u64 = 0x180;
const AVAILABLE_INDEX: GuestAddress = GuestAddress(0x102);

/// A worker that has not begun.
fn worker<'s, T: Tap>(
    shared: &'s Shared,
    tap: &'s T,
    (rx, tx): (Receiver, Sender),
    limits: &'s mut Limits,
    timer: &'s TimerFd,
) -> Worker<'s, T> {
    Worker {
        shared,
        tap,
        rx,
        tx,
        control: None,
        limits,
        alarm: Alarm::new(timer),
        rx_wait: Wait::Ready,
        tx_wait: Wait::Ready,
        lost: false,
    }
}

/// What one byte of the program makes the driver do, with the two behind it.
fn act<T: Tap>(worker: &mut Worker<'_, T>, memories: &[Memory; 3], step: [u8; 3]) -> Result<(), WorkerError> {
    let [what, which, value] = step;
    let memory = &memories[usize::from(what >> 4) % memories.len()];
    match what % 8 {
        // A byte anywhere in descriptors and rings.
        0 | 1 => memory.write_slice(&[value], GuestAddress((u64::from(which) * 2) % RINGS_BYTES)).unwrap(),
        // A descriptor that is likely to be a good one.
        2 => {
            let place = GuestAddress(u64::from(which % 16) * 16);
            let flags: u64 = u64::from(value % 8) << 32 | u64::from(value / 16) << 48;
            memory.write_obj(BUFFERS + u64::from(value) * 64, place).unwrap();
            memory.write_obj(flags | (u64::from(which) * 16), GuestAddress(place.0 + 8)).unwrap();
        }
        // More chains, as a rule of descriptors that are there.
        3 => {
            let index: u16 = memory.read_obj(AVAILABLE_INDEX).unwrap();
            memory.write_obj(index.wrapping_add(u16::from(which % 4)), AVAILABLE_INDEX).unwrap();
        }
        4 => worker.shared.link.set(value % 4 != 0),
        5 => {
            worker.rx_wait = worker.receive()?;
        }
        6 => {
            worker.tx_wait = worker.transmit()?;
        }
        _ => {
            let control = worker.control.as_mut().unwrap();
            control::serve(control, &worker.shared.link)?;
        }
    }
    Ok(())
}

/// Runs `program` until it has ended, or the device has refused to go on. By its length it meets a tap or a stream, with
/// a limit or without.
pub(crate) fn run(program: &[u8]) {
    if (program.len() / 2).is_multiple_of(2) {
        let (tap, host) = tap();
        let feed = |bytes: usize| {
            // Where there is no room it is lost.
            let _ = host.send(&frame(bytes));
        };
        return run_on(program, &tap, feed, || while host.receive().is_some() {});
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut rest = [0; 4096];
    // A frame behind its length, or so much of it as there is room for.
    let feed = |bytes: usize| {
        let length = u32::try_from(bytes).unwrap().to_be_bytes();
        let _ = io::Write::write(&mut &theirs, &[&length[..], &frame(bytes)].concat());
    };
    let drain = || while io::Read::read(&mut &theirs, &mut rest).is_ok_and(|count| count > 0) {};
    run_on(program, &Stream::new(ours.into()), feed, drain);
}

/// The limit of a device that meets a program of this length.
fn limit(length: usize) -> Option<RateSpec> {
    let few = NonZeroU64::new(3);
    match (length / 4) % 3 {
        0 => None,
        1 => Some(RateSpec { bytes: few, packets: None }),
        _ => Some(RateSpec { bytes: None, packets: few }),
    }
}

/// The same on `tap`, at whose other end `feed` has something come for the guest, and `drain` makes room.
fn run_on<T: Tap>(program: &[u8], tap: &T, feed: impl Fn(usize), mut drain: impl FnMut()) {
    let limit = limit(program.len());
    let spec = NetSpec { mac: [2; 6], mtu: None, rx: limit, tx: limit };
    let shared = Shared { link: Link::new(&spec), counters: NetCounters::default() };
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).unwrap();
    let memories = [memory(), memory(), memory()];
    let buffers: &[Buffer] = &[(BUFFERS, 3000, WRITE)];
    let frames: &[Buffer] = &[(BUFFERS, 60, 0)];
    let queue = |memory: &Memory, chains: &[&[Buffer]]| -> TestQueue { queue_with_chains(memory, chains) };
    let mut limits = Limits::new(&spec);
    let rx = Receiver::new(queue(&memories[0], &[buffers; 8]).queue, program.len().is_multiple_of(2));
    let tx = Sender::new(queue(&memories[1], &[frames; 8]).queue);
    let mut worker = worker(&shared, tap, (rx, tx), &mut limits, &timer);
    worker.control = Some(queue(&memories[2], &[frames; 2]).queue);
    for step in program.chunks_exact(3) {
        feed(usize::from(step[2]) * 20 + 1);
        if act(&mut worker, &memories, [step[0], step[1], step[2]]).is_err() {
            break;
        }
        drain();
        assert!(worker.rx.held_is_bounded());
    }
}

proptest! {
    #[test]
    fn driver_that_writes_what_it_likes_makes_nothing_panic_spin_or_grow(
        program in prop::collection::vec(any::<u8>(), 0..600)
    ) {
        run(&program);
    }
}

#[test]
fn who_has_no_buffers_and_nothing_to_send_is_waited_for_and_the_tap_is_not() {
    let (tap, host) = tap();
    let spec = NetSpec { mac: [2; 6], mtu: None, rx: None, tx: None };
    let shared = Shared { link: Link::new(&spec), counters: NetCounters::default() };
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).unwrap();
    let mut limits = Limits::new(&spec);
    let buffer: &[Buffer] = &[(BUFFERS, 3000, WRITE)];
    let (own, other) = (memory(), memory());
    let rx = Receiver::new(queue_with_chains(&own, &[buffer; 2]).queue, false);
    let tx = Sender::new(queue_with_chains(&other, &[]).queue);
    let mut worker = worker(&shared, &tap, (rx, tx), &mut limits, &timer);
    while host.send(&frame(70)) {}
    assert_eq!(worker.transmit().unwrap(), Wait::Driver);
    // Two frames, and from then on there is as little to do however often it looks.
    for _ in 0..3 {
        assert_eq!(worker.receive().unwrap(), Wait::Driver);
        assert_eq!((shared.counters.rx.packets.get(), shared.counters.rx.dropped.get()), (2, 0));
    }
}

/// Lengths at which something else begins: of a header, a frame, a segment, a field of 16 bits.
fn length() -> impl Strategy<Value = u32> {
    let borders = vec![
        0,
        1,
        11,
        12,
        13,
        14,
        25,
        26,
        27,
        60,
        1526,
        65_535,
        65_536,
        65_547,
        65_548,
        65_557,
        65_558,
        u32::MAX,
    ];
    prop_oneof![prop::sample::select(borders), 0u32..70_000]
}

/// Chains of pieces, most of which lie where there is memory.
fn chains() -> impl Strategy<Value = Vec<Vec<Buffer>>> {
    let place = prop_oneof![9 => BUFFERS..0x1_0000, 1 => any::<u64>()];
    let flags = prop_oneof![9 => Just(0u16), 1 => Just(WRITE)];
    let chain = prop::collection::vec((place, length(), flags), 1..=4);
    prop::collection::vec(chain, 0..=4)
}

/// Has a device on `tap` send `chains` until it waits for the driver; `drain` makes room in the tap. Gives
/// what was counted: packets and all that were none.
fn send_all(tap: &impl Tap, chains: &[Vec<Buffer>], drain: impl FnMut()) -> (u64, u64) {
    send_all_of(&memory(), tap, chains, drain)
}

/// The same, with what is in that memory.
pub(super) fn send_all_of(
    memory: &Memory,
    tap: &impl Tap,
    chains: &[Vec<Buffer>],
    mut drain: impl FnMut(),
) -> (u64, u64) {
    let spec = NetSpec { mac: [2; 6], mtu: None, rx: None, tx: None };
    let shared = Shared { link: Link::new(&spec), counters: NetCounters::default() };
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).unwrap();
    let slices: Vec<&[Buffer]> = chains.iter().map(Vec::as_slice).collect();
    let (tx, seen) = queue_with_chains(memory, &slices).split();
    let nothing = Memory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    let queues = (Receiver::new(queue_with_chains(&nothing, &[]).queue, true), Sender::new(tx));
    let mut limits = Limits::new(&spec);
    let mut worker = worker(&shared, tap, queues, &mut limits, &timer);
    // A chain may find the tap full once, or some of it still in it.
    let waits = (0..=4 * chains.len() + 4).any(|_| {
        drain();
        worker.transmit().unwrap() == Wait::Driver
    });
    assert!(waits, "it goes on without end");
    drain();
    let mut heads = seen.used();
    heads.sort_unstable();
    assert!(heads.iter().all(|(_, written)| *written == 0), "nothing is written into what is sent");
    heads.dedup();
    assert_eq!(heads.len(), chains.len(), "each comes back once");
    let counters = &shared.counters.tx;
    (counters.packets.get(), counters.errors.get() + counters.dropped.get())
}

/// The kernel, which finds every header wrong.
struct Refusing(SocketTap);

impl AsFd for Refusing {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Tap for Refusing {
    fn set_offload(&self, _flags: libc::c_uint) -> io::Result<()> {
        Ok(())
    }

    fn send(&self, _frame: &super::super::tap::Pieces) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }
}

#[test]
fn frames_that_the_kernel_refuses_are_counted_and_come_back() {
    let (tap, _host) = tap();
    let chains: Vec<Vec<Buffer>> = vec![vec![(BUFFERS, 100, 0)]; 16];
    assert_eq!(send_all(&Refusing(tap), &chains, || {}), (0, 16));
}

proptest! {
    #[test]
    fn chains_of_every_length_are_sent_or_counted_and_come_back_once(chains in chains()) {
        let (tap, host) = tap();
        let mut frames = 0;
        let counted = send_all(&tap, &chains, || while let Some(frame) = host.receive() {
            assert!((HEADER_BYTES + 1..=super::super::MAX_FRAME_BYTES).contains(&frame.len()));
            frames += 1;
        });
        prop_assert_eq!(counted.0, frames);
        prop_assert_eq!(counted.0 + counted.1, u64::try_from(chains.len()).unwrap());
    }

    #[test]
    fn stream_holds_whole_frames_whatever_the_guest_sends(chains in chains()) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut stream = Vec::new();
        let counted = send_all(&Stream::new(ours.into()), &chains, || {
            // Until it would block.
            let _ = io::Read::read_to_end(&mut theirs, &mut stream);
        });
        let (mut frames, mut rest) = (0, stream.as_slice());
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
            prop_assert!((14..=0xffff).contains(&length), "{}", length);
            rest = behind.get(length..).expect("whole frames");
            frames += 1;
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(counted.0, frames);
        prop_assert_eq!(counted.0 + counted.1, u64::try_from(chains.len()).unwrap());
    }
}
