use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::test_tap::{frame, tap};
use super::*;
use crate::virtio::test_queue::{BUFFERS, Buffer, WRITE, memory, queue_with, queue_with_chains};

#[test]
fn frame_in_many_buffers_leaves_as_one_and_the_driver_has_it_back() {
    let memory = memory();
    let (tap, host) = tap();
    let sent = frame(3000);
    memory.write_slice(&sent, GuestAddress(BUFFERS)).unwrap();
    let chain = [(BUFFERS, 1, 0), (BUFFERS + 1, 0, 0), (BUFFERS + 1, 11, 0), (BUFFERS + 12, 2988, 0)];
    let (queue, seen) = queue_with(&memory, &chain).split();
    let mut sender = Sender::new(queue);
    assert_eq!(sender.send(&tap, true).unwrap(), Sent::Frame(3000));
    assert_eq!(sender.send(&tap, true).unwrap(), Sent::Nothing);
    assert_eq!(host.receive().unwrap(), sent);
    assert!(seen.used().is_empty());
    sender.give_back().unwrap();
    assert_eq!(seen.used(), [(0, 0)]);
    assert_eq!(seen.counters.interrupts.get(), 1);
}

#[test]
fn what_is_no_frame_is_not_sent() {
    let memory = memory();
    let (tap, host) = tap();
    let chains: [&[Buffer]; 5] = [
        &[(BUFFERS, 12, 0)],
        &[(BUFFERS, 100, WRITE)],
        &[(BUFFERS, 100, 0), (BUFFERS, 100, WRITE)],
        &[(0x1_f000, 0x1001, 0)],
        &[(BUFFERS, 0x1_0000, 0), (BUFFERS, 0x100, 0)],
    ];
    let (queue, seen) = queue_with_chains(&memory, &chains).split();
    let mut sender = Sender::new(queue);
    for _ in &chains {
        assert_eq!(sender.send(&tap, true).unwrap(), Sent::Nonsense);
    }
    assert_eq!(sender.send(&tap, true).unwrap(), Sent::Nothing);
    sender.give_back().unwrap();
    assert_eq!(seen.used().len(), chains.len());
    assert_eq!(host.receive(), None);
}

#[test]
fn frame_of_the_longest_kind_is_sent() {
    let memory = memory();
    let (tap, host) = tap();
    let length = u32::try_from(MAX_FRAME_BYTES).unwrap();
    let (queue, _) = queue_with(&memory, &[(BUFFERS, length, 0)]).split();
    assert_eq!(Sender::new(queue).send(&tap, true).unwrap(), Sent::Frame(MAX_FRAME_BYTES));
    assert_eq!(host.receive().unwrap().len(), MAX_FRAME_BYTES);
}

#[test]
fn frame_waits_for_a_full_tap_and_goes_nowhere_without_a_link() {
    let memory = memory();
    let (tap, host) = tap();
    let chain = [(BUFFERS, 60, 0)];
    let (queue, seen) = queue_with_chains(&memory, &[&chain[..]; 2]).split();
    let mut sender = Sender::new(queue);
    while rustix::io::write(&tap, &frame(60)).is_ok() {}
    assert_eq!(sender.send(&tap, true).unwrap(), Sent::Blocked);
    assert_eq!(sender.send(&tap, true).unwrap(), Sent::Blocked);
    sender.give_back().unwrap();
    assert!(seen.used().is_empty());
    while host.receive().is_some() {}
    assert_eq!(sender.send(&tap, true).unwrap(), Sent::Frame(60));
    assert!(host.receive().is_some());
    assert_eq!(sender.send(&tap, false).unwrap(), Sent::Unlinked);
    assert_eq!(host.receive(), None);
}

proptest! {
    #[test]
    fn arbitrary_chains_never_panic(chain in prop::collection::vec((any::<u64>(), any::<u32>(), 0u16..8), 0..8)) {
        let memory = memory();
        let (tap, _host) = tap();
        let mut sender = Sender::new(queue_with(&memory, &chain).queue);
        while !matches!(sender.send(&tap, true), Ok(Sent::Nothing) | Err(_)) {}
        let _ = sender.give_back();
    }
}
