//! How far the guest has come, told to a host that asks (see `vmrun_proto::GuestMark`).

use std::sync::atomic::{AtomicBool, Ordering};

use vmrun_proto::{GuestMark, MARK_PORT, MARK_VARIABLE};

use crate::sys;

/// Whether the host asks.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Looks whether the host asks; until then nothing is told.
pub(crate) fn begin() {
    if std::env::var_os(MARK_VARIABLE).is_some() {
        ASKED.store(true, Ordering::Relaxed);
        tell(GuestMark::AgentBegins);
    }
}

/// Tells the host, if it asks.
pub(crate) fn tell(mark: GuestMark) {
    if ASKED.load(Ordering::Relaxed) && sys::write_port(MARK_PORT, mark.code()).is_err() {
        // A kernel without `CONFIG_X86_IOPL_IOPERM`: its marks are missing in the timeline.
        ASKED.store(false, Ordering::Relaxed);
    }
}
