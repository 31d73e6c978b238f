//! The state machine of one stream connection (virtio 1.2, §5.10.6).
//!
//! ```text
//!  host client                 guest client
//!   Requested                   (REQUEST arrives, host side connects)
//!      | RESPONSE                  |
//!      +------> Established <------+
//!      |            | RST, or SHUTDOWN of both directions,
//!      |            | or both ends of the host's stream are closed and it is read to its end
//!      | the client is gone, or its patience
//!      +----------> v
//!                Draining: the guest is gone; what it had sent still goes to
//!                   |      the host's reader
//!                   v
//!                 dropped
//! ```
//!
//! Back-pressure is credit in both directions (§5.10.6.3): the guest may have
//! [`BUFFER_BYTES`] under way to a host reader that does not read, and the host
//! sends no more than the guest has room for.
//!
//! The stream is non-blocking and watched edge-triggered: `readable` and
//! `writable` remember what the last event said until the stream says
//! `WouldBlock`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::Wrapping;

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

use super::BUFFER_BYTES;
use super::header::{Header, SHUTDOWN_RCV, SHUTDOWN_SEND, op};

/// What a connection needs of its host side.
pub(super) trait HostStream: ReadVolatile + Write {
    /// The guest sends no more: the reader on the host shall see end of file.
    fn shutdown_write(&self) -> io::Result<()>;
}

impl HostStream for std::os::unix::net::UnixStream {
    fn shutdown_write(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A host client waits for the guest's answer.
    Requested,
    Established,
    /// The guest is gone; only the buffer is left to write.
    Draining,
}

/// Control packets that are due, most urgent first.
#[derive(Debug, Default)]
struct Due {
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
    /// The host's writer is at its end.
    shutdown: bool,
    reset: bool,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    state: State,
    due: Due,
    readable: bool,
    writable: bool,
    /// The host's writer is at its end, and whether the guest was told.
    host_eof: bool,
    /// Both directions of the host's stream are closed.
    host_hangup: bool,
    /// The guest sends no more, and whether the host's reader was told.
    guest_eof: bool,
    host_told: bool,
    /// The guest receives no more.
    guest_deaf: bool,
    /// Bytes from the guest that the host's reader has not taken.
    buffer: VecDeque<u8>,
    /// The guest's receive buffer, as it last said.
    peer_buf_alloc: u32,
    /// Bytes that the guest's reader has taken, as it last said.
    peer_fwd_cnt: Wrapping<u32>,
    /// Bytes sent to the guest.
    sent: Wrapping<u32>,
    /// Bytes that the host's reader has taken.
    fwd_cnt: Wrapping<u32>,
    /// `fwd_cnt` as the guest was last told.
    told_fwd_cnt: Wrapping<u32>,
    /// The guest was asked for credit, and has told of no room since. It answers at once, room or
    /// not; asked again each time, it would answer for as long as its reader sleeps. It tells by
    /// itself when its reader makes room: Linux does at the latest when the reader has emptied the
    /// buffer, so one that waits for more is always heard of.
    asked_for_credit: bool,
}

impl<S: HostStream> Connection<S> {
    /// A host client wants to reach the guest.
    pub(super) fn from_host(stream: S) -> Self {
        let due = Due { request: true, ..Due::default() };
        Self::new(stream, State::Requested, due, &Header::default())
    }

    /// The guest's `request` has been taken by a host listener.
    pub(super) fn from_guest(stream: S, request: &Header) -> Self {
        let due = Due { response: true, ..Due::default() };
        Self::new(stream, State::Established, due, request)
    }

    fn new(stream: S, state: State, due: Due, request: &Header) -> Self {
        Self {
            stream,
            state,
            due,
            readable: true,
            writable: true,
            host_eof: false,
            host_hangup: false,
            guest_eof: false,
            host_told: false,
            guest_deaf: false,
            buffer: VecDeque::new(),
            peer_buf_alloc: request.buf_alloc,
            peer_fwd_cnt: Wrapping(request.fwd_cnt),
            sent: Wrapping(0),
            fwd_cnt: Wrapping(0),
            told_fwd_cnt: Wrapping(0),
            asked_for_credit: false,
        }
    }

