use std::io::{Read, Write};

use super::super::test_host::{GUEST_CID, HOST_PORT, TestHost, guest_sends, next};
use super::*;

#[test]
fn data_without_room_for_it_is_nobodys_turn_for_ever() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    let now = Instant::now();
    let mut clients = [(); 2].map(|()| {
        let client = client(&host, &mut muxer, now);
        let request = next(&mut muxer).unwrap();
        guest_answers(&mut muxer, &request, op::RESPONSE);
        client
    });
    for (token, client) in (0..).zip(&mut clients) {
        client.write_all(b"data").unwrap();
        muxer.host_event(token, true, false, false);
    }
    assert!(muxer.next_packet(&VolatileSlice::from([0; 0].as_mut_slice())).is_none());
    // Nothing is lost: both have it still.
    let lengths = [(); 2].map(|()| next(&mut muxer).unwrap().len);
    assert_eq!(lengths, [4, 4]);
}

#[test]
fn guest_reaches_the_port_that_it_was_given_once_and_no_other() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    let header = |port| Header {
        src_cid: u64::from(GUEST_CID),
        dst_cid: HOST_CID,
        src_port: 7,
        dst_port: port,
        type_: TYPE_STREAM,
        op: op::REQUEST,
        ..Header::default()
    };
    for port in [0, HOST_PORT - 1, HOST_PORT + 1, u32::MAX] {
        muxer.guest_packet(&header(port), &[]);
        assert_eq!(next(&mut muxer).unwrap().op, op::RST);
    }
    guest_sends(&mut muxer, 7, op::REQUEST, &[]);
    assert_eq!(next(&mut muxer).unwrap().op, op::RESPONSE);
    guest_sends(&mut muxer, 7, op::RW, b"data");
    let mut data = [0; 4];
    (&host.peer).read_exact(&mut data).unwrap();
    assert_eq!(&data, b"data");
    // Neither beside it, nor after it, nor after a reset of the device.
    guest_sends(&mut muxer, 8, op::REQUEST, &[]);
    assert_eq!(next(&mut muxer).unwrap().op, op::RST);
    guest_sends(&mut muxer, 7, op::RST, &[]);
    for muxer in [&mut muxer, &mut host.muxer()] {
        guest_sends(muxer, 9, op::REQUEST, &[]);
        assert_eq!(next(muxer).unwrap().op, op::RST);
    }
}

#[test]
fn guest_that_takes_no_packets_leaves_no_turns_behind() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    for port in 0..10_000 {
        guest_sends(&mut muxer, port, op::REQUEST, &[]);
        guest_sends(&mut muxer, port, op::RST, &[]);
        guest_sends(&mut muxer, port, op::RW, &[]);
        muxer.take_watches();
    }
    assert!(muxer.streams.is_empty());
    assert!(muxer.turns.len() <= 2 * MAX_CONNECTIONS);
}

/// A client that has asked for port 5 of the guest, at `now`.
fn client(host: &TestHost, muxer: &mut Muxer, now: Instant) -> UnixStream {
    let mut client = UnixStream::connect(host.socket()).unwrap();
    client.write_all(b"CONNECT 5\n").unwrap();
    muxer.clients_arrived();
    muxer.accept(now);
    client
}

fn guest_answers(muxer: &mut Muxer, request: &Header, op: u16) {
    let answer = Header {
        src_cid: request.dst_cid,
        dst_cid: request.src_cid,
        src_port: request.dst_port,
        dst_port: request.src_port,
        type_: TYPE_STREAM,
        buf_alloc: 4096,
        op,
        ..Header::default()
    };
    muxer.guest_packet(&answer, &[]);
}

#[test]
fn request_that_the_guest_never_answers_ends_after_its_limit() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    let start = Instant::now();
    let mut first = client(&host, &mut muxer, start);
    let request = next(&mut muxer).unwrap();
    let later = start + REQUEST_LIMIT / 2;
    // The guest takes no packets: this request does not even reach it. A third says nothing at all.
    let mut second = client(&host, &mut muxer, later);
    let mut silent = UnixStream::connect(host.socket()).unwrap();
    muxer.clients_arrived();
    muxer.accept(later);

    assert_eq!(muxer.next_deadline(), Some(start + REQUEST_LIMIT));
    muxer.expire(start + REQUEST_LIMIT);
    assert_eq!(muxer.next_deadline(), Some(later + REQUEST_LIMIT));
    muxer.expire(later + REQUEST_LIMIT);
    assert_eq!((muxer.next_deadline(), muxer.streams.len(), muxer.turns.len()), (None, 0, 0));
    drop(muxer.take_watches());
    for client in [&mut first, &mut second, &mut silent] {
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    // An answer that comes too late is refused.
    guest_answers(&mut muxer, &request, op::RESPONSE);
    assert_eq!(next(&mut muxer).unwrap().op, op::RST);
}

#[test]
fn connection_that_stands_has_no_limit() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    let start = Instant::now();
    let _client = client(&host, &mut muxer, start);
    let request = next(&mut muxer).unwrap();
    guest_answers(&mut muxer, &request, op::RESPONSE);
    assert_eq!(muxer.next_deadline(), None);
    muxer.expire(start + 2 * REQUEST_LIMIT);
    assert_eq!(muxer.streams.len(), 1);
}

#[test]
fn client_that_goes_before_the_guest_answers_leaves_its_place() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    let now = Instant::now();
    for token in 0..2000 {
        drop(client(&host, &mut muxer, now));
        if token % 2 == 0 {
            assert_eq!(next(&mut muxer).unwrap().op, op::REQUEST);
        }
        muxer.host_event(token, true, true, true);
        muxer.take_watches();
    }
    assert_eq!((muxer.streams.len(), muxer.by_ports.len(), muxer.turns.len()), (0, 0, 0));
}

#[test]
fn client_that_says_no_more_and_then_goes_leaves_its_place() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    let client = client(&host, &mut muxer, Instant::now());
    let request = next(&mut muxer).unwrap();
    guest_answers(&mut muxer, &request, op::RESPONSE);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    muxer.host_event(0, true, false, false);
    assert_eq!(next(&mut muxer).unwrap().op, op::SHUTDOWN);
    drop(client);
    muxer.host_event(0, true, true, true);
    assert_eq!(next(&mut muxer).unwrap().op, op::RST);
    assert!(muxer.streams.is_empty());
}

#[test]
fn stream_that_cannot_be_watched_is_closed() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    guest_sends(&mut muxer, 7, op::REQUEST, &[]);
    muxer.unwatched(0);
    assert_eq!(next(&mut muxer).unwrap().op, op::RST);
    assert!(muxer.streams.is_empty());
}
