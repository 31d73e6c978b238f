//! A connection that is carried from one socket to another.
//!
//! ```text
//!   near's peer  ──▶ near ── there ──▶ far ──▶  far's peer
//!                ◀──      ◀── back ──      ◀──
//! ```
//!
//! Each direction ends by itself: the end of file is passed on, what comes the other way is carried on. A peer that is gone
//! altogether hears nothing any more, so what would go to it is dropped; what it has said still arrives.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{Shutdown, shutdown};

use crate::{End, Flow, Pumped};

/// Buffers that one pair may move before others have their turn.
const TURNS: usize = 16;

/// Which of the two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first one.
    Near,
    /// The second one.
    Far,
}

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// An event must come first.
    Waiting,
    /// There is more to do right now, after others have had their turn.
    More,
    /// Nothing will come any more, either way.
    Over,
}

/// Two stream sockets, non-blocking.
#[derive(Debug)]
pub struct Pair {
    near: OwnedFd,
    far: OwnedFd,
    there: Direction,
    back: Direction,
}

impl Pair {
    /// Joins them; `first` is what has been read from `far` already.
    #[must_use]
    pub fn new(near: OwnedFd, far: OwnedFd, first: Vec<u8>) -> Self {
        Self { near, far, there: Direction::new(Vec::new()), back: Direction::new(first) }
    }

    /// The socket of this side, to be watched.
    #[must_use]
    pub fn socket(&self, side: Side) -> BorrowedFd<'_> {
        match side {
            Side::Near => self.near.as_fd(),
            Side::Far => self.far.as_fd(),
        }
    }

    /// The peer of this side is gone: it neither says nor hears anything.
    pub fn hung_up(&mut self, side: Side) {
        match side {
            Side::Near => self.back.abandon(),
            Side::Far => self.there.abandon(),
        }
    }

    /// Moves what can be moved now.
    pub fn advance(&mut self) -> Progress {
        let there = self.there.advance(&self.near, &self.far);
        let back = self.back.advance(&self.far, &self.near);
        match (there, back) {
            (Progress::Over, Progress::Over) => Progress::Over,
            (Progress::More, _) | (_, Progress::More) => Progress::More,
            _ => Progress::Waiting,
        }
    }
}

/// One way.
#[derive(Debug)]
struct Direction {
    flow: Flow,
    /// The sink has been told of the end, or the source that nobody listens.
    told: bool,
}

impl Direction {
    fn new(first: Vec<u8>) -> Self {
        Self { flow: Flow::new(first), told: false }
    }

    /// Nobody is left to hear the end.
    fn abandon(&mut self) {
        self.flow.abandon();
    }

    fn advance(&mut self, source: &OwnedFd, sink: &OwnedFd) -> Progress {
        match self.flow.pump(source.as_fd(), sink.as_fd(), TURNS) {
            Pumped::Waiting => Progress::Waiting,
            Pumped::More => Progress::More,
            Pumped::Over(end) => {
                if !std::mem::replace(&mut self.told, true) {
                    // A peer that is gone needs to be told nothing.
                    let _ = match end {
                        End::Complete => shutdown(sink.as_raw_fd(), Shutdown::Write),
                        // Who goes on talking shall not wait for a listener.
                        End::SinkGone => shutdown(source.as_raw_fd(), Shutdown::Read),
                    };
                }
                Progress::Over
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A pair, and the peers of its two sides.
    fn carried() -> (Pair, UnixStream, UnixStream) {
        let ((near, client), (far, server)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        for socket in [&near, &far, &client, &server] {
            socket.set_nonblocking(true).unwrap();
        }
        (Pair::new(near.into(), far.into(), Vec::new()), client, server)
    }

    fn heard(by: &mut UnixStream) -> Vec<u8> {
        let mut all = Vec::new();
        match by.read_to_end(&mut all) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
            _ => all,
        }
    }

    /// Whether the peer has told of its end.
    fn is_at_its_end(socket: &mut UnixStream) -> bool {
        matches!(socket.read(&mut [0; 1]), Ok(0))
    }

    #[test]
    fn answer_comes_after_the_end_of_the_question() {
        let (mut pair, mut client, mut server) = carried();
        client.write_all(b"question").unwrap();
        client.shutdown(net::Shutdown::Write).unwrap();
        assert_eq!(pair.advance(), Progress::Waiting);
        assert_eq!(heard(&mut server), b"question");
        assert!(is_at_its_end(&mut server) && !is_at_its_end(&mut client));
        server.write_all(b"answer").unwrap();
        server.shutdown(net::Shutdown::Write).unwrap();
        assert_eq!(pair.advance(), Progress::Over);
        assert_eq!(heard(&mut client), b"answer");
        assert!(is_at_its_end(&mut client));
    }

    #[test]
    fn last_words_of_one_that_is_gone_arrive() {
        let (mut pair, mut client, mut server) = carried();
        client.write_all(b"bye").unwrap();
        server.write_all(b"too late").unwrap();
        drop(client);
        pair.hung_up(Side::Near);
        assert_eq!(pair.advance(), Progress::Over);
        assert_eq!(heard(&mut server), b"bye");
    }

    #[test]
    fn answer_arrives_though_the_rest_of_the_question_is_not_taken() {
        let (mut pair, mut client, mut server) = carried();
        server.write_all(b"refused").unwrap();
        drop(server);
        client.write_all(b"a question that is long").unwrap();
        assert_eq!(pair.advance(), Progress::Over);
        assert_eq!(heard(&mut client), b"refused");
    }

    #[test]
    fn who_talks_to_one_that_hears_no_more_is_told() {
        let (mut pair, mut client, mut server) = carried();
        server.shutdown(net::Shutdown::Read).unwrap();
        client.write_all(b"question").unwrap();
        assert_eq!(pair.advance(), Progress::Waiting);
        assert_eq!(client.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
        server.write_all(b"answer").unwrap();
        assert_eq!(pair.advance(), Progress::Waiting);
        assert_eq!(heard(&mut client), b"answer");
    }

    #[test]
    fn one_way_that_is_full_does_not_stop_the_other() {
        let (mut pair, mut client, mut server) = carried();
        let mut sent = 0;
        while let Ok(count) = client.write(&[1; 4096]) {
            sent += count;
            pair.advance();
        }
        server.write_all(b"still here").unwrap();
        assert_eq!(pair.advance(), Progress::Waiting);
        assert_eq!(heard(&mut client), b"still here");
        let mut taken = 0;
        while taken < sent {
            let count = heard(&mut server).len();
            assert!(count > 0, "{taken} of {sent} bytes came");
            taken += count;
            pair.advance();
        }
    }
}