    /// The host's stream.
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// Gives the stream up.
    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// The stream has become readable, writable, or both ends of it are closed.
    pub(super) fn host_event(&mut self, readable: bool, writable: bool, hangup: bool) {
        self.readable |= readable || hangup;
        self.host_hangup |= hangup;
        if hangup && self.state == State::Requested {
            return self.abandon();
        }
        if writable || hangup {
            self.writable = true;
            self.flush();
        }
        self.end_if_deserted();
    }

    /// Nothing from the host is left for the guest, and nothing from the guest reaches anybody.
    fn end_if_deserted(&mut self) {
        let nothing_to_read = self.host_eof || self.guest_deaf;
        if self.host_hangup && nothing_to_read && self.state == State::Established {
            self.reset();
        }
    }

    /// The guest has not answered the host client's request.
    pub(super) fn is_requested(&self) -> bool {
        self.state == State::Requested
    }

    /// Gives a request up. Nothing is owed to the guest: if it answers after all, it is told then
    /// that there is no such connection.
    pub(super) fn abandon(&mut self) {
        self.due = Due::default();
        self.state = State::Draining;
        self.end_of_guest();
    }

    /// Nothing is left to do: the stream may be closed.
    pub(super) fn is_finished(&self) -> bool {
        self.state == State::Draining && self.buffer.is_empty() && !self.due.reset
    }

    /// The guest does not know this connection any more.
    pub(super) fn is_draining(&self) -> bool {
        self.state == State::Draining && !self.due.reset
    }

    /// There is a packet for the guest.
    pub(super) fn has_packet(&self) -> bool {
        let due = &self.due;
        due.request
            || due.response
            || due.credit_update
            || due.credit_request
            || due.shutdown
            || due.reset
            || self.wants_read()
    }

    fn wants_read(&self) -> bool {
        let open = self.state == State::Established && !self.host_eof && !self.guest_deaf;
        open && self.readable && (self.credit() > 0 || !self.asked_for_credit)
    }

    /// How many bytes the guest has room for.
    fn credit(&self) -> u32 {
        let in_flight = (self.sent - self.peer_fwd_cnt).0;
        self.peer_buf_alloc.saturating_sub(in_flight)
    }

    /// A packet from the guest, with its payload if it is data.
    pub(super) fn guest_packet(&mut self, header: &Header, data: &[u8]) {
        self.peer_buf_alloc = header.buf_alloc;
        self.peer_fwd_cnt = Wrapping(header.fwd_cnt);
        self.asked_for_credit &= self.credit() == 0;
        match (header.op, self.state) {
            (op::RESPONSE, State::Requested) => self.state = State::Established,
            (op::RW, State::Established) if !self.guest_eof => {
                self.take(data);
            }
            (op::SHUTDOWN, State::Established) => self.guest_shutdown(header.flags),
            (op::CREDIT_UPDATE, _) => {}
            (op::CREDIT_REQUEST, State::Established) => self.due.credit_update = true,
            (op::RST, _) => {
                self.due = Due::default();
                self.state = State::Draining;
                self.end_of_guest();
            }
            // Nothing else makes sense; the guest learns that the connection is over.
            _ => self.reset(),
        }
    }

    /// Writes to the host client that its connection stands.
    pub(super) fn greet(&mut self, host_port: u32) {
        // A fresh socket's buffer has room for a line; if it has not, the
        // client is gone, which the next write finds out.
        let _ = self.stream.write_all(format!("OK {host_port}\n").as_bytes());
    }

    fn guest_shutdown(&mut self, flags: u32) {
        self.guest_deaf |= flags & SHUTDOWN_RCV != 0;
        self.guest_eof |= flags & SHUTDOWN_SEND != 0;
        if self.guest_deaf && self.guest_eof {
            self.reset();
        } else if self.guest_eof {
            self.end_of_guest();
        }
        self.end_if_deserted();
    }

    /// Ends the connection towards the guest; the buffer still goes to the host.
    pub(super) fn reset(&mut self) {
        self.due = Due { reset: true, ..Due::default() };
        self.state = State::Draining;
        self.end_of_guest();
    }

    /// The host's reader is gone: what the guest has sent has nowhere to go.
    fn host_gone(&mut self) {
        self.buffer.clear();
        if self.state != State::Draining {
            self.reset();
        }
    }

    fn end_of_guest(&mut self) {
        self.guest_eof = true;
        // Once: the system tells of it by an event, at which it would be told again, and again.
        if self.buffer.is_empty() && !std::mem::replace(&mut self.host_told, true) {
            // Fails when the peer is gone, who then has seen the end as well.
            let _ = self.stream.shutdown_write();
        }
    }

