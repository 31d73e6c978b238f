//! A program's connection to a name server: messages with their lengths before them, both ways.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::epoll::EpollFlags;

/// Questions that one connection may have open. It is not read from while it has as many.
const MAX_OPEN: usize = 16;

/// Answers that may wait for a program that does not read.
const MAX_UNSENT_BYTES: usize = 1 << 20;

const READ_BYTES: usize = 16 << 10;

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    socket: TcpStream,
    door: usize,
    messages: Messages,
    unsent: Vec<u8>,
    open: usize,
    /// The program asks nothing more.
    ended: bool,
}

impl Client {
    pub(super) fn new(socket: TcpStream, door: usize) -> Self {
        Self { socket, door, messages: Messages::default(), unsent: Vec::new(), open: 0, ended: false }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Which server it asks.
    pub(super) fn door(&self) -> usize {
        self.door
    }

    /// What it waits for.
    pub(super) fn interest(&self) -> EpollFlags {
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLIN, !self.ended && self.open < MAX_OPEN);
        interest.set(EpollFlags::EPOLLOUT, !self.unsent.is_empty());
        interest
    }

    /// All that it asked is answered, and it asks no more.
    pub(super) fn is_over(&self) -> bool {
        self.ended && self.open == 0 && self.unsent.is_empty()
    }

    /// Reads what has come; false when the connection is broken.
    pub(super) fn receive(&mut self) -> bool {
        let mut bytes = [0; READ_BYTES];
        match self.socket.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(length) => self.messages.push(bytes.get(..length).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return false,
        }
        true
    }

    /// The next question, which is open from now on.
    pub(super) fn next_question(&mut self) -> Option<Vec<u8>> {
        if self.open >= MAX_OPEN {
            return None;
        }
        let message = self.messages.next()?;
        self.open += 1;
        Some(message)
    }

    /// Sends the answer to one of its questions; false when the connection is broken, or not read from.
    pub(super) fn answer(&mut self, message: &[u8]) -> bool {
        self.open = self.open.saturating_sub(1);
        let Ok(length) = u16::try_from(message.len()) else { return false };
        self.unsent.extend_from_slice(&length.to_be_bytes());
        self.unsent.extend_from_slice(message);
        self.flush() && self.unsent.len() <= MAX_UNSENT_BYTES
    }

    /// Sends what waits; false when the connection is broken.
    pub(super) fn flush(&mut self) -> bool {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(0) => return false,
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// Puts messages together from the pieces in which they come.
#[derive(Debug, Default)]
struct Messages {
    buffer: Vec<u8>,
}

impl Messages {
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let (length, rest) = self.buffer.split_first_chunk::<2>()?;
        let message = rest.get(..usize::from(u16::from_be_bytes(*length)))?.to_vec();
        self.buffer.drain(..2 + message.len());
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_cut_at_any_place_come_back_whole(
            sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
            piece in 1usize..50,
        ) {
            let mut bytes = Vec::new();
            for message in &sent {
                bytes.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
                bytes.extend(message);
            }
            let (mut messages, mut seen) = (Messages::default(), Vec::new());
            for piece in bytes.chunks(piece) {
                messages.push(piece);
                seen.extend(std::iter::from_fn(|| messages.next()));
            }
            prop_assert_eq!(seen, sent);
            prop_assert!(messages.buffer.is_empty());
        }
    }

    fn pair() -> (TcpStream, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let program = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        (program, Client::new(socket, 0))
    }

    #[test]
    fn one_that_asks_no_more_is_over_with_its_last_answer() {
        let (mut program, mut client) = pair();
        program.write_all(&[0, 2, b'a', b'b']).unwrap();
        program.shutdown(std::net::Shutdown::Write).unwrap();
        while !client.ended {
            assert!(client.receive());
        }
        assert_eq!(client.next_question().unwrap(), b"ab");
        assert!(!client.is_over());
        assert!(client.interest().is_empty());
        assert!(client.answer(b"xyz"));
        assert!(client.is_over());
        drop(client);
        let mut answer = Vec::new();
        program.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, [0, 3, b'x', b'y', b'z']);
    }

    #[test]
    fn one_that_asks_much_waits_for_its_answers() {
        let (_program, mut client) = pair();
        client.messages.push(&[0, 0].repeat(MAX_OPEN + 1));
        let asked = std::iter::from_fn(|| client.next_question()).count();
        assert_eq!(asked, MAX_OPEN);
        assert!(!client.interest().contains(EpollFlags::EPOLLIN));
        assert!(client.answer(&[]));
        assert!(client.next_question().is_some());
    }
}
