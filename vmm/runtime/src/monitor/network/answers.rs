//! Answers of name servers to the host's own questions.
//!
//! A name server in the namespace, like Docker's, asks others what it does not know, from sockets in the
//! namespace. What comes back would go to the guest, as all that the interface receives. So a filter before
//! the redirection lets the host's network stack have what is sent from the port of name servers to a
//! connection that it has, and nothing else: it looks for the very socket. What tells the host where its
//! router is, answers to ARP and to neighbour solicitations, both get.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use vmrun_bpf::Register::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
use vmrun_bpf::{Assembler, Helper, Instruction, Kind, Label, Register, Size};
use vmrun_netlink::Netlink;
use vmrun_netlink::core::{NLM_F_CREATE, NLM_F_EXCL};
use vmrun_netlink::route::RouteNetlinkMessage;
use vmrun_netlink::route::tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcOption};
use vmrun_proto::NAME_SERVER_PORT;

use super::filters::Filter;

/// As it is shown by `tc filter`.
const NAME: &str = "vmrun-answers";

/// What the filter says of a frame: the host has it, or the next filter decides.
const TAKEN: i32 = 0;
const NEXT: i32 = -1;

/// The frame's protocol, in the order of the network, in what the filter is told (`struct __sk_buff`).
const PROTOCOL: i16 = 16;
const ETHERNET_BYTES: i32 = 14;
const V6_BYTES: i32 = 40;
/// `ETH_P_IP`, `ETH_P_ARP`, `ETH_P_IPV6`.
const V4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const V6: u16 = 0x86dd;
const ICMP_V6: i32 = 58;
const ADVERTISEMENT: i32 = 136;
const ARP_REPLY: u16 = 2;
/// All but "do not fragment" is part of a packet.
const FRAGMENT: u16 = 0x3fff;

/// The state of a socket (`struct bpf_sock`), and those in which it is connected to nobody.
const STATE: i16 = 72;
const CLOSED: i32 = 7;
const LISTENS: i32 = 10;
/// `BPF_F_CURRENT_NETNS`
const HERE: i32 = -1;

/// Lets what `interface` receives of such frames in; `tap` is where all others go. The word of an error
/// is what it was about.
pub(super) fn let_in(
    netlink: &mut Netlink,
    interface: u32,
    tap: u32,
) -> Result<(), (&'static str, io::Error)> {
    let program = program(tap).and_then(|program| vmrun_bpf::load(Kind::TrafficFilter, &program));
    let program = program.map_err(|error| ("BPF program", error))?;
    let number = |error| ("its number", error);
    let mut filter = Filter::Answers.at(interface).map_err(number)?;
    let descriptor = u32::try_from(program.as_fd().as_raw_fd()).map_err(io::Error::other).map_err(number)?;
    filter.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(descriptor)),
        TcOption::Bpf(TcFilterBpfOption::ProgName(NAME.to_owned())),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    netlink
        .change(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE | NLM_F_EXCL)
        .map_err(|error| ("filter bpf", error))
}

/// A number of the network's order, as it is loaded.
fn loaded(value: u16) -> i32 {
    value.to_be().into()
}

/// Where the program goes on.
struct Places {
    /// The next filter decides.
    next: Label,
    /// The guest gets a copy.
    both: Label,
    /// Is there a socket? `R7` is its addresses, `R8` the protocol, `R9` the addresses' size.
    find: Label,
}

fn program(tap: u32) -> io::Result<Vec<Instruction>> {
    let mut program = Assembler::default();
    let [next, both, find, arp, v4] = [(); 5].map(|()| program.label());
    let places = Places { next, both, find };
    program
        .copy(R6, R1)
        .load(Size::Word, R2, R6, PROTOCOL)
        .jump_if_equal(R2, loaded(V4), v4)
        .jump_if_equal(R2, loaded(ARP), arp)
        .jump_unless_equal(R2, loaded(V6), next);
    look_at_v6(&mut program, &places);
    program.place(arp);
    // The operation is behind the kinds and sizes of addresses.
    read(&mut program, Offset::Fixed(ETHERNET_BYTES + 6), -8, 2, next);
    program.load(Size::Half, R2, R10, -8).jump_if_equal(R2, loaded(ARP_REPLY), both).jump(next);
    program.place(v4);
    look_at_v4(&mut program, &places);
    program.place(find);
    look_for_socket(&mut program, next);
    program.place(both).copy(R1, R6).set(R2, i32::try_from(tap).map_err(io::Error::other)?).set(R3, 0);
    program.call(Helper::CloneRedirect).end(TAKEN).place(next).end(NEXT);
    program.finish()
}