    /// Data from the guest goes straight to the host, or into the buffer.
    fn take(&mut self, data: &[u8]) {
        let mut rest = data;
        while self.buffer.is_empty() && self.writable && !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return self.host_gone(),
                Ok(count) => {
                    rest = rest.get(count..).unwrap_or_default();
                    self.forwarded(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.host_gone(),
            }
        }
        let limit = usize::try_from(BUFFER_BYTES).unwrap_or(usize::MAX);
        if self.buffer.len() + rest.len() > limit {
            // The guest sent more than it had credit for.
            return self.reset();
        }
        self.buffer.extend(rest);
    }

    /// Writes as much of the buffer as the host takes.
    fn flush(&mut self) {
        while self.writable && !self.buffer.is_empty() {
            let (front, _) = self.buffer.as_slices();
            match self.stream.write(front) {
                Ok(0) => return self.host_gone(),
                Ok(count) => {
                    self.buffer.drain(..count);
                    self.forwarded(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.host_gone(),
            }
        }
        if self.buffer.is_empty() && self.guest_eof {
            self.end_of_guest();
        }
    }

    fn forwarded(&mut self, count: usize) {
        self.fwd_cnt += u32::try_from(count).unwrap_or(u32::MAX);
        let untold = (self.fwd_cnt - self.told_fwd_cnt).0;
        if self.state == State::Established && untold >= BUFFER_BYTES / 2 {
            self.due.credit_update = true;
        }
    }

    /// Makes the next packet for the guest; data is read from the host straight
    /// into `room`. `None` when the stream turned out to have nothing.
    pub(super) fn next_packet<B: BitmapSlice>(&mut self, room: &VolatileSlice<'_, B>) -> Option<Header> {
        let mut header = Header { buf_alloc: BUFFER_BYTES, ..Header::default() };
        header.op = if std::mem::take(&mut self.due.reset) {
            op::RST
        } else if std::mem::take(&mut self.due.request) {
            op::REQUEST
        } else if std::mem::take(&mut self.due.response) {
            op::RESPONSE
        } else if let Some(length) = self.read_into(room) {
            header.len = length;
            op::RW
        } else if std::mem::take(&mut self.due.shutdown) {
            header.flags = SHUTDOWN_SEND;
            op::SHUTDOWN
        } else if std::mem::take(&mut self.due.credit_request) {
            op::CREDIT_REQUEST
        } else if std::mem::take(&mut self.due.credit_update) {
            op::CREDIT_UPDATE
        } else if std::mem::take(&mut self.due.reset) {
            op::RST
        } else {
            return None;
        };
        // Every packet tells the guest how far the host's reader is.
        self.due.credit_update = false;
        self.told_fwd_cnt = self.fwd_cnt;
        header.fwd_cnt = self.fwd_cnt.0;
        Some(header)
    }

    fn read_into<B: BitmapSlice>(&mut self, room: &VolatileSlice<'_, B>) -> Option<u32> {
        if !self.wants_read() {
            return None;
        }
        let credit = usize::try_from(self.credit()).unwrap_or(usize::MAX);
        if credit == 0 {
            self.asked_for_credit = true;
            self.due.credit_request = true;
            return None;
        }
        let mut room = room.subslice(0, room.len().min(credit)).ok().filter(|room| !room.is_empty())?;
        loop {
            match self.stream.read_volatile(&mut room) {
                Ok(0) => {
                    self.host_eof = true;
                    if self.host_hangup || self.guest_eof {
                        self.reset();
                    } else {
                        self.due.shutdown = true;
                    }
                    return None;
                }
                Ok(count) => {
                    let count = u32::try_from(count).ok()?;
                    self.sent += count;
                    return Some(count);
                }
                Err(error) => match kind_of(&error) {
                    Some(io::ErrorKind::Interrupted) => {}
                    Some(io::ErrorKind::WouldBlock) => {
                        self.readable = false;
                        return None;
                    }
                    _ => {
                        self.host_gone();
                        return None;
                    }
                },
            }
        }
    }
}

fn kind_of(error: &VolatileMemoryError) -> Option<io::ErrorKind> {
    match error {
        VolatileMemoryError::IOError(error) => Some(error.kind()),
        _ => None,
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
