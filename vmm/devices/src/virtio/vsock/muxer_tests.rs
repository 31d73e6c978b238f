use std::io::Write;

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
    assert!(muxer.next_packet::<()>(None).is_none());
    // Nothing is lost: both have it still.
    let lengths = [(); 2].map(|()| next(&mut muxer).unwrap().len);
    assert_eq!(lengths, [4, 4]);
}
