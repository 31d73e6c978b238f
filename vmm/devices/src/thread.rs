//! The one way to start a thread of the machine.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crate::confine::{ConfineError, Confinement, ThreadClass, confine};

/// Why a thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the thread {name}")]
pub struct ThreadError {
    name: String,
    #[source]
    source: io::Error,
}

/// Why a thread ended before its work was done.
#[derive(Debug, thiserror::Error)]
pub enum ThreadFailure {
    /// A bug.
    #[error("it panicked: {0}")]
    Panicked(String),
    /// It did not begin.
    #[error(transparent)]
    Confine(#[from] ConfineError),
}

impl ThreadFailure {
    /// What a caught panic said.
    pub fn panicked(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self::Panicked(text.unwrap_or("it did not say why").replace('\n', " "))
    }
}

/// Confines the calling thread, for good: for those that nobody joins.
pub fn confine_this_thread(class: ThreadClass) -> Result<(), ConfineError> {
    confine(&class.into())
}

/// A named thread that is confined to what its class needs, and joined when this is dropped.
///
/// Whoever owns it tells it to end before that. A panic in it does not take the process down:
/// `failed` is called instead, so that the owner can report it.
#[derive(Debug)]
pub struct Worker {
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts `body` as a thread of a class. The starter must not be confined itself.
    pub fn start<F, P>(
        name: &str,
        to: impl Into<Confinement>,
        body: F,
        failed: P,
    ) -> Result<Self, ThreadError>
    where
        F: FnOnce() + Send + 'static,
        P: FnOnce(ThreadFailure) + Send + 'static,
    {
        let to = to.into();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let ran = catch_unwind(AssertUnwindSafe(|| confine(&to).map(|()| body())));
                match ran {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => failed(error.into()),
                    Err(panic) => failed(ThreadFailure::panicked(&*panic)),
                }
            })
            .map_err(|source| ThreadError { name: name.to_owned(), source })?;
        Ok(Self { thread: Some(thread) })
    }

    /// The thread, to be woken or signalled.
    pub fn handle(&self) -> Option<&JoinHandle<()>> {
        self.thread.as_ref()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // The panic, if there was one, has been reported by `failed`.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_is_told_in_its_own_words_on_one_line() {
        let caught = |body: fn()| {
            let panic = catch_unwind(body).unwrap_err();
            ThreadFailure::panicked(&*panic).to_string()
        };
        assert_eq!(caught(|| panic!("plain")), "it panicked: plain");
        assert_eq!(caught(|| panic!("{}\nlines", 2)), "it panicked: 2 lines");
        assert_eq!(caught(|| std::panic::panic_any(7)), "it panicked: it did not say why");
    }
}
