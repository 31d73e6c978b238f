//! What is sent to a name server's port goes to the door, whatever socket a program has there: a program
//! may serve names at all of its addresses, as it may where rules of `netfilter` lead packets to
//! Docker's name server.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vmrun_bpf::Register::{R0, R1, R2, R3, R6, R7, R10};
use vmrun_bpf::{Assembler, Helper, Instruction, Kind, Size, SocketMap};
use vmrun_proto::NAME_SERVER_PORT;

use super::door::Door;

/// Fields of what the program is told (`struct bpf_sk_lookup`).
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_V4: i16 = 40;
const LOCAL_V6: i16 = 44;
const LOCAL_PORT: i16 = 60;

/// What a program says that has chosen a socket, or none.
const PASS: i32 = 1;

/// Where the number of a socket is for the kernel to read.
const PLACE: i16 = -4;

/// Steers for as long as the descriptor that is returned is open. Where there are no doors, since the
/// namespace has none of the addresses, nothing is steered.
pub(super) fn attach(doors: &[Door], namespace: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    if doors.is_empty() {
        return Ok(None);
    }
    let map = SocketMap::new(u32::try_from(2 * doors.len()).map_err(io::Error::other)?)?;
    for (place, socket) in (0..).zip(doors.iter().flat_map(|door| [door.datagrams(), door.listener()])) {
        map.put(place, socket)?;
    }
    let servers: Vec<_> = doors.iter().map(Door::server).collect();
    let program = vmrun_bpf::load(Kind::SocketLookup, &program(&servers, map.descriptor())?)?;
    vmrun_bpf::attach_to_namespace(program.as_fd(), namespace).map(Some)
}

/// Server `n` has the datagrams' socket at `2 n`, the connections' behind it.
fn program(servers: &[IpAddr], map: i32) -> io::Result<Vec<Instruction>> {
    let mut program = Assembler::default();
    let (steer, pass) = (program.label(), program.label());
    program.copy(R6, R1).load(Size::Word, R2, R6, LOCAL_PORT).jump_unless_equal(
        R2,
        NAME_SERVER_PORT.into(),
        pass,
    );
    program.load(Size::Word, R3, R6, PROTOCOL);
    for (place, server) in (0..).step_by(2).zip(servers) {
        let next = program.label();
        let (family, at, address) = match server {
            IpAddr::V4(address) => (libc::AF_INET, LOCAL_V4, address.octets().to_vec()),
            IpAddr::V6(address) => (libc::AF_INET6, LOCAL_V6, address.octets().to_vec()),
        };
        program.load(Size::Word, R2, R6, FAMILY).jump_unless_equal(R2, family, next);
        for (offset, word) in (at..).step_by(4).zip(address.as_chunks::<4>().0) {
            program.load(Size::Word, R2, R6, offset).jump_unless_equal(R2, i32::from_ne_bytes(*word), next);
        }
        program
            .store_value(Size::Word, R10, PLACE, place)
            .jump_if_equal(R3, libc::IPPROTO_UDP, steer)
            .store_value(Size::Word, R10, PLACE, place + 1)
            .jump_if_equal(R3, libc::IPPROTO_TCP, steer)
            .place(next);
    }
    program.jump(pass).place(steer);
    program
        .load_map(R1, map)
        .copy(R2, R10)
        .add(R2, PLACE.into())
        .call(Helper::MapLookup)
        .jump_if_zero(R0, pass)
        .copy(R7, R0)
        .copy(R1, R6)
        .copy(R2, R0)
        .set(R3, 0)
        .call(Helper::AssignSocket)
        .copy(R1, R7)
        .call(Helper::ReleaseSocket);
    program.place(pass).end(PASS);
    program.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_compares_the_addresses_of_all_servers() {
        let one = program(&["127.0.0.11".parse().unwrap()], 9).unwrap();
        let address = i32::from_ne_bytes([127, 0, 0, 11]).to_ne_bytes();
        assert!(one.iter().any(|instruction| instruction[0] == 0x56 && instruction[4..] == address));
        let two = program(&["127.0.0.11".parse().unwrap(), "::1".parse().unwrap()], 9).unwrap();
        // Family, four words of the address, two sockets.
        assert_eq!(two.len() - one.len(), 2 + 4 * 2 + 4);
    }
}
