use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmrun_proto::{FrameReader, encode};

use super::*;
use crate::connection::Role;

/// The sockets of a container that has one, and the host's side of them.
struct Served {
    sockets: HostSockets,
    host: UnixStream,
    heard: FrameReader,
    door: PathBuf,
    _directory: tempfile::TempDir,
}

impl Served {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("sockets");
        let socket = HostSocket { path: "/volumes/0".into() };
        let mut sockets = HostSockets::open(&[socket], &below).unwrap();
        let (host, agents) = UnixStream::pair().unwrap();
        agents.set_nonblocking(true).unwrap();
        sockets.attach(Connection::new(agents.into(), Role::Unknown));
        Self { sockets, host, heard: FrameReader::default(), door: place(&below, 0), _directory: directory }
    }

    /// Serves until nothing is left to do.
    fn settle(&mut self) {
        loop {
            let mut fds = [PollFd::new(self.sockets.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::ZERO).unwrap() == 0 && !self.sockets.is_busy() {
                return;
            }
            self.sockets.turn();
        }
    }

    /// The next call that the agent makes; none where its connection has ended.
    fn next_call(&mut self) -> Option<SocketCall> {
        loop {
            if let Some(call) = self.heard.next_frame().unwrap() {
                return Some(call);
            }
            let mut bytes = [0; 256];
            match self.host.read(&mut bytes).unwrap() {
                0 => return None,
                length => self.heard.push(&bytes[..length]),
            }
        }
    }

    /// A program's connection, and the host's to it.
    fn connect(&mut self) -> (UnixStream, UnixStream) {
        let program = UnixStream::connect(&self.door).unwrap();
        self.settle();
        let id = self.next_call().unwrap().id;
        let (host, agents) = UnixStream::pair().unwrap();
        agents.set_nonblocking(true).unwrap();
        self.sockets.join(id, agents.into(), b"first ".to_vec());
        (program, host)
    }
}

#[test]
fn seats_survive_the_kernel() {
    for seat in [Seat::Host, Seat::Door(2), Seat::Pair(9, Side::Near), Seat::Pair(9, Side::Far)] {
        assert_eq!(Seat::decode(seat.encode()), seat);
    }
}

#[test]
fn connection_is_carried_both_ways_to_its_end() {
    let mut served = Served::new();
    let (mut program, mut host) = served.connect();
    program.write_all(b"question").unwrap();
    program.shutdown(std::net::Shutdown::Write).unwrap();
    host.write_all(b"answer").unwrap();
    served.settle();
    let mut text = String::new();
    host.read_to_string(&mut text).unwrap();
    assert_eq!(text, "question");
    drop(host);
    served.settle();
    text.clear();
    program.read_to_string(&mut text).unwrap();
    assert_eq!(text, "first answer");
    assert!(served.sockets.pairs.is_empty() && !served.sockets.is_busy());
}

#[test]
fn refused_connection_ends() {
    let mut served = Served::new();
    let mut program = UnixStream::connect(&served.door).unwrap();
    served.settle();
    let id = served.next_call().unwrap().id;
    served.host.write_all(&encode(&SocketRefusal { id }).unwrap()).unwrap();
    served.settle();
    assert_eq!(program.read(&mut [0; 1]).unwrap(), 0);
    // A late connection of the host's has nobody to talk to.
    let (mut host, agents) = UnixStream::pair().unwrap();
    served.sockets.join(id, agents.into(), Vec::new());
    assert_eq!(host.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn more_connections_than_may_be_wait_in_the_queue() {
    let mut served = Served::new();
    let programs: Vec<_> = (0..=MAX_SOCKET_CONNECTIONS).map(|_| UnixStream::connect(&served.door)).collect();
    served.settle();
    assert_eq!(served.sockets.waiting.len(), MAX_SOCKET_CONNECTIONS);
    let id = served.next_call().unwrap().id;
    served.host.write_all(&encode(&SocketRefusal { id }).unwrap()).unwrap();
    served.settle();
    assert_eq!(served.sockets.waiting.len(), MAX_SOCKET_CONNECTIONS);
    assert!(programs.iter().all(Result::is_ok));
}

#[test]
fn last_words_go_out_before_the_host_hears_of_the_end() {
    let mut served = Served::new();
    let (mut program, mut host) = served.connect();
    program.write_all(b"bye").unwrap();
    drop(program);
    // This one has only just connected.
    drop(UnixStream::connect(&served.door).unwrap());
    served.sockets.end();
    assert!(UnixStream::connect(&served.door).is_err());
    served.settle();
    let mut text = String::new();
    host.read_to_string(&mut text).unwrap();
    assert_eq!(text, "bye");
    let id = served.next_call().unwrap().id;
    served.host.write_all(&encode(&SocketRefusal { id }).unwrap()).unwrap();
    served.settle();
    assert_eq!(served.next_call(), None);
}

#[test]
fn without_a_host_programs_are_refused() {
    let mut served = Served::new();
    served.host.shutdown(std::net::Shutdown::Both).unwrap();
    served.settle();
    assert!(UnixStream::connect(&served.door).is_err());
}
