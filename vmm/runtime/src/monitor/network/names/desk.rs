//! Takes the guest's questions and gives the answers, each in its own time.
//!
//! The guest is not trusted. What it can have here is bounded: questions on their way, of which the oldest
//! gives way, and answers that it does not take, beyond which it is heard no more.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmrun_proto::{Answer, FrameError, FrameReader, Question, encode};

use super::flight::Flight;

/// Questions on their way at a time: each is a socket.
const MAX_FLIGHTS: usize = 128;

/// Answers that wait for the guest.
const MAX_UNSENT_BYTES: usize = 1 << 20;

const READ_BYTES: usize = 16 << 10;

/// The thread's own.
#[derive(Debug)]
pub(super) struct Desk {
    connection: UnixStream,
    stopped: UnixStream,
    servers: Arc<Mutex<Vec<IpAddr>>>,
    port: u16,
    reader: FrameReader,
    unsent: Vec<u8>,
    flights: BTreeMap<u64, Flight>,
}

/// What is ready.
struct Ready {
    stop: bool,
    connection: bool,
    flights: Vec<u64>,
}

impl Desk {
    /// Answers over `connection`, until `stopped` has ended, what `servers` say at `port`.
    pub(super) fn new(
        connection: UnixStream,
        stopped: UnixStream,
        servers: Arc<Mutex<Vec<IpAddr>>>,
        port: u16,
    ) -> io::Result<Self> {
        connection.set_nonblocking(true)?;
        let (reader, unsent, flights) = (FrameReader::default(), Vec::new(), BTreeMap::new());
        Ok(Self { connection, stopped, servers, port, reader, unsent, flights })
    }

    /// Until the other side of `stopped`, or the guest, is gone.
    pub(super) fn work(mut self) -> Result<(), FrameError> {
        loop {
            let ready = self.wait()?;
            if ready.stop {
                return Ok(());
            }
            if ready.connection && !self.hear()? {
                return Ok(());
            }
            for id in ready.flights {
                // They are still ready when the guest has taken what waits.
                if self.unsent.len() >= MAX_UNSENT_BYTES {
                    break;
                }
                let outcome = self.flights.get_mut(&id).and_then(Flight::advance);
                if let Some(message) = outcome {
                    self.flights.remove(&id);
                    self.answer(id, message)?;
                }
            }
            self.expire(Instant::now())?;
            if !self.flush()? {
                return Ok(());
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let hears = self.unsent.len() < MAX_UNSENT_BYTES;
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, hears);
        interest.set(PollFlags::POLLOUT, !self.unsent.is_empty());
        let mut polled = vec![
            PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.connection.as_fd(), interest),
        ];
        // While the guest takes no answers there are none to be had.
        let flights = self.flights.iter().filter(|_| hears);
        polled.extend(flights.clone().map(|(_, flight)| PollFd::new(flight.descriptor(), flight.interest())));
        match poll(&mut polled, self.patience(Instant::now())) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut events = polled.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
        let (stop, connection) = (events.next() == Some(true), events.next() == Some(true));
        let flights = flights.zip(events).filter(|(_, ready)| *ready).map(|((id, _), _)| *id).collect();
        Ok(Ready { stop, connection, flights })
    }

    fn patience(&self, now: Instant) -> PollTimeout {
        let Some(first) = self.flights.values().map(|flight| flight.deadline).min() else {
            return PollTimeout::NONE;
        };
        let left = first.saturating_duration_since(now).as_millis().saturating_add(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    /// Takes what has come; false when the guest is gone.
    fn hear(&mut self) -> Result<bool, FrameError> {
        let mut bytes = [0; READ_BYTES];
        match self.connection.read(&mut bytes) {
            Ok(0) => return Ok(false),
            Ok(length) => self.reader.push(bytes.get(..length).unwrap_or_default()),
            Err(error) => return is_there(error),
        }
        while let Some(question) = self.reader.next_frame::<Question>()? {
            self.ask(&question)?;
        }
        Ok(true)
    }

    fn ask(&mut self, question: &Question) -> Result<(), FrameError> {
        if !self.servers.lock().unwrap_or_else(PoisonError::into_inner).contains(&question.server) {
            return self.answer(question.id, None);
        }
        if self.flights.len() >= MAX_FLIGHTS
            && let Some((oldest, _)) = self.flights.pop_first()
        {
            self.answer(oldest, None)?;
        }
        match Flight::begin(question, self.port) {
            Ok(flight) => {
                self.flights.insert(question.id, flight);
                Ok(())
            }
            Err(refusal) => self.answer(question.id, refusal),
        }
    }

    fn answer(&mut self, id: u64, message: Option<Vec<u8>>) -> Result<(), FrameError> {
        self.unsent.extend(encode(&Answer { id, message })?);
        Ok(())
    }

    fn expire(&mut self, now: Instant) -> Result<(), FrameError> {
        let late = self.flights.iter().filter(|(_, flight)| flight.deadline <= now);
        let late: Vec<u64> = late.map(|(id, _)| *id).collect();
        for id in late {
            self.flights.remove(&id);
            self.answer(id, None)?;
        }
        Ok(())
    }

    /// Sends what waits; false when the guest is gone.
    fn flush(&mut self) -> Result<bool, FrameError> {
        while !self.unsent.is_empty() {
            match self.connection.write(&self.unsent) {
                Ok(0) => return Ok(false),
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return is_there(error),
            }
        }
        Ok(true)
    }
}

/// Whether an error is one of a guest that is still there, or that of one that has gone.
fn is_there(error: io::Error) -> Result<bool, FrameError> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(true),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Ok(false),
        _ => Err(error.into()),
    }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
