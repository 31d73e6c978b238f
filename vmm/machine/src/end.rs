//! How a machine ends by itself, and how its owner learns of it.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmrun_devices::ConsoleLog;

/// How a machine ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEnd {
    /// The guest asked for a reset: an orderly end if the agent had said so before.
    Reset,
    /// The guest kernel panicked; the console says why.
    Panicked,
    /// A device cannot go on, as a rule since the guest broke its rules; one line.
    Device(String),
    /// KVM or a thread of the machine failed; one line.
    Failed(String),
}

impl std::fmt::Display for MachineEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reset => f.write_str("the guest reset itself"),
            Self::Panicked => f.write_str("the guest kernel panicked"),
            Self::Device(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

/// Set once, by whichever thread sees the end first.
#[derive(Clone, Debug)]
pub(crate) struct EndSignal {
    first: Arc<OnceLock<MachineEnd>>,
    event: Arc<EventFd>,
    console: ConsoleLog,
}

impl EndSignal {
    /// What the guest's console does not tell of the end is added to `console`.
    pub(crate) fn new(console: ConsoleLog) -> std::io::Result<Self> {
        Ok(Self { first: Arc::default(), event: Arc::new(EventFd::new(EFD_NONBLOCK)?), console })
    }

    pub(crate) fn set(&self, end: MachineEnd) {
        let line = match &end {
            MachineEnd::Device(why) | MachineEnd::Failed(why) => Some(why.clone()),
            MachineEnd::Reset | MachineEnd::Panicked => None,
        };
        if self.first.set(end).is_ok() {
            if let Some(line) = line {
                self.console.note(&line);
            }
            // An eventfd that was never written to has room for one.
            let _ = self.event.write(1);
        }
    }

    pub(crate) fn get(&self) -> Option<&MachineEnd> {
        self.first.get()
    }

    /// Readable once the end is set.
    #[allow(unsafe_code)]
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is owned by `self.event`, which the returned
        // borrow keeps alive.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn first_end_counts_and_a_failure_is_on_the_console() {
        let directory = tempfile::tempdir().unwrap();
        let console = ConsoleLog::create(&directory.path().join("console.log")).unwrap();
        console.clone().write_all(b"half a line").unwrap();
        let end = EndSignal::new(console.clone()).unwrap();
        assert_eq!(end.get(), None);
        end.set(MachineEnd::Device("virtio-rng: it is broken".to_owned()));
        end.set(MachineEnd::Failed("an echo".to_owned()));
        assert_eq!(end.event.read().unwrap(), 1);
        assert_eq!(end.get(), Some(&MachineEnd::Device("virtio-rng: it is broken".to_owned())));
        assert_eq!(console.tail(2), ["half a line", "vmrun: virtio-rng: it is broken"]);
    }
}
