use std::io::Write;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::header::op;
use super::super::test_host::{TestHost, guest_sends, next};
use super::*;
use crate::virtio::test_queue::{BUFFERS, Buffer, WRITE, memory, queue_with};

/// A device whose guest offers `chain` to receive into.
fn worker(muxer: Muxer, rx: &Memory, chain: &[Buffer]) -> VsockWorker {
    let idle = memory();
    VsockWorker {
        rx: queue_with(rx, chain).queue,
        tx: queue_with(&idle, &[]).queue,
        event: queue_with(&idle, &[]).queue,
        muxer,
        scratch: Box::default(),
        failed: false,
    }
}

/// What is read from a chain: `Ok` with the data, `Err` if the header's data is not there.
fn read(memory: &Memory, chain: &[Buffer]) -> Option<Result<Vec<u8>, ()>> {
    let mut scratch = vec![0; usize::try_from(MAX_PACKET_BYTES).unwrap()];
    let mut result = None;
    let drained = queue_with(memory, chain).queue.drain(|memory, chain| {
        result = match read_packet(memory, chain, &mut scratch) {
            Packet::Whole(_, data) => Some(Ok(data.to_vec())),
            Packet::Short(_) => Some(Err(())),
            Packet::NoHeader => None,
        };
        0
    });
    drained.ok().and(result)
}

fn write_header(memory: &Memory, len: u32) {
    let header = Header { op: op::RW, len, ..Header::default() };
    memory.write_slice(&header.to_bytes(), GuestAddress(BUFFERS)).unwrap();
}

#[test]
fn packet_spread_over_many_descriptors_is_put_together() {
    let memory = memory();
    write_header(&memory, 9000);
    let data: Vec<u8> = (0..9000u32).map(|index| index.to_le_bytes()[0]).collect();
    memory.write_slice(&data[..4000], GuestAddress(BUFFERS + 0x4000)).unwrap();
    memory.write_slice(&data[4000..], GuestAddress(BUFFERS + 0x1000)).unwrap();
    let chain = [(BUFFERS, 44, 0), (BUFFERS + 0x4000, 4000, 0), (BUFFERS + 0x1000, 5000, 0)];
    assert_eq!(read(&memory, &chain), Some(Ok(data)));
}

#[test]
fn header_that_promises_more_than_there_is_or_may_be_is_short() {
    let memory = memory();
    write_header(&memory, 100);
    assert_eq!(read(&memory, &[(BUFFERS, 44, 0), (BUFFERS + 0x1000, 99, 0)]), Some(Err(())));
    write_header(&memory, MAX_PACKET_BYTES + 1);
    assert_eq!(read(&memory, &[(BUFFERS, 44, 0), (BUFFERS + 0x1000, 0x1_1000, 0)]), Some(Err(())));
    assert_eq!(read(&memory, &[(BUFFERS, 43, 0)]), None);
}

#[test]
fn receive_buffer_without_room_for_data_goes_back_and_holds_nothing_up() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    guest_sends(&mut muxer, 7, op::REQUEST, &[]);
    assert_eq!(next(&mut muxer).unwrap().op, op::RESPONSE);
    let (mut stream, _) = host.listener.accept().unwrap();
    stream.write_all(b"data").unwrap();

    let memory = memory();
    let mut worker = worker(muxer, &memory, &[(BUFFERS, 44, WRITE), (BUFFERS + 0x1000, 0, WRITE)]);
    worker.fill_receive().unwrap();
    assert!(worker.rx.pop().unwrap().is_none());
    // The data waits for a better one.
    let packet = next(&mut worker.muxer).unwrap();
    assert_eq!((packet.op, packet.len), (op::RW, 4));
}

proptest! {
    #[test]
    fn arbitrary_chains_never_panic(len: u32, chain in prop::collection::vec((0u64..0x2_1000, any::<u32>(), 0u16..8), 0..8)) {
        let memory = memory();
        write_header(&memory, len);
        let _ = read(&memory, &chain);
    }
}
