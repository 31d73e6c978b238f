//! Threads that wait for locks of the host, and start those that wait for its disks.
//!
//! ```text
//!   file server ── wait, cancel ─▶ dispatcher ── starts ─▶ waiter: in fcntl or flock
//!        ▲                             └──── signals ────▶    │
//!        └──────────────── granted, or ended, and an event ◀──┘
//! ```
//!
//! Nothing tells that a lock of the host is free but the call that waits for it, so each wait has a
//! thread, for as long as it takes. The dispatcher is there from the start, and starts the others:
//! nobody else who is there later may start threads.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, Builder, JoinHandle, ThreadId};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::super::syncs::Shared;
use super::host::Wanted;
use super::table::Ticket;
use crate::confine::ThreadClass;
use crate::thread::{ThreadError, Worker};

/// A waiter does one call.
const STACK_BYTES: usize = 64 << 10;

/// How long a waiter that is to end has for that before it is signalled again: the first signal may
/// have come just before its call.
const SIGNAL_AGAIN: Duration = Duration::from_millis(1);

/// What the dispatcher is told.
enum Order {
    Wait(Ticket, Wanted),
    Cancel(Ticket),
    /// This thread, which has waited for that, is about to end. The next may wait for it already.
    Ended(Ticket, ThreadId),
    /// A thread for these.
    Sync(Arc<Shared>),
    End,
}

/// A wait that is over.
#[derive(Debug)]
pub(super) struct Ended {
    /// Which.
    pub(super) ticket: Ticket,
    pub(super) result: io::Result<()>,
}

/// The threads.
#[derive(Debug)]
pub(super) struct Waiters {
    orders: Sender<Order>,
    ended: Mutex<Receiver<Ended>>,
    event: Arc<EventFd>,
    _dispatcher: Worker,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wait(ticket, wanted) => write!(f, "Wait({ticket}, {wanted:?})"),
            Self::Cancel(ticket) => write!(f, "Cancel({ticket})"),
            Self::Ended(ticket, thread) => write!(f, "Ended({ticket}, {thread:?})"),
            Self::Sync(_) => f.write_str("Sync"),
            Self::End => f.write_str("End"),
        }
    }
}

impl Waiters {
    pub(super) fn start(
        failed: impl FnOnce(crate::thread::ThreadFailure) + Send + 'static,
    ) -> Result<Self, LocksError> {
        // Before there are vCPUs, which put a handler of their own in its place: any interrupts a call.
        register_signal_handler(SIGRTMIN(), nothing).map_err(|error| LocksError::Signal(error.into()))?;
        let event = Arc::new(EventFd::new(EFD_NONBLOCK).map_err(LocksError::Event)?);
        let (orders, incoming) = channel();
        let (outgoing, ended) = channel();
        let results = Results { outgoing, event: Arc::clone(&event), orders: orders.clone() };
        let dispatcher = Dispatcher { incoming, results, running: HashMap::new() };
        let worker = Worker::start("vmm-locks", ThreadClass::LOCKS, move || dispatcher.run(), failed)?;
        Ok(Self { orders, ended: Mutex::new(ended), event, _dispatcher: worker })
    }

    /// Starts a thread that does what takes as long as a disk. It ends by itself.
    pub(super) fn sync(&self, jobs: Arc<Shared>) {
        if let Err(SendError(Order::Sync(jobs))) = self.orders.send(Order::Sync(jobs)) {
            jobs.without_a_thread();
        }
    }

    /// Readable while waits have ended that nobody took.
    pub(super) fn event(&self) -> &Arc<EventFd> {
        &self.event
    }

    /// Waits under the number `ticket`.
    pub(super) fn wait(&self, ticket: Ticket, wanted: Wanted) -> io::Result<()> {
        self.order(Order::Wait(ticket, wanted))
    }

    /// Ends the wait `ticket` with `EINTR`, unless it is over.
    pub(super) fn cancel(&self, ticket: Ticket) -> io::Result<()> {
        self.order(Order::Cancel(ticket))
    }

    fn order(&self, order: Order) -> io::Result<()> {
        self.orders.send(order).map_err(|_| io::Error::from_raw_os_error(libc::ENOLCK))
    }

    fn ended(&self) -> MutexGuard<'_, Receiver<Ended>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A wait that is over, if there is one.
    pub(super) fn take_ended(&self) -> Option<Ended> {
        // Fails if it was not written to, which is no matter.
        let _ = self.event.read();
        self.ended().try_recv().ok()
    }

