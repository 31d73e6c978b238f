use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::test_tap::{frame, tap};
use super::*;
use crate::virtio::test_queue::{BUFFERS, Buffer, TestQueue, WRITE, memory, queue_with_chains};

/// A queue with `count` buffers of `length` bytes, one behind the other.
fn buffers(memory: &Memory, count: u64, length: u32) -> TestQueue {
    let chains: Vec<[Buffer; 1]> =
        (0..count).map(|at| [(BUFFERS + at * u64::from(length), length, WRITE)]).collect();
    let chains: Vec<&[Buffer]> = chains.iter().map(<[_; 1]>::as_slice).collect();
    queue_with_chains(memory, &chains)
}

fn bytes(memory: &Memory, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read_slice(&mut bytes, GuestAddress(BUFFERS)).unwrap();
    bytes
}

/// A frame as the guest finds it.
fn in_buffers(length: usize, count: u16) -> Vec<u8> {
    let mut expected = frame(length);
    expected[BUFFER_COUNT..HEADER_BYTES].copy_from_slice(&count.to_le_bytes());
    expected
}

#[test]
fn frame_fills_as_many_buffers_as_it_needs_and_the_driver_sees_them_at_once() {
    let memory = memory();
    let (tap, host) = tap();
    let (queue, seen) = buffers(&memory, 16, 4200).split();
    let mut receiver = Receiver::new(queue, true);
    assert_eq!(receiver.receive(&tap).unwrap(), Received::Nothing);
    assert!(host.send(&frame(10_000)) && host.send(&frame(60)));
    assert_eq!(receiver.receive(&tap).unwrap(), Received::Frame(10_000));
    assert_eq!(bytes(&memory, 10_000), in_buffers(10_000, 3));
    assert_eq!(seen.used(), [(0, 4200), (1, 4200), (2, 1600)]);
    // The rest is less than the longest frame, and the driver may give more.
    assert_eq!(receiver.receive(&tap).unwrap(), Received::NoBuffers);
    let mut queue = receiver.into_queue();
    assert_eq!(queue.pop().unwrap().unwrap().1.head_index(), 3, "what was not used is in the queue again");
}

#[test]
fn frame_that_fits_into_nothing_is_dropped_and_the_next_has_its_buffers() {
    let memory = memory();
    let (tap, host) = tap();
    let (queue, seen) = buffers(&memory, 16, 100).split();
    let mut receiver = Receiver::new(queue, true);
    assert!(host.send(&frame(1601)) && host.send(&frame(1600)) && host.send(&frame(60)));
    assert_eq!(receiver.receive(&tap).unwrap(), Received::TooLong);
    assert!(seen.used().is_empty());
    // All descriptors are the device's: waiting for more would be for ever.
    assert_eq!(receiver.receive(&tap).unwrap(), Received::Frame(1600));
    assert_eq!(seen.used().len(), 16);
    assert_eq!(bytes(&memory, 1600), in_buffers(1600, 16));
    assert_eq!(receiver.receive(&tap).unwrap(), Received::NoBuffers);
}

#[test]
fn driver_that_merges_no_buffers_gets_each_frame_in_one() {
    let memory = memory();
    let (tap, host) = tap();
    let (queue, seen) = buffers(&memory, 3, 1530).split();
    let mut receiver = Receiver::new(queue, false);
    assert!(host.send(&frame(1531)) && host.send(&frame(1530)) && host.send(&frame(5)));
    assert_eq!(receiver.receive(&tap).unwrap(), Received::TooLong);
    assert_eq!(receiver.receive(&tap).unwrap(), Received::Frame(1530));
    assert_eq!(bytes(&memory, 1530), in_buffers(1530, 1));
    assert_eq!(receiver.receive(&tap).unwrap(), Received::Nonsense);
    assert_eq!(seen.used(), [(0, 1530)]);
}

#[test]
fn header_may_be_in_buffers_of_one_byte() {
    let memory = memory();
    let (tap, host) = tap();
    let mut chain: Vec<Buffer> = (0..15).map(|at| (BUFFERS + at, 1, WRITE)).collect();
    chain.push((BUFFERS + 15, 100, WRITE));
    let (queue, seen) = queue_with_chains(&memory, &[&chain]).split();
    let mut receiver = Receiver::new(queue, true);
    assert!(host.send(&frame(70)));
    assert_eq!(receiver.receive(&tap).unwrap(), Received::Frame(70));
    assert_eq!(bytes(&memory, 70), in_buffers(70, 1));
    assert_eq!(seen.used(), [(0, 70)]);
}

#[test]
fn chains_that_are_no_buffers_go_back_empty_and_are_counted() {
    let memory = memory();
    let (tap, host) = tap();
    let good = [(BUFFERS, 1500, WRITE)];
    let chains: [&[Buffer]; 5] = [
        &[(BUFFERS, 100, 0)],
        &[(0x1_f000, 0x1001, WRITE)],
        &good,
        &[(BUFFERS, 100, WRITE), (u64::MAX, 1, WRITE)],
        &[(BUFFERS, 0, WRITE)],
    ];
    let (queue, seen) = queue_with_chains(&memory, &chains).split();
    let mut receiver = Receiver::new(queue, false);
    assert!(host.send(&frame(60)) && host.send(&frame(60)));
    assert_eq!(receiver.receive(&tap).unwrap(), Received::Frame(60));
    assert_eq!(receiver.receive(&tap).unwrap(), Received::NoBuffers);
    assert_eq!(seen.used(), [(0, 0), (1, 0), (2, 60), (3, 0), (5, 0)]);
    assert_eq!(receiver.take_nonsense(), 4);
    assert_eq!(receiver.take_nonsense(), 0);
}

#[test]
fn frame_for_nobody_is_taken_and_touches_no_buffer() {
    let memory = memory();
    let (tap, host) = tap();
    let (queue, seen) = buffers(&memory, 2, 100).split();
    let mut receiver = Receiver::new(queue, true);
    assert!(host.send(&frame(60)));
    assert_eq!(receiver.discard(&tap).unwrap(), Received::TooLong);
    assert_eq!(receiver.discard(&tap).unwrap(), Received::Nothing);
    assert!(seen.used().is_empty());
    drop(host);
    assert!(matches!(receiver.discard(&tap), Err(ReceiveError::Tap(_))));
}

proptest! {
    #[test]
    fn arbitrary_chains_and_frames_never_panic_and_each_chain_comes_back_once(
        chains in prop::collection::vec(
            prop::collection::vec((0x7000u64..0x2_1000, 0u32..3000, prop_oneof![Just(WRITE), 0u16..8]), 1..4), 0..6),
        frames in prop::collection::vec(1usize..9000, 0..8),
        mergeable: bool,
    ) {
        let memory = memory();
        let (tap, host) = tap();
        let slices: Vec<&[Buffer]> = chains.iter().map(Vec::as_slice).collect();
        let (queue, seen) = queue_with_chains(&memory, &slices).split();
        let mut receiver = Receiver::new(queue, mergeable);
        for length in frames {
            host.send(&frame(length));
        }
        for _ in 0..40 {
            if receiver.receive(&tap).is_err() {
                break;
            }
        }
        let mut heads: Vec<u32> = seen.used().into_iter().map(|(head, _)| head).collect();
        let count = heads.len();
        heads.sort_unstable();
        heads.dedup();
        prop_assert_eq!(heads.len(), count);
        prop_assert!(count <= chains.len());
    }
}
