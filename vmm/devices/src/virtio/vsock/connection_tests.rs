use std::io::Read;
use std::os::unix::net::UnixStream;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use proptest::prelude::*;

use super::*;

fn header(op: u16, buf_alloc: u32, fwd_cnt: u32) -> Header {
    Header { op, buf_alloc, fwd_cnt, ..Header::default() }
}

/// A connection that the guest opened, with the host's end of its stream.
fn established(buf_alloc: u32) -> (Connection<UnixStream>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut connection = Connection::from_guest(ours, &header(op::REQUEST, buf_alloc, 0));
    assert_eq!(packet(&mut connection, 0).unwrap().0.op, op::RESPONSE);
    (connection, theirs)
}

/// The next packet for the guest, with room for `room` bytes of data.
fn packet(connection: &mut Connection<UnixStream>, room: usize) -> Option<(Header, Vec<u8>)> {
    let mut bytes = vec![0; room];
    let slice = VolatileSlice::from(bytes.as_mut_slice());
    let header = connection.next_packet(&slice)?;
    bytes.truncate(usize::try_from(header.len).unwrap());
    Some((header, bytes))
}

fn send(connection: &mut Connection<UnixStream>, bytes: &[u8]) {
    connection.guest_packet(&header(op::RW, 1 << 20, 0), bytes);
}

fn read_all(mut stream: &UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn host_client_is_requested_answered_and_greeted() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut connection = Connection::from_host(ours);
    assert_eq!(packet(&mut connection, 64).unwrap().0.op, op::REQUEST);
    connection.guest_packet(&header(op::RESPONSE, 4096, 0), &[]);
    connection.greet(7);
    assert_eq!(read_all(&theirs, 5), b"OK 7\n");
    assert!(!connection.is_draining());
}

#[test]
fn data_is_limited_by_the_guests_credit() {
    let (mut connection, mut theirs) = established(10);
    theirs.write_all(b"0123456789abcdef").unwrap();
    assert_eq!(packet(&mut connection, 64).unwrap().1, b"0123456789");
    // Out of credit: asked for once, then quiet.
    assert_eq!(packet(&mut connection, 64).unwrap().0.op, op::CREDIT_REQUEST);
    assert!(!connection.has_packet());
    connection.guest_packet(&header(op::CREDIT_UPDATE, 10, 4), &[]);
    assert_eq!(packet(&mut connection, 64).unwrap().1, b"abcd");
}

#[test]
fn guest_without_room_is_asked_for_it_once() {
    let (mut connection, mut theirs) = established(10);
    theirs.write_all(b"0123456789abcdef").unwrap();
    assert_eq!(packet(&mut connection, 64).unwrap().1, b"0123456789");
    assert_eq!(packet(&mut connection, 64).unwrap().0.op, op::CREDIT_REQUEST);
    // Its answers, and data that it sends meanwhile, tell of no room.
    for op in [op::CREDIT_UPDATE, op::RW, op::CREDIT_UPDATE] {
        connection.guest_packet(&header(op, 10, 0), &[]);
        assert!(!connection.has_packet());
    }
    // Its reader reads, a little at a time: whatever tells of room wakes the connection.
    connection.guest_packet(&header(op::RW, 10, 1), &[]);
    assert_eq!(packet(&mut connection, 64).unwrap().1, b"a");
    assert_eq!(packet(&mut connection, 64).unwrap().0.op, op::CREDIT_REQUEST);
    connection.guest_packet(&header(op::CREDIT_UPDATE, 10, 1), &[]);
    assert!(!connection.has_packet());
    // So does a larger buffer.
    connection.guest_packet(&header(op::CREDIT_UPDATE, 12, 1), &[]);
    assert_eq!(packet(&mut connection, 64).unwrap().1, b"bc");
}

#[test]
fn end_of_the_hosts_writer_reaches_the_guest_once_and_only_one_way() {
    let (mut connection, theirs) = established(4096);
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    let (shutdown, _) = packet(&mut connection, 64).unwrap();
    assert_eq!((shutdown.op, shutdown.flags), (op::SHUTDOWN, SHUTDOWN_SEND));
    assert!(!connection.has_packet());
    send(&mut connection, b"still here");
    assert_eq!(read_all(&theirs, 10), b"still here");
}

#[test]
fn end_of_the_guests_writer_reaches_the_host_behind_its_data() {
    let (mut connection, mut theirs) = established(4096);
    send(&mut connection, b"bye");
    let shutdown = Header { flags: SHUTDOWN_SEND, ..header(op::SHUTDOWN, 4096, 0) };
    connection.guest_packet(&shutdown, &[]);
    let mut all = Vec::new();
    theirs.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"bye");
    assert!(!connection.is_draining());
}

