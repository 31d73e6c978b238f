//! A tap of Linux's, and headers that promise what is not there: the host's kernel alone stands behind them.
//!
//! These take root and /dev/net/tun: `tests/devices` runs them in the testbed.

use std::process::Command;

use super::super::tap;
use super::tests::send_all_of;
use super::*;
use crate::memory::Memory;
use crate::virtio::test_queue::{BUFFERS, Buffer, memory};
use vm_memory::{Bytes, GuestAddress};

/// As many chains as a test queue has descriptors for, and where each has its buffer.
const CHAINS: usize = 16;
const BUFFER_BYTES: u64 = 0x1000;

/// Every field of `struct virtio_net_hdr_v1` with values at which something else begins: flags, kind of segments,
/// bytes of the headers, bytes of a segment, where a sum begins, and where it goes from there.
fn headers() -> Vec<[u8; HEADER_BYTES]> {
    let mut headers = Vec::new();
    for flags in [0u8, 1, 2, 0xff] {
        for kind in [0u8, 1, 3, 4, 5, 0x81] {
            for [bytes, segment] in [[0u16, 0], [54, 1400], [54, 1], [0, 1400], [0xffff, 0xffff], [14, 0]] {
                for [start, offset] in
                    [[0u16, 0], [34, 6], [34, 16], [14, 0xffff], [0xffff, 0xffff], [0xfffe, 4]]
                {
                    let mut header = [0; HEADER_BYTES];
                    header[..2].copy_from_slice(&[flags, kind]);
                    for (place, field) in [bytes, segment, start, offset].into_iter().enumerate() {
                        header[2 + 2 * place..][..2].copy_from_slice(&field.to_le_bytes());
                    }
                    headers.push(header);
                }
            }
        }
    }
    headers
}

/// To everybody, of IPv4 with TCP in it, cut off behind so many bytes.
fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; 2000];
    frame[..6].fill(0xff);
    frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 7, 8, 0]);
    frame[14..26].copy_from_slice(&[0x45, 0, 7, 0xb0, 0, 0, 0, 0, 64, 6, 0, 0]);
    frame[46] = 0x50;
    frame.truncate(bytes);
    frame
}

/// A chain of one buffer for each of the frames, which lie in `memory` afterwards.
fn chains_of(memory: &Memory, frames: &[Vec<u8>]) -> Vec<Vec<Buffer>> {
    let places = (0..).map(|number| BUFFERS + number * BUFFER_BYTES);
    let chain = |(place, frame): (u64, &Vec<u8>)| {
        memory.write_slice(frame, GuestAddress(place)).unwrap();
        vec![(place, u32::try_from(frame.len()).unwrap(), 0)]
    };
    places.zip(frames).map(chain).collect()
}

/// How many frames the host has of the tap.
fn received(name: &str) -> u64 {
    let counter = format!("/sys/class/net/{name}/statistics/rx_packets");
    std::fs::read_to_string(counter).unwrap().trim().parse().unwrap()
}

#[test]
#[ignore = "it makes a tap: tests/devices runs it in the testbed"]
fn headers_that_promise_what_is_not_there_are_taken_or_refused_by_the_kernel_and_each_chain_comes_back() {
    let name = "hostile0";
    let tap = tap::made(name).unwrap();
    tap.set_offload(libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6).unwrap();
    assert!(Command::new("ip").args(["link", "set", name, "up"]).status().unwrap().success());
    let begun = received(name);
    let frames = [1, 13, 14, 20, 34, 53, 54, 1000, 2000].map(frame);
    let headed = |header: &[u8; HEADER_BYTES]| {
        let header = *header;
        frames.clone().map(move |frame| [&header[..], &frame[..]].concat())
    };
    let all: Vec<_> = headers().iter().flat_map(headed).collect();
    let (mut taken, mut refused) = (0, 0);
    let memory = memory();
    for frames in all.chunks(CHAINS) {
        let counted = send_all_of(&memory, &tap, &chains_of(&memory, frames), || {});
        taken += counted.0;
        refused += counted.1;
    }
    assert_eq!(taken + refused, u64::try_from(all.len()).unwrap());
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
    assert_eq!(received(name) - begun, taken);
    // What is none has done nothing to what comes after it.
    let good = [&[0; HEADER_BYTES][..], &frame(1000)].concat();
    assert_eq!(send_all_of(&memory, &tap, &chains_of(&memory, &[good]), || {}), (1, 0));
}
