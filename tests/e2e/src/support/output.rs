//! What a process writes, collected while it runs.

use std::io::{ErrorKind, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::wait::LIMIT;

#[derive(Debug, Default)]
struct Shared {
    bytes: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

/// Everything that came out of one stream so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    shared: Arc<Shared>,
}

impl Output {
    /// Collects from `source` until its end, on a thread of its own.
    pub(crate) fn collect(mut source: impl Read + Send + 'static) -> Self {
        let output = Self::default();
        let shared = Arc::clone(&output.shared);
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let count = match source.read(&mut buffer) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    // A terminal whose last user has gone gives an error.
                    Ok(0) | Err(_) => break,
                    Ok(count) => count,
                };
                shared.bytes.lock().unwrap().0.extend_from_slice(&buffer[..count]);
                shared.changed.notify_all();
            }
            shared.bytes.lock().unwrap().1 = true;
            shared.changed.notify_all();
        });
        output
    }

    /// A stream that nobody writes to.
    pub(crate) fn ended(self) -> Self {
        self.shared.bytes.lock().unwrap().1 = true;
        self
    }

    /// What is there now.
    pub(crate) fn so_far(&self) -> Vec<u8> {
        self.shared.bytes.lock().unwrap().0.clone()
    }

    /// Whether nobody writes to it any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.bytes.lock().unwrap().1
    }

    /// Waits until `text` has come at or after byte `from`; gives the position behind it.
    ///
    /// # Panics
    /// When the stream ends or the time is over before.
    #[track_caller]
    pub(crate) fn await_text(&self, from: usize, text: &str) -> usize {
        let deadline = Instant::now() + LIMIT;
        let mut bytes = self.shared.bytes.lock().unwrap();
        loop {
            if let Some(at) = find(&bytes.0[from.min(bytes.0.len())..], text.as_bytes()) {
                return from + at + text.len();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if bytes.1 || left.is_zero() {
                let found = String::from_utf8_lossy(&bytes.0).into_owned();
                // The collector goes on and may not find the lock poisoned.
                drop(bytes);
                panic!("gave up waiting for {text:?}; there was {found:?}");
            }
            bytes = self.shared.changed.wait_timeout(bytes, left).unwrap().0;
        }
    }

    /// Waits for the end of the stream and gives all of it; `None` when it does not end.
    pub(crate) fn whole(&self) -> Option<Vec<u8>> {
        self.whole_within(LIMIT)
    }

    /// The same for one that may take so long to end.
    pub(crate) fn whole_within(&self, limit: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        let mut bytes = self.shared.bytes.lock().unwrap();
        while !bytes.1 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            bytes = self.shared.changed.wait_timeout(bytes, left).unwrap().0;
        }
        Some(bytes.0.clone())
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}
