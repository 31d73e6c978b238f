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
    muxer.accept();
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
