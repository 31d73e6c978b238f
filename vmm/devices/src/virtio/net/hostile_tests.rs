//! A driver that writes what it likes into its rings, whenever it likes: bytes are its program.

use std::time::Instant;

use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vmrun_spec::NetSpec;

use super::super::counters::NetCounters;
use super::super::link::Link;
use super::super::test_tap::{SocketTap, frame, tap};
use super::*;
use crate::memory::Memory;
use crate::virtio::test_queue::{BUFFERS, Buffer, TestQueue, WRITE, memory, queue_with_chains};

/// Where the test queues' descriptors and rings lie.
const RINGS_BYTES: u64 = 0x180;
const AVAILABLE_INDEX: GuestAddress = GuestAddress(0x102);

/// What one byte of the program makes the driver do, with the two behind it.
fn act(worker: &mut Worker<'_, SocketTap>, memories: &[Memory; 3], step: [u8; 3]) -> Result<(), WorkerError> {
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

/// Runs `program` until it has ended, or the device has refused to go on.
fn run(program: &[u8]) {
    let (tap, host) = tap();
    let spec = NetSpec { mac: [2; 6], mtu: None, rx: None, tx: None };
    let shared = Shared { link: Link::new(&spec), spec, counters: NetCounters::default() };
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).unwrap();
    let memories = [memory(), memory(), memory()];
    let buffers: &[Buffer] = &[(BUFFERS, 3000, WRITE)];
    let frames: &[Buffer] = &[(BUFFERS, 60, 0)];
    let queue = |memory: &Memory, chains: &[&[Buffer]]| -> TestQueue { queue_with_chains(memory, chains) };
    let mut worker = Worker {
        shared: &shared,
        tap: &tap,
        rx: Receiver::new(queue(&memories[0], &[buffers; 8]).queue, program.len().is_multiple_of(2)),
        tx: Sender::new(queue(&memories[1], &[frames; 8]).queue),
        control: Some(queue(&memories[2], &[frames; 2]).queue),
        rx_limit: Limit::new(None, Duration::ZERO),
        tx_limit: Limit::new(None, Duration::ZERO),
        start: Instant::now(),
        alarm: Alarm::new(&timer),
        rx_wait: Wait::Ready,
        tx_wait: Wait::Ready,
        lost: false,
    };
    for step in program.chunks_exact(3) {
        host.send(&frame(usize::from(step[2]) * 20 + 1));
        if act(&mut worker, &memories, [step[0], step[1], step[2]]).is_err() {
            break;
        }
        while host.receive().is_some() {}
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
