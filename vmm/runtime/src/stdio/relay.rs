//! Copying threads.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmrun_machine::{Call, ThreadClass, confine_this_thread};
use vmrun_proto::StreamKind;

use super::patience::{Patience, Waiting};

/// Size of a copy: large enough that system calls do not count, small enough for four of them.
const BUFFER_BYTES: usize = 256 << 10;

/// A relay needs its buffer on the heap and little else.
const STACK_BYTES: usize = 128 << 10;

/// Copying from one descriptor to another.
const COPYING: ThreadClass = ThreadClass::without_capabilities(&[
    Call::Any(libc::SYS_poll),
    Call::Any(libc::SYS_recvfrom),
    Call::Any(libc::SYS_sendto),
    Call::Any(libc::SYS_shutdown),
]);

/// Of which process the relays are.
#[derive(Clone)]
pub(crate) enum Home {
    /// The monitor, where they are confined to copying: what they copy is the guest's. One that cannot be
    /// confined fails, which ends the sandbox: its stream would be missing.
    Monitor(Arc<dyn Fn(String) + Send + Sync>),
    /// One that does nothing else.
    Own,
}

impl fmt::Debug for Home {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if matches!(self, Self::Own) { "Own" } else { "Monitor" })
    }
}

impl Home {
    /// Confines the calling thread, if it has to be; false if it must not copy anything.
    fn settle(&self) -> bool {
        let Self::Monitor(failing) = self else { return true };
        let confined = confine_this_thread(COPYING);
        confined.inspect_err(|error| failing(format!("cannot copy a standard stream: {error}"))).is_ok()
    }
}

/// How often it is looked who keeps whom waiting, while somebody does.
const LOOK: Duration = Duration::from_millis(250);

/// The relays of one process.
#[derive(Debug)]
pub(crate) struct Relays {
    home: Home,
    finished: Receiver<StreamKind>,
    sender: Sender<StreamKind>,
    /// Streams whose every byte must be out before the monitor ends.
    open_outputs: HashSet<StreamKind>,
    progress: Arc<Progress>,
}

/// What the copying threads are at.
#[derive(Debug, Default)]
struct Progress {
    bytes: AtomicU64,
    /// Outputs that wait for whoever reads them on the host.
    writing: AtomicU64,
}

/// Whether all output reached the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// It did.
    Fully,
    /// Something in the guest keeps a stream open: see [`Patience`].
    GaveUp,
}

impl Relays {
    pub(crate) fn new(home: Home) -> Self {
        let (sender, finished) = channel();
        Self { home, finished, sender, open_outputs: HashSet::new(), progress: Arc::default() }
    }

    /// Copies from the guest to `to` until the guest's end of file.
    pub(crate) fn output(&mut self, kind: StreamKind, from: OwnedFd, to: OwnedFd) -> io::Result<()> {
        let progress = Arc::clone(&self.progress);
        let (sender, home) = (self.sender.clone(), self.home.clone());
        self.open_outputs.insert(kind);
        thread::Builder::new().name(format!("relay-{kind:?}")).stack_size(STACK_BYTES).spawn(move || {
            // A failed write is the reader's choice (`vmrun run … | head`): dropping
            // the connection tells the program in the guest, as a closed pipe would.
            if home.settle() {
                let _ = copy(UnixStream::from(from), File::from(to), &progress, true);
            }
            let _ = sender.send(kind);
        })?;
        Ok(())
    }

    /// Copies from `from` to the guest until end of file, which the guest is told.
    pub(crate) fn input(&mut self, kind: StreamKind, from: OwnedFd, to: OwnedFd) -> io::Result<()> {
        let (progress, home) = (Arc::clone(&self.progress), self.home.clone());
        thread::Builder::new().name(format!("relay-{kind:?}-in")).stack_size(STACK_BYTES).spawn(
            move || {
                let to = UnixStream::from(to);
                // The program may close its standard input early, which ends the copy.
                if home.settle() {
                    let _ = copy(File::from(from), &to, &progress, false);
                }
                let _ = to.shutdown(Shutdown::Write);
            },
        )?;
        Ok(())
    }

