//! One direction of a stream: bytes from one descriptor to another, through a
//! bounded buffer.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::unistd::write;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno as ReadErrno, read};

/// A pipe holds 64 KiB: one read can empty it.
const BUFFER_BYTES: usize = 64 << 10;

/// The state of one direction.
#[derive(Debug)]
pub struct Flow {
    /// What has been read; it has no memory while there is nothing, so a flow that rests costs none.
    buffer: Vec<u8>,
    /// So much of it has been written.
    start: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Bytes may still come.
    Open,
    /// The source has ended; what is in the buffer goes out.
    SourceEnded,
    /// Nothing more will be read or written.
    Over(End),
}

/// How a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every byte up to the source's end of file has been written.
    Complete,
    /// The sink takes no more bytes.
    SinkGone,
}

/// What one call of [`Flow::pump`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// Source or sink must become ready first.
    Waiting,
    /// There is more to do right now, after the other streams had their turn.
    More,
    /// The flow is over.
    Over(End),
}

impl Flow {
    /// A flow that starts with `first`, bytes that have been read already.
    pub fn new(first: Vec<u8>) -> Self {
        Self { buffer: first, start: 0, state: State::Open }
    }

    /// Moves bytes until one side would wait, at most `turns` buffers full.
    pub fn pump(&mut self, source: BorrowedFd<'_>, sink: BorrowedFd<'_>, turns: usize) -> Pumped {
        for _ in 0..turns {
            if let State::Over(end) = self.state {
                return Pumped::Over(end);
            }
            if self.start < self.buffer.len() {
                match self.drain(sink) {
                    Drained::All => {}
                    Drained::Waiting => return Pumped::Waiting,
                    Drained::SinkGone => self.state = State::Over(End::SinkGone),
                }
            } else if self.state == State::SourceEnded {
                self.state = State::Over(End::Complete);
            } else if !self.fill(source) {
                return Pumped::Waiting;
            }
        }
        match self.state {
            State::Over(end) => Pumped::Over(end),
            _ => Pumped::More,
        }
    }

    /// Ends the flow: nothing more is read or written.
    pub fn abandon(&mut self) {
        self.state = State::Over(End::SinkGone);
    }

    /// Reads what comes next; false when the source has nothing now.
    fn fill(&mut self, source: BorrowedFd<'_>) -> bool {
        // Pages that no byte comes to are not touched.
        let mut bytes = Vec::with_capacity(BUFFER_BYTES);
        match read(source, spare_capacity(&mut bytes)) {
            Ok(0) => self.state = State::SourceEnded,
            Ok(_) => (self.buffer, self.start) = (bytes, 0),
            Err(ReadErrno::AGAIN) => return false,
            Err(ReadErrno::INTR) => {}
            // EIO: the last user of the terminal has gone. ECONNRESET and the
            // like: the peer has. Both are the end of the source.
            Err(_) => self.state = State::SourceEnded,
        }
        true
    }

    fn drain(&mut self, sink: BorrowedFd<'_>) -> Drained {
        while let Some(waiting) = self.buffer.get(self.start..).filter(|waiting| !waiting.is_empty()) {
            match write(sink, waiting) {
                Ok(length) => self.start += length,
                Err(Errno::EAGAIN) => return Drained::Waiting,
                Err(Errno::EINTR) => {}
                Err(_) => return Drained::SinkGone,
            }
        }
        (self.buffer, self.start) = (Vec::new(), 0);
        Drained::All
    }
}

enum Drained {
    All,
    Waiting,
    SinkGone,
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    fn nonblocking_pair() -> (UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        (near, far)
    }

    fn read_available(from: &mut UnixStream, limit: usize) -> Vec<u8> {
        let mut bytes = vec![0; limit];
        match from.read(&mut bytes) {
            Ok(length) => bytes.truncate(length),
            Err(_) => bytes.clear(),
        }
        bytes
    }

    proptest! {
        #[test]
        fn every_byte_arrives_in_order_whatever_the_pace(
            payload in prop::collection::vec(any::<u8>(), 0..300_000),
            first in prop::collection::vec(any::<u8>(), 0..100),
            write_step in 1usize..70_000,
            read_step in 1usize..70_000,
        ) {
            let (mut producer, source) = nonblocking_pair();
            let (sink, mut consumer) = nonblocking_pair();
            let mut flow = Flow::new(first.clone());
            let (mut sent, mut seen) = (0, Vec::new());
            let mut producer_open = true;
            let end = loop {
                let piece = &payload[sent..payload.len().min(sent + write_step)];
                sent += producer.write(piece).unwrap_or(0);
                if sent == payload.len() && producer_open {
                    producer.shutdown(std::net::Shutdown::Write).unwrap();
                    producer_open = false;
                }
                let pumped = flow.pump(source.as_fd(), sink.as_fd(), 2);
                seen.extend(read_available(&mut consumer, read_step));
                if let Pumped::Over(end) = pumped {
                    break end;
                }
            };
            prop_assert_eq!(end, End::Complete);
            loop {
                let rest = read_available(&mut consumer, 1 << 20);
                if rest.is_empty() { break; }
                seen.extend(rest);
            }
            prop_assert!(seen == [first, payload].concat());
        }
    }

    #[test]
    fn full_sink_stops_the_reading() {
        let (mut producer, source) = nonblocking_pair();
        let (sink, _consumer) = nonblocking_pair();
        let mut flow = Flow::new(Vec::new());
        let mut accepted = 0;
        for _ in 0..1000 {
            accepted += producer.write(&[7; 4096]).unwrap_or(0);
            flow.pump(source.as_fd(), sink.as_fd(), 8);
        }
        assert!(accepted < 2 << 20, "{accepted} bytes were taken though nobody reads");
    }

    #[test]
    fn sink_that_is_gone_ends_the_flow() {
        let (mut producer, source) = nonblocking_pair();
        let (sink, consumer) = nonblocking_pair();
        drop(consumer);
        producer.write_all(b"lost").unwrap();
        let mut flow = Flow::new(Vec::new());
        assert_eq!(flow.pump(source.as_fd(), sink.as_fd(), 8), Pumped::Over(End::SinkGone));
    }
}
