//! The thread of a device that has one of its own.
//!
//! ```text
//!   device made ─▶ thread waits ─▶ serves one activation ─▶ waits …  ─▶ device dropped
//!                                        suspend ends it
//! ```
//!
//! It is there before the guest runs, or sees the device, since the driver's activation comes on a
//! vCPU's thread: that one may not start threads, and has no capability to pass on.

use std::error::Error;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::confine::Confinement;
use crate::failure::FailureSink;
use crate::thread::{ThreadError, ThreadFailure, Worker};
use crate::virtio::device::ActivateError;
use crate::virtio::notify::Interrupt;

/// Why the thread could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// There was no descriptor for it.
    #[error("cannot make the event that stops a device's thread: {0}")]
    Event(#[source] io::Error),
    /// The thread itself.
    #[error(transparent)]
    Thread(#[from] ThreadError),
}

/// What the thread gets when the driver is ready.
struct Session<Q> {
    queues: Q,
    interrupt: Interrupt,
    /// Takes the queues when the session is over.
    over: Sender<Q>,
}

/// The thread, which serves queues `Q`; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct SessionThread<Q> {
    device: &'static str,
    /// Of the session under way: gives its queues back when that is over.
    over: Option<Receiver<Q>>,
    /// Readable while the session under way shall end.
    stop: Arc<EventFd>,
    /// Goes before the thread is joined: without it the thread ends.
    sessions: Sender<Session<Q>>,
    _worker: Worker,
}

impl<Q: Send + 'static> SessionThread<Q> {
    /// Starts it for `device`. Each session is `serve`, which returns when its event is readable or the
    /// device cannot go on; `failures` hears why if the thread ends before its time.
    pub(super) fn start<E: Error>(
        name: &str,
        device: &'static str,
        class: impl Into<Confinement>,
        failures: FailureSink,
        mut serve: impl FnMut(&mut Q, &EventFd) -> Result<(), E> + Send + 'static,
    ) -> Result<Self, SessionError> {
        let stop = Arc::new(EventFd::new(EFD_NONBLOCK).map_err(SessionError::Event)?);
        let stopped = Arc::clone(&stop);
        let (sessions, incoming) = channel::<Session<Q>>();
        let work = move || {
            for Session { mut queues, interrupt, over } in incoming {
                match catch_unwind(AssertUnwindSafe(|| serve(&mut queues, &stopped))) {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => interrupt.fail(device, &error),
                    Err(panic) => interrupt.fail(device, &ThreadFailure::panicked(&*panic)),
                }
                // Whoever has started the session may be gone.
                let _ = over.send(queues);
            }
        };
        let failed = move |failure| failures.report(device, &failure);
        let worker = Worker::start(name, class, work, failed)?;
        Ok(Self { device, over: None, stop, sessions, _worker: worker })
    }

    /// Serves these queues until [`Self::stop`].
    pub(super) fn serve(&mut self, queues: Q, interrupt: Interrupt) -> Result<(), ActivateError> {
        let (open, over) = channel();
        let gone = |_| io::Error::other(format!("the thread of {} has ended", self.device));
        self.sessions.send(Session { queues, interrupt, over: open }).map_err(gone)?;
        self.over = Some(over);
        Ok(())
    }

    /// Ends the session under way, if there is one, waits for that, and gives its queues back.
    pub(super) fn stop(&mut self) -> Option<Q> {
        let over = self.over.take()?;
        // The counter, which is zero between sessions, has room for one.
        let _ = self.stop.write(1);
        // Fails when the thread has ended, and its owner has been told.
        let queues = over.recv().ok();
        let _ = self.stop.read();
        queues
    }

    /// Waits until the session under way is over by itself.
    #[cfg(test)]
    pub(super) fn await_end(&mut self) -> Option<Q> {
        self.over.take()?.recv().ok()
    }
}

impl<Q> Drop for SessionThread<Q> {
    fn drop(&mut self) {
        if let Some(over) = self.over.take() {
            let _ = self.stop.write(1);
            let _ = over.recv();
        }
    }
}
