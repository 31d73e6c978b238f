//! What the kernel keeps of a table, as it shows it to `iptables-legacy -S` (`linux/netfilter_ipv4/ip_tables.h`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`, and of the other family: they are the same numbers.
const INFO: libc::c_int = 64;
const ENTRIES: libc::c_int = 65;

/// A table's name, with a byte of zero behind it.
const NAME_BYTES: usize = 32;
/// `struct ipt_getinfo`, and where it says how many bytes the entries have.
const INFO_BYTES: usize = 84;
const SIZE_AT: usize = 80;
/// `struct ipt_get_entries` without the entries.
const HEAD_BYTES: usize = 40;

/// More than a hundred thousand rules.
const MOST_BYTES: usize = 64 << 20;

/// How often it is asked again when there was a change meanwhile.
const MOST_TRIES: usize = 8;

pub(super) struct Table {
    pub(super) entries: Vec<u8>,
}

impl Table {
    /// Reads the table of this name in the namespace of this thread.
    ///
    /// # Errors
    /// The system's: it takes `CAP_NET_ADMIN` there.
    pub(super) fn read(is_ipv6: bool, name: &str) -> io::Result<Self> {
        let (family, level) = match is_ipv6 {
            false => (AddressFamily::Inet, libc::SOL_IP),
            true => (AddressFamily::Inet6, libc::SOL_IPV6),
        };
        // The kernel answers at any socket of the family.
        let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        for _ in 0..MOST_TRIES {
            let mut info = asked(name, INFO_BYTES)?;
            match option(&socket, level, INFO, &mut info) {
                // It is being made.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => continue,
                result => result?,
            }
            let size =
                info.get(SIZE_AT..).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
            let bytes = usize::try_from(size).map_err(io::Error::other)?.saturating_add(HEAD_BYTES);
            let mut all = asked(name, bytes)?;
            if let Some(place) = all.get_mut(NAME_BYTES..NAME_BYTES + size_of_val(&size)) {
                place.copy_from_slice(&size.to_ne_bytes());
            }
            match option(&socket, level, ENTRIES, &mut all) {
                // It has become another one.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                result => return result.map(|()| Self { entries: all.split_off(HEAD_BYTES) }),
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "they change all the time"))
    }
}

/// Room for an answer of so many bytes, which begins with the table's name.
fn asked(name: &str, bytes: usize) -> io::Result<Vec<u8>> {
    if name.len() >= NAME_BYTES || bytes > MOST_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut asked = vec![0; bytes];
    if let Some(place) = asked.get_mut(..name.len()) {
        place.copy_from_slice(name.as_bytes());
    }
    Ok(asked)
}

/// Has the kernel fill what begins with what it is asked for.
fn option(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, asked: &mut [u8]) -> io::Result<()> {
    let mut bytes = libc::socklen_t::try_from(asked.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open; the kernel reads and writes no more than `bytes` of `asked`, which lives here.
    let got = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, asked.as_mut_ptr().cast(), &raw mut bytes)
    };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