#[test]
fn end_of_the_guests_writer_makes_no_events_of_its_own() {
    let (mut connection, _theirs) = established(4096);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    epoll.add(connection.stream(), EpollEvent::new(flags, 0)).unwrap();
    let told = || epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO).unwrap() > 0;
    let shutdown = Header { flags: SHUTDOWN_SEND, ..header(op::SHUTDOWN, 4096, 0) };
    connection.guest_packet(&shutdown, &[]);
    assert!(told());
    connection.host_event(false, true, false);
    assert!(!told(), "the loop would never rest");
}

#[test]
fn guest_that_closes_gets_a_reset_and_its_data_is_still_delivered() {
    let (mut connection, mut theirs) = established(4096);
    let sent = fill(&mut connection);
    let close = Header { flags: SHUTDOWN_SEND | SHUTDOWN_RCV, ..header(op::SHUTDOWN, 4096, 0) };
    connection.guest_packet(&close, &[]);
    assert_eq!(packet(&mut connection, 64).unwrap().0.op, op::RST);
    assert!(connection.is_draining() && !connection.is_finished());
    let mut all = Vec::new();
    while !connection.is_finished() {
        let mut bytes = [0; 8192];
        let count = theirs.read(&mut bytes).unwrap();
        all.extend_from_slice(&bytes[..count]);
        connection.host_event(false, true, false);
    }
    theirs.read_to_end(&mut all).unwrap();
    assert!(all == sent);
}

/// Sends until the host's buffer is full and some is left in ours.
fn fill(connection: &mut Connection<UnixStream>) -> Vec<u8> {
    let mut sent = Vec::new();
    while connection.buffer.is_empty() {
        let bytes: Vec<u8> =
            (0..8192u32).map(|index| index.to_le_bytes()[0] ^ sent.len().to_le_bytes()[1]).collect();
        send(connection, &bytes);
        sent.extend(bytes);
    }
    sent
}

#[test]
fn guest_that_ignores_its_credit_is_reset_and_memory_stays_bounded() {
    let (mut connection, _theirs) = established(4096);
    fill(&mut connection);
    for _ in 0..100 {
        send(&mut connection, &[0; 8192]);
    }
    assert!(connection.buffer.len() <= usize::try_from(BUFFER_BYTES).unwrap());
    assert_eq!(packet(&mut connection, 64).unwrap().0.op, op::RST);
}

#[test]
fn reader_that_is_gone_resets_the_guest() {
    let (mut connection, theirs) = established(4096);
    drop(theirs);
    send(&mut connection, b"anyone?");
    assert_eq!(packet(&mut connection, 64).unwrap().0.op, op::RST);
    assert!(connection.is_finished());
}

#[test]
fn guest_learns_of_room_when_half_the_buffer_was_read() {
    let (mut connection, mut theirs) = established(4096);
    let half = usize::try_from(BUFFER_BYTES / 2).unwrap();
    let mut read = 0;
    while read < half {
        send(&mut connection, &[1; 4096]);
        read += read_all(&theirs, 4096).len();
    }
    theirs.flush().unwrap();
    let (update, _) = packet(&mut connection, 0).unwrap();
    assert_eq!((update.op, update.fwd_cnt), (op::CREDIT_UPDATE, BUFFER_BYTES / 2));
}

proptest! {
    #[test]
    fn bytes_of_the_guest_arrive_in_order_whatever_the_reader_does(
        steps in prop::collection::vec((1usize..5000, 0usize..9000), 1..60)
    ) {
        let (mut connection, mut theirs) = established(4096);
        theirs.set_nonblocking(true).unwrap();
        let (mut sent, mut seen) = (Vec::new(), Vec::new());
        let mut drain = |connection: &mut Connection<UnixStream>, count: usize, seen: &mut Vec<u8>| {
            let mut bytes = vec![0; count];
            if let Ok(read) = theirs.read(&mut bytes) {
                seen.extend_from_slice(&bytes[..read]);
            }
            connection.host_event(false, true, false);
        };
        for (write, read) in steps {
            if connection.buffer.len() + write <= usize::try_from(BUFFER_BYTES).unwrap() {
                let bytes: Vec<u8> = (0..write).map(|index| (sent.len() + index).to_le_bytes()[0]).collect();
                send(&mut connection, &bytes);
                sent.extend(bytes);
            }
            drain(&mut connection, read, &mut seen);
        }
        while seen.len() < sent.len() {
            drain(&mut connection, 65536, &mut seen);
        }
        prop_assert!(seen == sent);
    }

    #[test]
    fn arbitrary_packets_never_panic_and_never_overfill(
        packets in prop::collection::vec((0u16..9, any::<u32>(), any::<u32>(), 0u32..4, 0usize..3000), 0..80)
    ) {
        let (mut connection, _theirs) = established(100);
        for (op, buf_alloc, fwd_cnt, flags, length) in packets {
            let header = Header { flags, ..header(op, buf_alloc, fwd_cnt) };
            connection.guest_packet(&header, &vec![0; length]);
            while connection.has_packet() {
                packet(&mut connection, 128);
            }
            prop_assert!(connection.buffer.len() <= usize::try_from(BUFFER_BYTES).unwrap());
        }
    }
}
