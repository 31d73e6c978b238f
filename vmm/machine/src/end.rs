//! How a machine ends by itself, and how its owner learns of it.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// How a machine ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEnd {
    /// The guest asked for a reset: an orderly end if the agent had said so before.
    Reset,
    /// The guest kernel panicked; the console says why.
    Panicked,
    /// KVM or a thread of the machine failed; one line.
    Failed(String),
}

impl std::fmt::Display for MachineEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reset => f.write_str("the guest reset itself"),
            Self::Panicked => f.write_str("the guest kernel panicked"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// Set once, by whichever thread sees the end first.
#[derive(Clone, Debug)]
pub(crate) struct EndSignal {
    first: Arc<OnceLock<MachineEnd>>,
    event: Arc<EventFd>,
}

impl EndSignal {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { first: Arc::default(), event: Arc::new(EventFd::new(EFD_NONBLOCK)?) })
    }

    pub(crate) fn set(&self, end: MachineEnd) {
        if self.first.set(end).is_ok() {
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
