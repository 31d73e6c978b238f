//! The host's end of an interface, and memory of the guest's that goes there and back.
//!
//! The kernel copies frames from and to the guest's buffers itself (`readv`, `writev`): nobody here
//! looks at their bytes, so it does not matter that the guest may change them meanwhile.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libc::{c_int, c_uint, c_ulong, iovec};
use vm_memory::{Bytes, GuestAddress, GuestMemory};

use super::MAX_FRAME_BYTES;
use crate::memory::Memory;

/// `TUNGETVNETHDRSZ`
pub(super) const GET_HEADER_BYTES: c_ulong = 0x8004_54d7;
/// `TUNGETIFF`, whose number has the size of an int, though what it writes is larger.
pub(super) const GET_INTERFACE: c_ulong = 0x8004_54d2;
/// `TUNSETOFFLOAD`
pub(super) const SET_OFFLOAD: c_ulong = 0x4004_54d0;

/// Where the frames of an interface come from and go to, one a call, each behind its header.
pub(super) trait Tap: AsFd + Send + 'static {
    /// What of sums and segments it may leave to the guest: flags of `TUNSETOFFLOAD`.
    fn set_offload(&self, flags: c_uint) -> io::Result<()>;

    /// Whether it knows of sums and segments at all.
    fn has_offloads(&self) -> bool {
        true
    }

    /// Takes a frame.
    fn send(&self, frame: &Pieces) -> io::Result<usize> {
        frame.send(self.as_fd())
    }

    /// Gives a frame into the first `count` pieces. A result above their length means that it was
    /// longer, and is not whole; 0 means that nothing comes any more.
    fn receive(&self, into: &mut Pieces, count: usize) -> io::Result<usize> {
        into.receive(self.as_fd(), count)
    }

    /// Sends what it has taken and not sent yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: it has to be called again when the descriptor takes more.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A tap of Linux's.
#[derive(Debug)]
pub(super) struct LinuxTap(OwnedFd);

impl LinuxTap {
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// It carries whole frames with a header before each, and nothing else.
    pub(super) fn has_headers(&self) -> io::Result<bool> {
        const WANTED: c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let mut interface = MaybeUninit::<libc::ifreq>::zeroed();
        // SAFETY: the call writes a request, for which there is room.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), GET_INTERFACE, interface.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: zeroes are a request, and the call has written one whose flags are set.
        let flags = c_int::from(unsafe { interface.assume_init().ifr_ifru.ifru_flags });
        Ok(flags & WANTED == WANTED)
    }

    /// The length of the header before each frame.
    pub(super) fn header_bytes(&self) -> io::Result<usize> {
        let mut bytes = MaybeUninit::<c_int>::uninit();
        // SAFETY: the call writes an int, for which there is room.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), GET_HEADER_BYTES, bytes.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it has succeeded, and so written the int.
        usize::try_from(unsafe { bytes.assume_init() }).map_err(io::Error::other)
    }
}

/// A new tap of that name, as the monitor makes them. It takes root.
#[cfg(test)]
pub(super) fn made(name: &str) -> io::Result<LinuxTap> {
    const SET_INTERFACE: c_ulong = 0x4004_54ca;
    const SET_HEADER_BYTES: c_ulong = 0x4004_54d8;
    let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    nix::fcntl::fcntl(&tun, nix::fcntl::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    let mut interface = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR)
                .map_err(io::Error::other)?,
        },
    };
    for (place, byte) in interface.ifr_name.iter_mut().zip(name.bytes()).take(libc::IFNAMSIZ - 1) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    let header = c_int::try_from(super::HEADER_BYTES).map_err(io::Error::other)?;
    // SAFETY: both calls read a value that lives here, of the size that is theirs; the first writes it, too.
    let set = unsafe {
        libc::ioctl(tun.as_raw_fd(), SET_INTERFACE, &raw mut interface) == 0
            && libc::ioctl(tun.as_raw_fd(), SET_HEADER_BYTES, &raw const header) == 0
    };
    if set { Ok(LinuxTap::new(tun.into())) } else { Err(io::Error::last_os_error()) }
}