/// Where something is in a frame.
#[derive(Clone, Copy)]
enum Offset {
    Fixed(i32),
    In(Register),
}

/// Puts bytes of the frame on the stack; goes on elsewhere where there are fewer.
fn read(program: &mut Assembler, from: Offset, to: i16, bytes: i32, fewer: Label) {
    program.copy(R1, R6);
    match from {
        Offset::Fixed(offset) => program.set(R2, offset),
        Offset::In(register) => program.copy(R2, register),
    };
    program.copy(R3, R10).add(R3, to.into()).set(R4, bytes).call(Helper::LoadBytes);
    program.jump_unless_equal(R0, 0, fewer);
}

/// The tuple of `bpf_sk_lookup_udp`, two addresses and two ports, is put together at the stack's end.
fn look_at_v4(program: &mut Assembler, places: &Places) {
    const HEADER: i16 = -56;
    const TUPLE: i16 = -16;
    read(program, Offset::Fixed(ETHERNET_BYTES), HEADER, 20, places.next);
    program.load(Size::Half, R2, R10, HEADER + 6).and(R2, loaded(FRAGMENT)).jump_unless_equal(
        R2,
        0,
        places.next,
    );
    program.load(Size::Byte, R8, R10, HEADER + 9);
    for word in [0, 4] {
        program.load(Size::Word, R2, R10, HEADER + 12 + word).store(Size::Word, R10, TUPLE + word, R2);
    }
    // The header's length is in words.
    program.load(Size::Byte, R7, R10, HEADER).and(R7, 0xf).shift_left(R7, 2).add(R7, ETHERNET_BYTES);
    read(program, Offset::In(R7), TUPLE + 8, 4, places.next);
    program.load(Size::Half, R2, R10, TUPLE + 8).jump_unless_equal(R2, loaded(NAME_SERVER_PORT), places.next);
    program.copy(R7, R10).add(R7, TUPLE.into()).set(R9, 12).jump(places.find);
}

/// One with headers between is nobody's here.
fn look_at_v6(program: &mut Assembler, places: &Places) {
    const HEADER: i16 = -80;
    /// The addresses are the header's last; the ports go where it ends.
    const TUPLE: i16 = HEADER + 8;
    const PORTS: i16 = HEADER + 40;
    let carries = program.label();
    read(program, Offset::Fixed(ETHERNET_BYTES), HEADER, V6_BYTES, places.next);
    program.load(Size::Byte, R8, R10, HEADER + 6).jump_unless_equal(R8, ICMP_V6, carries);
    read(program, Offset::Fixed(ETHERNET_BYTES + V6_BYTES), -8, 1, places.next);
    program.load(Size::Byte, R2, R10, -8).jump_if_equal(R2, ADVERTISEMENT, places.both).jump(places.next);
    program.place(carries);
    read(program, Offset::Fixed(ETHERNET_BYTES + V6_BYTES), PORTS, 4, places.next);
    program.load(Size::Half, R2, R10, PORTS).jump_unless_equal(R2, loaded(NAME_SERVER_PORT), places.next);
    program.copy(R7, R10).add(R7, TUPLE.into()).set(R9, 36).jump(places.find);
}

fn look_for_socket(program: &mut Assembler, next: Label) {
    let [datagrams, found] = [(); 2].map(|()| program.label());
    program.copy(R1, R6).copy(R2, R7).copy(R3, R9).set(R4, HERE).set(R5, 0);
    program.jump_if_equal(R8, libc::IPPROTO_UDP, datagrams).jump_unless_equal(R8, libc::IPPROTO_TCP, next);
    program.call(Helper::FindTcpSocket).jump(found);
    program.place(datagrams).call(Helper::FindUdpSocket);
    program.place(found).jump_if_zero(R0, next).load(Size::Word, R7, R0, STATE).copy(R1, R0);
    program.call(Helper::ReleaseSocket);
    program.jump_if_equal(R7, CLOSED, next).jump_if_equal(R7, LISTENS, next).end(TAKEN);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_copies_to_the_tap_that_it_is_for() {
        let program = program(4711).unwrap();
        let tap = [0xb7, R2 as u8, 0, 0, 0x67, 0x12, 0, 0];
        assert_eq!(program.iter().filter(|instruction| **instruction == tap).count(), 1);
        assert_eq!(loaded(NAME_SERVER_PORT), 0x3500);
    }
}
