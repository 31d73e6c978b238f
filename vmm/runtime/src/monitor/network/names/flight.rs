//! One question on its way to a name server and back.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use vmrun_proto::{Question, Transport};

use super::refusal::refusal;

/// Longer than a resolver waits, and than a name server that asks others one after the other.
const LIMIT: Duration = Duration::from_secs(20);

/// The largest datagram.
const DATAGRAM_BYTES: usize = 64 << 10;

const READ_BYTES: usize = 16 << 10;

/// A question that has been asked.
#[derive(Debug)]
pub(super) struct Flight {
    channel: Channel,
    pub(super) deadline: Instant,
    /// The answer if it fails.
    refusal: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Channel {
    Datagrams(UdpSocket),
    Connection { socket: TcpStream, unsent: Vec<u8>, received: Vec<u8> },
}

impl Flight {
    /// Asks the name server at this port. The error is the answer that says so.
    pub(super) fn begin(question: &Question, port: u16) -> Result<Self, Option<Vec<u8>>> {
        let server = SocketAddr::new(question.server, port);
        let channel = match question.transport {
            Transport::Udp => datagrams(server, &question.message),
            Transport::Tcp => connection(server, &question.message),
        };
        let refusal = refusal(&question.message);
        match channel {
            Ok(channel) => Ok(Self { channel, deadline: Instant::now() + LIMIT, refusal }),
            Err(_) => Err(refusal),
        }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.channel {
            Channel::Datagrams(socket) => socket.as_fd(),
            Channel::Connection { socket, .. } => socket.as_fd(),
        }
    }

    /// What it waits for.
    pub(super) fn interest(&self) -> PollFlags {
        match &self.channel {
            Channel::Connection { unsent, .. } if !unsent.is_empty() => PollFlags::POLLOUT,
            _ => PollFlags::POLLIN,
        }
    }

    /// Goes on as far as it can; gives what there is to answer when it is over.
    pub(super) fn advance(&mut self) -> Option<Option<Vec<u8>>> {
        let answer = match &mut self.channel {
            Channel::Datagrams(socket) => receive(socket),
            Channel::Connection { socket, unsent, received } => exchange(socket, unsent, received),
        };
        match answer {
            Ok(answer) => answer.map(Some),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(self.refusal.take()),
        }
    }
}

/// Connected, so that nobody else can answer.
fn datagrams(server: SocketAddr, message: &[u8]) -> io::Result<Channel> {
    let socket = match server {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    socket.connect(server)?;
    socket.set_nonblocking(true)?;
    socket.send(message)?;
    Ok(Channel::Datagrams(socket))
}

fn connection(server: SocketAddr, message: &[u8]) -> io::Result<Channel> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(server)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let unsent = [&length.to_be_bytes(), message].concat();
    Ok(Channel::Connection { socket: socket.into(), unsent, received: Vec::new() })
}

fn receive(socket: &UdpSocket) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; DATAGRAM_BYTES];
    let length = retried(|| socket.recv(&mut bytes))?;
    bytes.truncate(length);
    Ok(Some(bytes))
}

/// Sends what is left of the question, then receives: the first message is the answer.
fn exchange(
    socket: &mut TcpStream,
    unsent: &mut Vec<u8>,
    received: &mut Vec<u8>,
) -> io::Result<Option<Vec<u8>>> {
    while !unsent.is_empty() {
        let length = retried(|| socket.write(unsent))?;
        unsent.drain(..length);
    }
    loop {
        if let Some((length, rest)) = received.split_first_chunk::<2>()
            && let Some(message) = rest.get(..usize::from(u16::from_be_bytes(*length)))
        {
            return Ok(Some(message.to_vec()));
        }
        let mut bytes = [0; READ_BYTES];
        match retried(|| socket.read(&mut bytes))? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => received.extend_from_slice(bytes.get(..length).unwrap_or_default()),
        }
    }
}

fn retried(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
