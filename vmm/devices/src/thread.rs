//! The one way to start a thread of the machine.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Why a thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the thread {name}")]
pub struct ThreadError {
    name: String,
    #[source]
    source: io::Error,
}

/// A named thread that is told to stop, and joined, when this is dropped.
///
/// A panic in it does not take the process down: `failed` is called instead, so
/// that the owner can report it.
#[derive(Debug)]
pub struct Worker {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts `body`; it gets an event that is readable once it shall end.
    pub fn start<F, P>(name: &str, body: F, failed: P) -> Result<Self, ThreadError>
    where
        F: FnOnce(EventFd) + Send + 'static,
        P: FnOnce() + Send + 'static,
    {
        let error = |source| ThreadError { name: name.to_owned(), source };
        let stop = EventFd::new(EFD_NONBLOCK).map_err(error)?;
        let thread_stop = stop.try_clone().map_err(error)?;
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| body(thread_stop))).is_err() {
                    failed();
                }
            })
            .map_err(error)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A full counter means that the stop was signalled already.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // The panic, if there was one, has been reported by `failed`.
            let _ = thread.join();
        }
    }
}
