use std::io::{Read, Write};

use nix::sys::socket::{setsockopt, sockopt};

use super::super::test_host::{TestHost, guest_sends, next};
use super::*;

#[test]
fn data_without_room_for_it_is_nobodys_turn_for_ever() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    let streams = [7, 8].map(|port| {
        guest_sends(&mut muxer, port, op::REQUEST, &[]);
        assert_eq!(next(&mut muxer).unwrap().op, op::RESPONSE);
        host.listener.accept().unwrap().0
    });
    for (token, mut stream) in (0..).zip(&streams) {
        stream.write_all(b"data").unwrap();
        muxer.host_event(token, true, false, false);
    }
    assert!(muxer.next_packet(&VolatileSlice::from([0; 0].as_mut_slice())).is_none());
    // Nothing is lost: both have it still.
    let lengths = [(); 2].map(|()| next(&mut muxer).unwrap().len);
    assert_eq!(lengths, [4, 4]);
}

/// Whether the guest gets a connection from its `port`.
fn connects(muxer: &mut Muxer, port: u32) -> bool {
    guest_sends(muxer, port, op::REQUEST, &[]);
    let connected = next(muxer).unwrap().op == op::RESPONSE;
    if connected {
        let stream = muxer.stream(muxer.next_token - 1).unwrap();
        setsockopt(stream, sockopt::SndBuf, &65536).unwrap();
    }
    connected
}

/// Closes the guest's connection while the host's reader is behind.
fn fill_and_close(muxer: &mut Muxer, port: u32) {
    for _ in 0..4 {
        guest_sends(muxer, port, op::RW, &[0; 65536]);
    }
    guest_sends(muxer, port, op::RST, &[]);
}

#[test]
fn guest_that_opens_and_leaves_connections_takes_none_of_the_hosts() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    let open = (0..1100).filter(|&port| {
        let connected = connects(&mut muxer, port);
        if connected {
            fill_and_close(&mut muxer, port);
        }
        connected
    });
    assert_eq!(open.count(), MAX_GUEST_CONNECTIONS);
    let mut client = UnixStream::connect(host.socket()).unwrap();
    client.write_all(b"CONNECT 5\n").unwrap();
    muxer.clients_arrived();
    muxer.accept(Instant::now());
    let request = next(&mut muxer).unwrap();
    assert_eq!((request.op, request.dst_port), (op::REQUEST, 5));
}

#[test]
fn guest_gets_another_connection_when_the_host_has_read_one_to_its_end() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    let mut streams = Vec::new();
    for port in 0.. {
        if !connects(&mut muxer, port) {
            break;
        }
        streams.push(host.listener.accept().unwrap().0);
        fill_and_close(&mut muxer, port);
    }
    let mut bytes = vec![0; 4 * 65536];
    for part in bytes.chunks_mut(8192) {
        streams[0].read_exact(part).unwrap();
        muxer.host_event(0, false, true, false);
    }
    assert_eq!(streams[0].read(&mut [0]).unwrap(), 0);
    assert!(connects(&mut muxer, 100));
    assert!(!connects(&mut muxer, 101));
    // So it does when the host's end is gone.
    drop(streams.remove(1));
    muxer.host_event(1, true, true, true);
    assert!(connects(&mut muxer, 102));
}

#[test]
fn guest_that_takes_no_packets_leaves_no_turns_behind() {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    for port in 0..3000 {
        guest_sends(&mut muxer, port, op::REQUEST, &[]);
        guest_sends(&mut muxer, port, op::RST, &[]);
        muxer.take_watches();
        // What the muxer would wait for is gone.
        drop(host.listener.accept());
    }
    assert_eq!((muxer.turns.len(), muxer.streams.len()), (0, 0));
    for port in 0..10_000 {
        guest_sends(&mut muxer, port, op::RW, &[]);
    }
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
