//! The sockets that stand for a name server. They have ports of their own: its port stays free for
//! programs, and what is sent there is steered to them.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

/// The largest datagram.
const DATAGRAM_BYTES: usize = 64 << 10;

/// For one name server.
#[derive(Debug)]
pub(super) struct Door {
    server: IpAddr,
    datagrams: UdpSocket,
    listener: TcpListener,
}

impl Door {
    /// In the namespace in which the thread is; none where it has no such address, as without IPv6.
    pub(super) fn open(server: IpAddr) -> io::Result<Option<Self>> {
        match Self::bind(server) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrNotAvailable
                    || error.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
            {
                Ok(None)
            }
            bound => bound.map(Some),
        }
    }

    fn bind(server: IpAddr) -> io::Result<Self> {
        let datagrams = UdpSocket::bind((server, 0))?;
        datagrams.set_nonblocking(true)?;
        let listener = TcpListener::bind((server, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Self { server, datagrams, listener })
    }

    pub(super) fn server(&self) -> IpAddr {
        self.server
    }

    pub(super) fn datagrams(&self) -> BorrowedFd<'_> {
        self.datagrams.as_fd()
    }

    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The next datagram, if one is there.
    pub(super) fn receive(&self) -> Option<(Vec<u8>, SocketAddr)> {
        let mut bytes = vec![0; DATAGRAM_BYTES];
        let (length, from) = self.datagrams.recv_from(&mut bytes).ok()?;
        bytes.truncate(length);
        bytes.shrink_to_fit();
        Some((bytes, from))
    }

    /// The next connection, if one is there.
    pub(super) fn accept(&self) -> io::Result<Option<TcpStream>> {
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(true)?;
                    return Ok(Some(socket));
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => return Err(error),
                },
            }
        }
    }
}
