//! A stream socket in place of a tap: each frame stands behind its length, in 4 bytes, the highest first.
//!
//! That is how passt and QEMU's `-netdev stream` take and give frames. There is no header of virtio's:
//! the guest is given one of zeroes, and its own, in which without offloads nothing is said, is left out.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use libc::c_uint;

use super::tap::{Pieces, Tap};
use super::{HEADER_BYTES, MAX_FRAME_BYTES};

/// Bytes of a length.
const PREFIX: usize = 4;

/// What a frame is at least and at most: an Ethernet header, and what passt takes (`ETH_MAX_MTU`).
const LEAST: usize = 14;
const MOST: usize = 0xffff;

/// Room for more than one frame, so that a call may bring several.
const INCOMING: usize = 4 * (PREFIX + MOST);

/// The socket, and what is in between.
pub(super) struct Stream {
    socket: OwnedFd,
    state: Mutex<State>,
}

struct State {
    /// Come, and not given to the guest yet: from `start` to `end`.
    incoming: Box<[u8]>,
    start: usize,
    end: usize,
    /// Taken from the guest; of it, `sent` bytes are gone.
    outgoing: Vec<u8>,
    sent: usize,
}

impl Stream {
    pub(super) fn new(socket: OwnedFd) -> Self {
        let state = State {
            incoming: vec![0; INCOMING].into_boxed_slice(),
            start: 0,
            end: 0,
            outgoing: Vec::with_capacity(PREFIX + MAX_FRAME_BYTES),
            sent: 0,
        };
        Self { socket, state: Mutex::new(state) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State, BorrowedFd<'_>) -> T) -> T {
        // Whoever panicked with it has ended the machine.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut state, self.socket.as_fd())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Tap for Stream {
    fn set_offload(&self, flags: c_uint) -> io::Result<()> {
        if flags == 0 { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    fn has_offloads(&self) -> bool {
        false
    }

    fn send(&self, frame: &Pieces) -> io::Result<usize> {
        self.with(|state, socket| {
            state.flush(socket)?;
            state.take(frame)?;
            match state.flush(socket) {
                // Not a byte of it has gone: the guest's queue keeps it.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && state.sent == 0 => {
                    state.outgoing.clear();
                    Err(error)
                }
                // The rest goes when there is room.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(frame.room(usize::MAX)),
                flushed => flushed.map(|()| frame.room(usize::MAX)),
            }
        })
    }

    fn receive(&self, into: &mut Pieces, count: usize) -> io::Result<usize> {
        self.with(|state, socket| {
            loop {
                if let Some(length) = state.give(into, count)? {
                    return Ok(length);
                }
                if state.fill(socket)? == 0 {
                    return Ok(0);
                }
            }
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.with(State::flush)
    }
}

impl State {
    /// Makes a frame of the guest's ready to go.
    fn take(&mut self, frame: &Pieces) -> io::Result<()> {
        let length = frame.room(usize::MAX).saturating_sub(HEADER_BYTES);
        let prefix = u32::try_from(length).map_err(io::Error::other)?.to_be_bytes();
        self.outgoing.clear();
        self.sent = 0;
        let whole = (LEAST..=MOST).contains(&length) && frame.read(&mut self.outgoing);
        if !whole {
            self.outgoing.clear();
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // The length takes the place of the header's last bytes, and the rest of that is not sent.
        self.sent = HEADER_BYTES - PREFIX;
        self.outgoing[self.sent..HEADER_BYTES].copy_from_slice(&prefix);
        self.outgoing.drain(..self.sent);
        self.sent = 0;
        Ok(())
    }

    fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while self.sent < self.outgoing.len() {
            match rustix::io::write(socket, &self.outgoing[self.sent..]) {
                Err(rustix::io::Errno::INTR) => {}
                sent => self.sent += sent?,
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(())
    }

    /// Gives the guest the first frame that is whole, if there is one.
    fn give(&mut self, into: &Pieces, count: usize) -> io::Result<Option<usize>> {
        let come = &self.incoming[self.start..self.end];
        let Some((prefix, rest)) = come.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).map_err(io::Error::other)?;
        if !(1..=MOST).contains(&length) {
            let why = format!("a frame of {length} bytes was announced");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let all = HEADER_BYTES + length;
        if all <= into.room(count) {
            // All of it is in the guest's memory.
            let _ = into.write(0, &[0; HEADER_BYTES]) && into.write(HEADER_BYTES, frame);
        }
        self.start += PREFIX + length;
        Ok(Some(all))
    }

    /// Reads what has come; 0 when nothing will any more.
    fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.incoming.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        loop {
            match rustix::io::read(socket, &mut self.incoming[self.end..]) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(count) => {
                    self.end += count;
                    return Ok(count);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::Memory;
    use crate::virtio::test_queue::{BUFFERS, memory};

    fn stream() -> (Stream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Stream::new(ours.into()), theirs)
    }

    fn pieces(memory: &Memory, lengths: &[usize]) -> Pieces {
        let mut pieces = Pieces::new(memory.clone());
        let mut address = BUFFERS;
        for &length in lengths {
            assert!(pieces.push(GuestAddress(address), length));
            address += u64::try_from(length).unwrap();
        }
        pieces
    }

    fn framed(frames: &[&[u8]]) -> Vec<u8> {
        let one = |frame: &&[u8]| [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], frame].concat();
        frames.iter().flat_map(one).collect()
    }

    fn would_block(result: io::Result<usize>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    #[test]
    fn frame_is_sent_behind_its_length_and_without_the_header() {
        let memory = memory();
        let (stream, mut peer) = stream();
        memory.write_slice(&[7; HEADER_BYTES], GuestAddress(BUFFERS)).unwrap();
        memory.write_slice(b"a frame of twenty-one", GuestAddress(BUFFERS + 12)).unwrap();
        assert_eq!(stream.send(&pieces(&memory, &[5, 10, 18])).unwrap(), 33);
        let mut got = [0; 25];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(got.to_vec(), framed(&[b"a frame of twenty-one"]));
    }

    #[test]
    fn frame_that_passt_would_not_take_is_refused() {
        let memory = memory();
        let (stream, _peer) = stream();
        for bytes in [HEADER_BYTES + 1, HEADER_BYTES + LEAST - 1, HEADER_BYTES + MOST + 1] {
            let error = stream.send(&pieces(&memory, &[bytes])).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bytes}");
        }
    }

    #[test]
    fn frames_are_given_whole_behind_a_header_of_zeroes_and_one_that_does_not_fit_shows() {
        let memory = memory();
        let (stream, mut peer) = stream();
        memory.write_slice(&[7; 64], GuestAddress(BUFFERS)).unwrap();
        let mut into = pieces(&memory, &[10, 10]);
        assert!(would_block(stream.receive(&mut into, 2)));
        let bytes = framed(&[b"abcdefgh", b"012345678"]);
        peer.write_all(&bytes[..7]).unwrap();
        assert!(would_block(stream.receive(&mut into, 2)), "not whole yet");
        peer.write_all(&bytes[7..]).unwrap();
        assert_eq!(stream.receive(&mut into, 2).unwrap(), 20);
        let mut got = [0; 21];
        memory.read_slice(&mut got, GuestAddress(BUFFERS)).unwrap();
        assert_eq!(&got, b"\0\0\0\0\0\0\0\0\0\0\0\0abcdefgh\x07");
        assert_eq!(stream.receive(&mut into, 2).unwrap(), 21, "more than the 20 that fit");
        memory.read_slice(&mut got, GuestAddress(BUFFERS)).unwrap();
        assert_eq!(&got[12..20], b"abcdefgh");
        assert!(would_block(stream.receive(&mut into, 2)));
        drop(peer);
        assert_eq!(stream.receive(&mut into, 2).unwrap(), 0);
    }

    #[test]
    fn length_that_is_none_ends_the_stream() {
        for length in [0u32, 0x1_0000, u32::MAX] {
            let memory = memory();
            let (stream, mut peer) = stream();
            peer.write_all(&length.to_be_bytes()).unwrap();
            let error = stream.receive(&mut pieces(&memory, &[64]), 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn frame_that_was_half_sent_goes_on_and_one_that_was_not_stays_with_the_guest() {
        let memory = memory();
        let (stream, mut peer) = stream();
        let frame = pieces(&memory, &[HEADER_BYTES + 60_000]);
        let mut sent = 0;
        let blocked = loop {
            match stream.send(&frame) {
                Ok(_) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
        let mut got = Vec::new();
        while got.len() < sent * 60_004 {
            let _ = stream.flush();
            let mut some = vec![0; 50_000];
            let count = peer.read(&mut some).unwrap();
            got.extend_from_slice(&some[..count]);
        }
        stream.flush().unwrap();
        assert_eq!(got.len(), sent * 60_004);
        assert!(got.chunks(60_004).all(|frame| frame[..4] == 60_000u32.to_be_bytes()));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_given_whole_or_ends_the_stream(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let memory = memory();
            let (stream, mut peer) = stream();
            peer.write_all(&bytes).unwrap();
            drop(peer);
            let mut into = pieces(&memory, &[32, 32]);
            for _ in 0..bytes.len() + 1 {
                match stream.receive(&mut into, 2) {
                    Ok(0) | Err(_) => return Ok(()),
                    Ok(length) => prop_assert!(length > HEADER_BYTES),
                }
            }
            prop_assert!(false, "it never ends");
        }
    }
}