    /// Waits until all output is out. A slow reader on the host is waited for without limit, the
    /// guest's end of a stream with patience.
    pub(crate) fn drain(&mut self, patience: Patience) -> Drained {
        let mut waiting = Waiting::new(patience, self.progress.bytes.load(Ordering::Relaxed));
        while !self.open_outputs.is_empty() {
            let begun = Instant::now();
            match self.finished.recv_timeout(waiting.step().min(LOOK)) {
                Ok(kind) => {
                    self.open_outputs.remove(&kind);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let bytes = self.progress.bytes.load(Ordering::Relaxed);
            let reader_is_behind = self.progress.writing.load(Ordering::Relaxed) > 0;
            if !waiting.goes_on(begun.elapsed(), bytes, reader_is_behind) {
                return Drained::GaveUp;
            }
        }
        Drained::Fully
    }
}

fn copy(
    mut from: impl Read + AsFd,
    mut to: impl Write + AsFd,
    progress: &Progress,
    output: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) => {
                wait_or_fail(error, &from, PollFlags::POLLIN)?;
                continue;
            }
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        if output {
            progress.writing.fetch_add(1, Ordering::Relaxed);
        }
        let written = write_all(&mut to, bytes);
        if output {
            progress.writing.fetch_sub(1, Ordering::Relaxed);
            progress.bytes.fetch_add(count as u64, Ordering::Relaxed);
        }
        written?;
    }
}

fn write_all(to: &mut (impl Write + AsFd), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) => wait_or_fail(error, &to, PollFlags::POLLOUT)?,
        }
    }
    Ok(())
}

/// Somebody else may have made the descriptor non-blocking: then wait as it would have.
fn wait_or_fail(error: io::Error, fd: &impl AsFd, flags: PollFlags) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => match poll(&mut [PollFd::new(fd.as_fd(), flags)], PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        },
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { silence: Duration::from_secs(5), total: Duration::from_secs(30), bytes: 1 << 30 };

    fn home() -> Home {
        Home::Monitor(Arc::new(|why| panic!("{why}")))
    }

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    #[test]
    fn bytes_pass_unchanged_and_drain_waits_for_them() {
        let (guest, ours) = pair();
        let (out, reader) = pair();
        let mut relays = Relays::new(home());
        relays.output(StreamKind::Stdout, ours.into(), out.into()).unwrap();
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2]).collect();
        let copy = sent.clone();
        let writer = thread::spawn(move || (&guest).write_all(&copy).unwrap());
        let reading = thread::spawn(move || {
            let mut all = Vec::new();
            (&reader).read_to_end(&mut all).unwrap();
            all
        });
        writer.join().unwrap();
        assert_eq!(relays.drain(PATIENCE), Drained::Fully);
        assert!(reading.join().unwrap() == sent);
    }

    #[test]
    fn end_of_input_reaches_the_guest_and_output_still_flows() {
        let (guest, ours) = pair();
        let (input, writer) = pair();
        let mut relays = Relays::new(home());
        relays.input(StreamKind::Stdin, input.into(), ours.try_clone().unwrap().into()).unwrap();
        (&writer).write_all(b"abc").unwrap();
        drop(writer);
        let mut all = Vec::new();
        (&guest).read_to_end(&mut all).unwrap();
        assert_eq!(all, b"abc");
        (&guest).write_all(b"still").unwrap();
        let mut answer = [0; 5];
        (&ours).read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"still");
    }

    #[test]
    fn reader_that_goes_away_closes_the_guests_stream() {
        let (guest, ours) = pair();
        let (out, reader) = pair();
        let mut relays = Relays::new(home());
        relays.output(StreamKind::Stdout, ours.into(), out.into()).unwrap();
        drop(reader);
        (&guest).write_all(b"x").unwrap();
        assert_eq!(relays.drain(PATIENCE), Drained::Fully);
        assert_eq!((&guest).write(b"y").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn guest_that_does_not_stop_is_given_up() {
        let (guest, ours) = pair();
        let (out, reader) = pair();
        let mut relays = Relays::new(home());
        relays.output(StreamKind::Stdout, ours.into(), out.into()).unwrap();
        let pouring = thread::spawn(move || while (&guest).write(&[b'y'; 4096]).is_ok() {});
        let reading = thread::spawn(move || io::copy(&mut &reader, &mut io::sink()));
        assert_eq!(relays.drain(Patience { bytes: 1 << 20, ..PATIENCE }), Drained::GaveUp);
        drop((relays, pouring, reading));
    }
}
