//! A tap: what the guest's card sends comes out of it as if it had received it, and what is sent
//! through it the card receives.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::net::if_::if_nametoindex;
use rustix::fs::{CWD, OFlags};

use vmrun_netlink::Netlink;
use vmrun_netlink::route::RouteNetlinkMessage;
use vmrun_netlink::route::link::LinkMessage;

use super::links::TAP_PREFIX;
use crate::read_only;

const TUN: &str = "/dev/net/tun";

/// Steps that may fail, as messages call them.
pub(super) const OPEN: &str = "/dev/net/tun";
pub(super) const ATTACH: &str = "TUNSETIFF on /dev/net/tun";

/// Size of the header before each frame that says what is left to be done to it
/// (`struct virtio_net_hdr_v1`).
const HEADER_BYTES: libc::c_int = 12;

/// A tap in the namespace of the thread that has made it. It goes with its descriptor.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) descriptor: OwnedFd,
    pub(super) name: String,
    /// Its number.
    pub(super) index: u32,
}

/// Makes a tap, or says which step failed.
pub(super) fn make() -> Result<Tap, (&'static str, io::Error)> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tun = File::from(read_only::open(CWD, TUN, flags).map_err(|error| (OPEN, error))?);
    let name = attach(&tun).map_err(|error| (ATTACH, error))?;
    set_header(&tun).map_err(|error| ("TUNSETVNETHDRSZ", error))?;
    let index = if_nametoindex(&*name).map_err(|errno| ("its number", errno.into()))?;
    Ok(Tap { descriptor: tun.into(), name, index })
}

/// Removes a tap, whoever has its descriptor. It may be gone.
pub(super) fn remove(netlink: &mut Netlink, index: u32) {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let _ = netlink.change(RouteNetlinkMessage::DelLink(link), 0);
}

/// The kernel puts a number in the place of `%d`.
fn attach(tun: &File) -> io::Result<String> {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: libc::c_short::try_from(flags).map_err(io::Error::other)?,
        },
    };
    for (place, byte) in request.ifr_name.iter_mut().zip(TAP_PREFIX.bytes().chain(*b"%d")) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    // SAFETY: the descriptor is open, and the kernel reads and writes the request, which lives here.
    if unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = request.ifr_name.iter().map(|byte| byte.to_ne_bytes()).map(|[byte]| byte);
    Ok(bytes.take_while(|byte| *byte != 0).map(char::from).collect())
}

fn set_header(tun: &File) -> io::Result<()> {
    let bytes = HEADER_BYTES;
    // SAFETY: the descriptor is open, and the kernel reads one integer, which lives here.
    let set = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has an interface take every group's frames, which groups the guest is in it alone knows, for as
/// long as the descriptor is open.
pub(super) fn take_multicast(index: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers and touches no memory.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it; nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let request = libc::packet_mreq {
        mr_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        mr_type: u16::try_from(libc::PACKET_MR_ALLMULTI).map_err(io::Error::other)?,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    let bytes = libc::socklen_t::try_from(size_of_val(&request)).map_err(io::Error::other)?;
    // SAFETY: the kernel reads as many bytes of the request as it has, and it lives here.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            bytes,
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}
