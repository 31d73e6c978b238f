//! What a host client says first: `CONNECT <port>\n`.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{MsgFlags, recv};

/// `CONNECT 4294967295\n`
const LONGEST_BYTES: usize = 19;

/// What a look at a client's first bytes tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    /// The line is not complete.
    Wait,
    /// The client wants this port of the guest.
    Connect(u32),
    /// The client says something else, or is gone.
    Refuse,
}

/// Looks whether the client's line is complete, and takes exactly that line from
/// the stream: what follows belongs to the guest.
pub(super) fn take_line(stream: &UnixStream) -> Handshake {
    let mut bytes = [0; LONGEST_BYTES];
    let peeked = match recv(stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_PEEK) {
        Ok(0) => return Handshake::Refuse,
        Ok(length) => &bytes[..length],
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Handshake::Wait,
        Err(_) => return Handshake::Refuse,
    };
    let Some(end) = peeked.iter().position(|&byte| byte == b'\n') else {
        return if peeked.len() < LONGEST_BYTES { Handshake::Wait } else { Handshake::Refuse };
    };
    let port = parse(&peeked[..end]);
    let mut line = [0; LONGEST_BYTES];
    if !matches!(io::Read::read(&mut &*stream, &mut line[..=end]), Ok(taken) if taken == end + 1) {
        return Handshake::Refuse;
    }
    port.map_or(Handshake::Refuse, Handshake::Connect)
}

fn parse(line: &[u8]) -> Option<u32> {
    let port = std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?;
    if port.starts_with('+') { None } else { port.parse().ok() }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        (client, server)
    }

    #[test]
    fn whole_line_is_taken_and_nothing_behind_it() {
        let (mut client, mut server) = pair();
        client.write_all(b"CONNECT 1024\nhello").unwrap();
        assert_eq!(take_line(&server), Handshake::Connect(1024));
        let mut rest = [0; 5];
        server.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"hello");
    }

    #[test]
    fn line_in_pieces_is_waited_for() {
        let (mut client, server) = pair();
        assert_eq!(take_line(&server), Handshake::Wait);
        client.write_all(b"CONNECT 42949").unwrap();
        assert_eq!(take_line(&server), Handshake::Wait);
        client.write_all(b"67295\n").unwrap();
        assert_eq!(take_line(&server), Handshake::Connect(u32::MAX));
    }

    #[test]
    fn anything_else_is_refused() {
        for line in [
            "HELLO\n",
            "CONNECT\n",
            "CONNECT -1\n",
            "CONNECT +1\n",
            "CONNECT 4294967296\n",
            "CONNECT 00000000000000001\n",
            "\n",
        ] {
            let (mut client, server) = pair();
            client.write_all(line.as_bytes()).unwrap();
            assert_eq!(take_line(&server), Handshake::Refuse, "{line:?}");
        }
        let (client, server) = pair();
        drop(client);
        assert_eq!(take_line(&server), Handshake::Refuse);
    }
}
