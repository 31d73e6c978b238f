use std::io::{Read, Write};
use std::time::Duration;

use proptest::prelude::*;

use super::super::test_host::{GUEST_CID, HOST_PORT, TestHost, guest_sends, next};
use super::*;

/// Runs a guest's `program` of packets, in between which the host's ends do something: what, a port, and
/// two bytes of a value.
pub(crate) fn run(program: &[u8]) {
    let host = TestHost::new();
    let mut muxer = host.muxer();
    let mut ends = Vec::new();
    let mut now = Instant::now();
    for step in program.chunks_exact(4) {
        let &[what, port, low, high] = step else { continue };
        let value = u32::from(u16::from_le_bytes([low, high]));
        match what % 8 {
            // Whatever the fields hold.
            0..=2 => {
                let header = Header {
                    src_cid: u64::from(GUEST_CID),
                    dst_cid: if port == 255 { value.into() } else { HOST_CID },
                    src_port: u32::from(port % 16),
                    dst_port: if port & 16 == 0 { HOST_PORT } else { FIRST_EPHEMERAL_PORT + value % 4 },
                    len: value,
                    type_: if port & 32 == 0 { TYPE_STREAM } else { u16::from(low) },
                    op: u16::from(what >> 3) % 9,
                    flags: value,
                    buf_alloc: if port & 64 == 0 { value << 4 } else { u32::MAX - value },
                    fwd_cnt: if port & 128 == 0 { value } else { u32::MAX - value },
                };
                muxer.guest_packet(&header, &vec![low; usize::from(high) * 4]);
                if what % 8 == 2 {
                    muxer.guest_nonsense(&header);
                }
            }
            3 => {
                for _ in 0..value % 8 {
                    let mut room = vec![0; usize::from(port) * 8];
                    if let Some(header) = muxer.next_packet(&VolatileSlice::from(room.as_mut_slice())) {
                        assert!(
                            usize::try_from(header.len).unwrap() <= room.len(),
                            "more than there is room for"
                        );
                        assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, u64::from(GUEST_CID)));
                    }
                }
            }
            4 => ends.push(host.offer()),
            5 => {
                if let Ok(end) = UnixStream::connect(host.socket()) {
                    end.set_nonblocking(true).unwrap();
                    // What an end asks for, or does not.
                    let _ = (&end).write_all(if port % 4 == 0 { b"CONNECT x\n" } else { b"CONNECT 1024\n" });
                    ends.push(end);
                    muxer.clients_arrived();
                    muxer.accept(now);
                }
            }
            6 => {
                if let Some(at) = usize::from(port).checked_rem(ends.len()) {
                    match value % 3 {
                        0 => drop(ends.swap_remove(at)),
                        1 => drop((&ends[at]).write(&vec![low; usize::from(high)])),
                        _ => drop((&ends[at]).read(&mut [0; 512])),
                    }
                }
                let token = Token::from(port % 16);
                muxer.host_event(token, value & 4 != 0, value & 8 != 0, value & 16 != 0);
            }
            _ => {
                now += Duration::from_millis(u64::from(value));
                muxer.expire(now);
                muxer.take_watches();
                if value & 1 != 0 {
                    muxer.unwatched(Token::from(port % 16));
                }
            }
        }
        assert!(muxer.streams.len() <= 2 * MAX_CONNECTIONS, "{} connections", muxer.streams.len());
    }
}

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

proptest! {
    #[test]
    fn packets_and_ends_in_any_order_make_nothing_panic_or_grow(program in prop::collection::vec(any::<u8>(), 0..200)) {
        run(&program);
    }
}
