//! How a device that cannot go on says so.

use std::error::Error;
use std::fmt::{self, Debug};
use std::sync::Arc;

/// Takes the reason why a device cannot go on.
///
/// Linux's drivers do not react to `DEVICE_NEEDS_RESET`: a device that merely went quiet would leave
/// a program asleep for ever. So the reason goes to the owner of the machine, who ends it.
#[derive(Clone)]
pub struct FailureSink {
    take: Arc<dyn Fn(String) + Send + Sync>,
}

impl FailureSink {
    /// A sink that calls `take` with one line for each failure, from the thread that met it.
    pub fn new(take: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { take: Arc::new(take) }
    }

    /// Tells that `device` cannot go on because of `error`.
    pub fn report(&self, device: &str, error: &dyn Error) {
        let mut line = format!("{device}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some errors show their cause themselves.
            if !line.ends_with(&text) {
                line = format!("{line}: {text}");
            }
            cause = error.source();
        }
        (self.take)(line);
    }
}

impl Debug for FailureSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureSink").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Fault {
        #[error("the queue is broken: {0}")]
        Shown(#[source] std::io::Error),
        #[error("the queue is broken")]
        Hidden(#[source] std::io::Error),
    }

    #[test]
    fn reason_is_one_line_with_each_cause_once() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let sink = FailureSink::new(move |line| heard.lock().unwrap().push(line));
        let cause = || std::io::Error::other("bad index");
        sink.report("virtio-rng", &Fault::Shown(cause()));
        sink.clone().report("virtio-rng", &Fault::Hidden(cause()));
        assert_eq!(*told.lock().unwrap(), ["virtio-rng: the queue is broken: bad index"; 2]);
    }
}