impl AsFd for LinuxTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Tap for LinuxTap {
    fn set_offload(&self, flags: c_uint) -> io::Result<()> {
        // SAFETY: the call takes flags and touches no memory of ours.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), SET_OFFLOAD, c_ulong::from(flags)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Most pieces that one call takes (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;

/// Most pieces of one frame: the rest of a call is for what does not fit.
pub(super) const MAX_FRAME_PIECES: usize = MAX_PIECES - 1;

/// Bytes more than there is room for: they show only that there were some.
const TOO_MANY_BYTES: usize = 16;

/// Where bytes go behind the pieces that a call was given: a frame's, and those.
const SPILL_BYTES: usize = MAX_FRAME_BYTES + TOO_MANY_BYTES;

/// Pieces of guest memory, one behind the other.
pub(super) struct Pieces {
    /// Keeps mapped what the pieces point to.
    memory: Memory,
    list: Vec<iovec>,
    /// The addresses of the same, for what is written from here.
    addresses: Vec<GuestAddress>,
    /// So many of the list are used up.
    start: usize,
    spill: Vec<u8>,
    /// A little more than what has come lately.
    usual: usize,
}

// SAFETY: the pieces are in memory that is kept by `memory`, which may be used from any thread.
unsafe impl Send for Pieces {}

impl Pieces {
    pub(super) fn new(memory: Memory) -> Self {
        Self {
            memory,
            list: Vec::new(),
            addresses: Vec::new(),
            start: 0,
            spill: Vec::new(),
            usual: MAX_FRAME_BYTES,
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.list.len() - self.start
    }

    /// Adds `length` bytes at `address`; false if they are not all in one region of memory.
    pub(super) fn push(&mut self, address: GuestAddress, length: usize) -> bool {
        let Ok(slice) = self.memory.get_slice(address, length) else { return false };
        self.list.push(iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: length });
        self.addresses.push(address);
        true
    }

    /// Drops all behind the first `count`.
    pub(super) fn truncate(&mut self, count: usize) {
        self.list.truncate(self.start + count);
        self.addresses.truncate(self.start + count);
    }

    /// Drops the first `count`.
    pub(super) fn advance(&mut self, count: usize) {
        self.start = (self.start + count).min(self.list.len());
        // Seldom enough that moving the rest costs nothing.
        if self.start == self.list.len() || self.start >= MAX_PIECES {
            self.list.drain(..self.start);
            self.addresses.drain(..self.start);
            self.start = 0;
        }
    }

    /// Bytes of the first `count`.
    pub(super) fn room(&self, count: usize) -> usize {
        self.list[self.start..].iter().take(count).map(|piece| piece.iov_len).sum()
    }

    /// Appends the bytes of all to `bytes`; false where they cannot be read.
    pub(super) fn read(&self, bytes: &mut Vec<u8>) -> bool {
        self.list.iter().zip(&self.addresses).skip(self.start).all(|(piece, &address)| {
            let before = bytes.len();
            bytes.resize(before + piece.iov_len, 0);
            self.memory.read_slice(&mut bytes[before..], address).is_ok()
        })
    }

    /// Sends all as one frame.
    pub(super) fn send(&self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let list = &self.list[self.start..];
        let count = c_int::try_from(list.len()).unwrap_or(c_int::MAX);
        // SAFETY: the pieces are mapped as long as `self.memory` is, and the call only reads them.
        let sent = unsafe { libc::writev(to.as_raw_fd(), list.as_ptr(), count) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Receives a frame into the first `count` pieces. A result above their length means that it was
    /// longer, and is not whole.
    ///
    /// The kernel looks at each piece that it is given, needed or not. So it is given as many as frames
    /// have filled lately, and what is behind those in a frame that is longer is copied.
    pub(super) fn receive(&mut self, from: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        let count = count.min(self.count()).min(MAX_FRAME_PIECES);
        let (given, direct) = self.covering(self.usual, count);
        let behind = (self.room(count) - direct).min(MAX_FRAME_BYTES);
        let received = self.receive_into(from, given, behind + TOO_MANY_BYTES)?;
        if let Some(spilt) = received.checked_sub(direct).filter(|&spilt| spilt > 0) {
            let spilt = self.spill.get(..spilt.min(behind)).unwrap_or_default();
            // All of it is in the guest's memory.
            let _ = self.write(direct, spilt);
        }
        // Frames of another size come together: it is followed up at once, and down slowly.
        self.usual = received.max(self.usual - self.usual / 64);
        Ok(received)
    }

    /// How many of the first `count` pieces have room for `bytes`, and what room they have.
    fn covering(&self, bytes: usize, count: usize) -> (usize, usize) {
        let (mut pieces, mut room) = (0, 0);
        for piece in self.list[self.start..].iter().take(count) {
            if room >= bytes {
                break;
            }
            pieces += 1;
            room += piece.iov_len;
        }
        (pieces, room)
    }

    /// Into the first `count` pieces, and then so many bytes of the spill.
    fn receive_into(&mut self, from: BorrowedFd<'_>, count: usize, spill: usize) -> io::Result<usize> {
        let end = self.start + count;
        self.spill.resize(SPILL_BYTES, 0);
        let spill = iovec { iov_base: self.spill.as_mut_ptr().cast(), iov_len: spill.min(SPILL_BYTES) };
        // For this call the spill lies behind the pieces, in place of the next one.
        self.list.push(spill);
        let last = self.list.len() - 1;
        self.list.swap(end, last);
        let list = &self.list[self.start..=end];
        let count = c_int::try_from(list.len()).unwrap_or(c_int::MAX);
        // SAFETY: the pieces are mapped as long as `self.memory` is, and the guest's memory may change
        // at any time: nobody has a reference into it. The spill is this value's own, borrowed mutably,
        // and at least as long as is said here.
        let received = unsafe { libc::readv(from.as_raw_fd(), list.as_ptr(), count) };
        let result = usize::try_from(received).map_err(|_| io::Error::last_os_error());
        self.list.swap(end, last);
        self.list.pop();
        result
    }

    /// Writes `bytes` at `offset` of all pieces together; false where they end before that.
    pub(super) fn write(&self, mut offset: usize, mut bytes: &[u8]) -> bool {
        for (piece, &address) in self.list.iter().zip(&self.addresses).skip(self.start) {
            if bytes.is_empty() {
                break;
            }
            let Some(room) = piece.iov_len.checked_sub(offset).filter(|&room| room > 0) else {
                offset -= piece.iov_len;
                continue;
            };
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            let place = u64::try_from(offset).ok().and_then(|offset| address.0.checked_add(offset));
            let written = place.map(|place| self.memory.write_slice(now, GuestAddress(place)));
            if !matches!(written, Some(Ok(()))) {
                return false;
            }
            (offset, bytes) = (0, later);
        }
        bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::virtio::test_queue::{BUFFERS, memory};

    fn pieces(memory: &Memory, lengths: &[usize]) -> Pieces {
        let mut pieces = Pieces::new(memory.clone());
        for (at, &length) in (0..).zip(lengths) {
            assert!(pieces.push(GuestAddress(BUFFERS + 0x100 * at), length));
        }
        pieces
    }

    fn bytes_at(memory: &Memory, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    #[test]
    fn frame_fills_the_pieces_in_order_and_what_does_not_fit_shows() {
        let memory = memory();
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut pieces = pieces(&memory, &[2, 3, 4]);
        theirs.send(b"abcdefg").unwrap();
        assert_eq!(pieces.receive(ours.as_fd(), 3).unwrap(), 7);
        assert_eq!(bytes_at(&memory, BUFFERS, 3), b"ab\0");
        assert_eq!(bytes_at(&memory, BUFFERS + 0x100, 3), b"cde");
        assert_eq!(bytes_at(&memory, BUFFERS + 0x200, 3), b"fg\0");
        theirs.send(b"uvwxyz").unwrap();
        assert_eq!(pieces.receive(ours.as_fd(), 2).unwrap(), 6, "more than the 5 that fit");
        assert_eq!(bytes_at(&memory, BUFFERS + 0x200, 3), b"fg\0");
        assert_eq!(pieces.count(), 3);
        pieces.advance(1);
        theirs.send(b"12345").unwrap();
        assert_eq!(pieces.receive(ours.as_fd(), 9).unwrap(), 5);
        assert_eq!(bytes_at(&memory, BUFFERS + 0x200, 3), b"45\0");
        assert_eq!(bytes_at(&memory, BUFFERS, 2), b"uv");
    }

    #[test]
    fn frame_that_is_longer_than_usual_is_whole_all_the_same() {
        let memory = memory();
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut pieces = pieces(&memory, &[2, 3, 4]);
        pieces.usual = 1;
        theirs.send(b"abcdefg").unwrap();
        assert_eq!(pieces.receive(ours.as_fd(), 3).unwrap(), 7);
        assert_eq!(bytes_at(&memory, BUFFERS, 3), b"ab\0");
        assert_eq!(bytes_at(&memory, BUFFERS + 0x100, 4), b"cde\0");
        assert_eq!(bytes_at(&memory, BUFFERS + 0x200, 3), b"fg\0");
        assert_eq!(pieces.usual, 7);
        pieces.usual = 1;
        theirs.send(b"0123456789").unwrap();
        assert_eq!(pieces.receive(ours.as_fd(), 3).unwrap(), 10, "more than the 9 that fit");
        assert_eq!(bytes_at(&memory, BUFFERS + 0x200, 5), b"5678\0");
        pieces.usual = MAX_FRAME_BYTES;
        for _ in 0..2000 {
            theirs.send(b"x").unwrap();
            assert_eq!(pieces.receive(ours.as_fd(), 3).unwrap(), 1);
        }
        assert!(pieces.usual < 64, "it is forgotten that there were long ones");
    }

    #[test]
    fn pieces_are_sent_as_one_frame() {
        let memory = memory();
        memory.write_slice(b"ab", GuestAddress(BUFFERS)).unwrap();
        memory.write_slice(b"cde", GuestAddress(BUFFERS + 0x100)).unwrap();
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        assert_eq!(pieces(&memory, &[2, 3]).send(ours.as_fd()).unwrap(), 5);
        let mut frame = [0; 9];
        assert_eq!(theirs.recv(&mut frame).unwrap(), 5);
        assert_eq!(&frame[..5], b"abcde");
    }

    #[test]
    fn bytes_are_written_over_the_borders_of_pieces_and_not_beyond_them() {
        let memory = memory();
        let mut pieces = pieces(&memory, &[1, 1, 1, 1]);
        pieces.advance(1);
        assert!(pieces.write(1, b"xy"));
        assert_eq!(bytes_at(&memory, BUFFERS + 0x200, 1), b"x");
        assert_eq!(bytes_at(&memory, BUFFERS + 0x300, 2), b"y\0");
        assert!(!pieces.write(2, b"xy"));
        assert!(!pieces.push(GuestAddress(0x1_ffff), 2), "beyond the memory");
    }

    #[test]
    fn descriptor_that_is_no_tap_says_so() {
        let (ours, _) = UnixDatagram::pair().unwrap();
        let tap = LinuxTap::new(ours.into());
        assert!(tap.header_bytes().is_err() && tap.has_headers().is_err() && tap.set_offload(0).is_err());
    }
}
