//! Datagrams that come from a name server's port, which no socket of ours is bound to: made whole.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};
use vmrun_proto::NAME_SERVER_PORT;

use super::door::Door;

const UDP_HEADER_BYTES: u16 = 8;
const V4_HEADER_BYTES: u16 = 20;
const UDP: u8 = 17;
const HOPS: u8 = 64;

/// The sockets through which they are sent.
#[derive(Debug)]
pub(super) struct Replies {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl Replies {
    /// In the namespace in which the thread is; what the servers' addresses need.
    pub(super) fn open(doors: &[Door]) -> io::Result<Self> {
        let raw = |wanted: bool, family| {
            // Whose header is ours to write; it receives nothing.
            let open = || socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
            wanted.then(open).transpose()
        };
        Ok(Self {
            v4: raw(doors.iter().any(|door| door.server().is_ipv4()), AddressFamily::Inet)?,
            v6: raw(doors.iter().any(|door| door.server().is_ipv6()), AddressFamily::Inet6)?,
        })
    }

    /// Sends a message from the server's port. One that cannot be sent is lost, as datagrams are.
    pub(super) fn send(&self, server: IpAddr, to: SocketAddr, message: &[u8]) {
        match (server, to) {
            (IpAddr::V4(server), SocketAddr::V4(to)) => {
                if let (Some(packet), Some(socket)) = (v4(server, to, message), &self.v4) {
                    let to = SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0));
                    let _ = sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::MSG_DONTWAIT);
                }
            }
            (IpAddr::V6(server), SocketAddr::V6(to)) => {
                if let (Some(packet), Some(socket)) = (v6(server, to, message), &self.v6) {
                    let to = SockaddrIn6::from(SocketAddrV6::new(*to.ip(), 0, 0, 0));
                    let _ = sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::MSG_DONTWAIT);
                }
            }
            _ => {}
        }
    }
}

/// The kernel fills in identification and checksum; UDP's own may be left out.
fn v4(from: Ipv4Addr, to: SocketAddrV4, message: &[u8]) -> Option<Vec<u8>> {
    let length = UDP_HEADER_BYTES.checked_add(u16::try_from(message.len()).ok()?)?;
    let total = length.checked_add(V4_HEADER_BYTES)?;
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0, 0, HOPS, UDP, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.ip().octets());
    packet.extend(datagram(to.port(), length, 0, message));
    Some(packet)
}

fn v6(from: Ipv6Addr, to: SocketAddrV6, message: &[u8]) -> Option<Vec<u8>> {
    let length = UDP_HEADER_BYTES.checked_add(u16::try_from(message.len()).ok()?)?;
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([UDP, HOPS]);
    packet.extend(from.octets());
    packet.extend(to.ip().octets());
    let mut summed = [from.octets(), to.ip().octets()].concat();
    summed.extend(u32::from(length).to_be_bytes());
    summed.extend(u32::from(UDP).to_be_bytes());
    summed.extend(datagram(to.port(), length, 0, message));
    packet.extend(datagram(to.port(), length, checksum(&summed), message));
    Some(packet)
}

fn datagram(to: u16, length: u16, checksum: u16, message: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        [NAME_SERVER_PORT, to, length, checksum].into_iter().flat_map(u16::to_be_bytes).collect();
    bytes.extend(message);
    bytes
}

/// That of RFC 1071; zero stands for none.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| {
        let mut padded = [0; 2];
        padded.iter_mut().zip(pair).for_each(|(to, from)| *to = *from);
        u64::from(u16::from_be_bytes(padded))
    };
    // The carry of each word comes around; what is left fits.
    let sum = bytes.chunks(2).map(word).fold(0, |sum: u64, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    match u16::try_from(sum).map(|sum| !sum) {
        Ok(0) | Err(_) => 0xffff,
        Ok(checksum) => checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_says_whence_whither_and_how_long() {
        let to = SocketAddrV4::new([127, 0, 0, 1].into(), 0x1234);
        let packet = v4([127, 0, 0, 11].into(), to, b"abc").unwrap();
        assert_eq!(packet[..4], [0x45, 0, 0, 31]);
        assert_eq!(packet[8..20], [64, 17, 0, 0, 127, 0, 0, 11, 127, 0, 0, 1]);
        assert_eq!(packet[20..], [0, 53, 0x12, 0x34, 0, 11, 0, 0, b'a', b'b', b'c']);
    }

    #[test]
    fn sum_over_a_packet_of_ipv6_with_its_checksum_is_all_ones() {
        let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 4711, 0, 0);
        let packet = v6(Ipv6Addr::LOCALHOST, to, b"odd").unwrap();
        let mut summed = packet[8..40].to_vec();
        summed.extend([0, 0, 0, 11, 0, 0, 0, 17]);
        summed.extend(&packet[40..]);
        // Its complement is zero, which is told as all ones.
        assert_eq!(checksum(&summed), 0xffff);
        assert_ne!(packet[46..48], [0, 0]);
    }

    #[test]
    fn message_that_no_packet_can_hold_is_refused() {
        let to = SocketAddrV4::new([127, 0, 0, 1].into(), 1);
        assert!(v4([127, 0, 0, 11].into(), to, &[0; 65507]).is_some());
        assert!(v4([127, 0, 0, 11].into(), to, &[0; 65508]).is_none());
        assert!(
            v6(Ipv6Addr::LOCALHOST, SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 0, 0), &[0; 65528]).is_none()
        );
    }
}
