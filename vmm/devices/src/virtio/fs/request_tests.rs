use std::io::Read;

use super::*;
use crate::virtio::test_queue::{BUFFERS, Buffer, WRITE, memory, queue_with};

/// What [`Staging`] makes of a chain.
fn take<T>(memory: &Memory, chain: &[Buffer], look: impl FnOnce(Result<Request<'_>, QueueError>) -> T) -> T {
    let mut staging = Staging::new(memory).unwrap();
    let mut test = queue_with(memory, chain);
    let (memory, chain) = test.queue.pop().unwrap().unwrap();
    let _: &Memory = memory;
    look(staging.take(chain))
}

fn write_header(memory: &Memory, opcode: Opcode) {
    let header = InHeader { len: 100, opcode: opcode as u32, unique: 7, ..InHeader::default() };
    memory.write_obj(header, GuestAddress(BUFFERS)).unwrap();
}

#[test]
fn change_after_the_copy_is_not_seen() {
    let memory = memory();
    write_header(&memory, Opcode::Forget);
    let chain = [(BUFFERS, 30, 0), (BUFFERS + 30, 26, 0)];
    take(&memory, &chain, |request| {
        let mut request = request.unwrap();
        assert!(!request.is_answered());
        memory.write_slice(&[0xff; 56], GuestAddress(BUFFERS)).unwrap();
        let header: InHeader = request.reader.read_obj().unwrap();
        assert_eq!((header.opcode, header.unique), (Opcode::Forget as u32, 7));
        assert_eq!(request.reader.available_bytes(), 16);
    });
}

#[test]
fn data_of_a_write_stays_in_place_and_its_arguments_do_not() {
    let memory = memory();
    write_header(&memory, Opcode::Write);
    let chain = [(BUFFERS, 90, 0), (BUFFERS + 0x1000, 5, 0), (BUFFERS + 0x2000, 24, WRITE)];
    take(&memory, &chain, |request| {
        let mut request = request.unwrap();
        memory.write_slice(&[1; 90], GuestAddress(BUFFERS)).unwrap();
        memory.write_slice(b"later", GuestAddress(BUFFERS + 0x1000)).unwrap();
        let mut bytes = [0; 95];
        request.reader.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[8], 7);
        assert_eq!(&bytes[80..], [&[1; 10][..], b"later"].concat());
        assert_eq!(request.writer.available_bytes(), 24);
    });
}

#[test]
fn chains_that_are_no_requests_are_told_apart() {
    let memory = memory();
    let reply = (BUFFERS + 0x1000, 0x1000, WRITE);
    write_header(&memory, Opcode::Getattr);
    let says =
        |chain: &[Buffer]| take(&memory, chain, |request| request.err().map(|error| error.to_string()));
    assert_eq!(says(&[(BUFFERS, 56, 0), reply]), None);
    assert!(says(&[(BUFFERS, 39, 0), reply]).unwrap().contains("without a header"));
    assert!(says(&[(BUFFERS, 56, 0), (BUFFERS + 0x1000, 15, WRITE)]).unwrap().contains("room for the reply"));
    assert!(
        says(&[(BUFFERS, 56, 0), (0x1_0000, 0x1_0000, 0), (0, 0x1_0000, 0), reply])
            .unwrap()
            .contains("longer than any")
    );
    assert!(says(&[(BUFFERS, 40, 0), (1 << 40, 16, 0), reply]).unwrap().contains("outside its memory"));
}

#[test]
fn guest_cannot_name_the_private_memory() {
    let memory = memory();
    write_header(&memory, Opcode::Write);
    let reply = (BUFFERS + 0x1000, 0x1000, WRITE);
    for hidden in [(BYTES, 16, 0), (TABLE, 16, 0)] {
        take(&memory, &[(BUFFERS, 80, 0), hidden, reply], |request| assert!(request.is_err()));
        take(&memory, &[(BUFFERS, 40, 0), hidden, reply], |request| assert!(request.is_err()));
    }
    take(&memory, &[(BUFFERS, 80, 0), (BYTES, 64, WRITE)], |request| assert!(request.is_err()));
}

#[test]
fn staging_serves_one_request_after_the_other() {
    let memory = memory();
    write_header(&memory, Opcode::Forget);
    let mut staging = Staging::new(&memory).unwrap();
    let mut test = queue_with(&memory, &[(BUFFERS, 56, 0)]);
    let (_, chain) = test.queue.pop().unwrap().unwrap();
    // More than a ring's index counts.
    for round in 0..70_000u64 {
        memory.write_obj(round, GuestAddress(BUFFERS + 8)).unwrap();
        assert_eq!(staging.take(chain.clone()).unwrap().header.unique, round);
    }
}