    /// The next wait that is over, when it is; none if there is nobody to wait.
    pub(super) fn next_ended(&self) -> Option<Ended> {
        self.ended().recv().ok()
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        // The dispatcher is joined next; if it is gone already, nothing waits.
        let _ = self.orders.send(Order::End);
    }
}

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Why locks cannot be waited for.
#[derive(Debug, thiserror::Error)]
pub enum LocksError {
    /// Files could not be opened anew.
    #[error("cannot open /proc/self/fd: {0}")]
    Descriptors(#[source] io::Error),
    /// There was no descriptor for it.
    #[error("cannot make the event that tells of locks: {0}")]
    Event(#[source] io::Error),
    /// Waits could not be ended.
    #[error("cannot install the signal that ends a wait for a lock: {0}")]
    Signal(#[source] io::Error),
    /// Its thread could not be started.
    #[error(transparent)]
    Thread(#[from] ThreadError),
}

/// Where a wait that is over is told.
#[derive(Clone)]
struct Results {
    outgoing: Sender<Ended>,
    event: Arc<EventFd>,
    orders: Sender<Order>,
}

impl Results {
    fn tell(&self, ticket: Ticket, result: io::Result<()>) {
        // Nobody listens any more once the machine ends.
        let _ = self.outgoing.send(Ended { ticket, result });
        let _ = self.event.write(1);
    }
}

struct Running {
    thread: JoinHandle<()>,
    cancelled: Arc<AtomicBool>,
    /// Disconnected once the wait is over.
    over: Receiver<()>,
}

struct Dispatcher {
    incoming: Receiver<Order>,
    results: Results,
    running: HashMap<Ticket, Running>,
}

impl Dispatcher {
    fn run(mut self) {
        // It has a sender itself, so there is always a next one.
        while let Ok(order) = self.incoming.recv() {
            match order {
                Order::Wait(ticket, wanted) => self.start(ticket, wanted),
                Order::Cancel(ticket) => self.cancel(ticket),
                Order::Ended(ticket, thread) => {
                    if self.running.get(&ticket).is_some_and(|running| running.thread.thread().id() == thread)
                    {
                        self.join(ticket);
                    }
                }
                Order::Sync(jobs) => start_syncing(&jobs),
                Order::End => break,
            }
        }
        for (_, running) in self.running.drain() {
            running.end();
            let _ = running.thread.join();
        }
    }

    /// Of a thread that has waited.
    fn join(&mut self, ticket: Ticket) {
        if let Some(running) = self.running.remove(&ticket) {
            // It has nothing left to do, and does not panic.
            let _ = running.thread.join();
        }
    }

    fn start(&mut self, ticket: Ticket, wanted: Wanted) {
        // Who waits anew under its number has been told of the end of the wait before.
        self.join(ticket);
        let cancelled = Arc::new(AtomicBool::new(false));
        let (open, over) = mpsc::channel();
        let (flag, results) = (Arc::clone(&cancelled), self.results.clone());
        let wait = move || {
            let result = wait(&wanted, &flag);
            drop((wanted, open));
            results.tell(ticket, result);
            // Nobody is left to join this thread once the machine ends.
            let _ = results.orders.send(Order::Ended(ticket, thread::current().id()));
        };
        match Builder::new().name("vmm-lock".to_owned()).stack_size(STACK_BYTES).spawn(wait) {
            Ok(thread) => drop(self.running.insert(ticket, Running { thread, cancelled, over })),
            // There is no thread left to wait in. The guest's kernel asks again.
            Err(_) => self.results.tell(ticket, Err(io::Error::from_raw_os_error(libc::EAGAIN))),
        }
    }

    fn cancel(&self, ticket: Ticket) {
        if let Some(running) = self.running.get(&ticket) {
            running.end();
        }
    }
}

/// Nobody joins it: its call may take as long as the host's disk is away.
fn start_syncing(jobs: &Arc<Shared>) {
    let works = Arc::clone(jobs);
    let started =
        Builder::new().name("vmm-sync".to_owned()).stack_size(STACK_BYTES).spawn(move || works.work());
    if started.is_err() {
        jobs.without_a_thread();
    }
}

impl Running {
    /// Ends the wait, and returns when it is over.
    fn end(&self) {
        self.cancelled.store(true, Ordering::Release);
        loop {
            // Fails only if the thread is gone.
            let _ = self.thread.kill(SIGRTMIN());
            match self.over.recv_timeout(SIGNAL_AGAIN) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

fn wait(wanted: &Wanted, cancelled: &AtomicBool) -> io::Result<()> {
    loop {
        if cancelled.load(Ordering::Acquire) {
            return Err(io::Error::from_raw_os_error(libc::EINTR));
        }
        match wanted.wait() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ranges::Mode;
    use super::*;

    #[test]
    fn end_of_a_wait_is_not_taken_for_that_of_the_next_under_its_number() {
        let waiters = Waiters::start(|why| panic!("{why}")).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let locked = file.reopen().unwrap();
        locked.lock().unwrap();
        for _ in 0..2 {
            waiters.wait(1, Wanted::Flock(file.reopen().unwrap(), Mode::Exclusive)).unwrap();
            // What a thread before may say late.
            waiters.order(Order::Ended(1, thread::current().id())).unwrap();
            waiters.cancel(1).unwrap();
            let ended = waiters.next_ended().unwrap();
            assert_eq!((ended.ticket, ended.result.unwrap_err().raw_os_error()), (1, Some(libc::EINTR)));
        }
    }
}
