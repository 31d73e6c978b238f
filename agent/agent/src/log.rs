//! The agent's log: lines in the kernel's log, which the host writes to the
//! container's `console.log`.
//!
//! Level 3 (error) reaches the console, level 6 (information) stays in the
//! kernel's buffer unless the guest boots with a higher console log level.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

use crate::{report, sys};

/// The kernel cuts a record at about 1 KiB.
const MAX_LINE_BYTES: usize = 900;

/// The one that Rust's runtime uses.
const PANIC_EXIT_CODE: i32 = 101;

static KERNEL_LOG: OnceLock<Option<File>> = OnceLock::new();

fn kernel_log() -> Option<&'static File> {
    let open = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok();
    KERNEL_LOG.get_or_init(open).as_ref()
}

/// The open kernel log, for a child that closes everything else.
pub(crate) fn descriptor() -> Option<BorrowedFd<'static>> {
    kernel_log().map(File::as_fd)
}

/// Something the host should see: it is shown on the console.
pub(crate) fn warn(line: fmt::Arguments<'_>) {
    write_line('3', line);
}

/// Something that helps who looks for a cause later.
pub(crate) fn info(line: fmt::Arguments<'_>) {
    write_line('6', line);
}

fn write_line(level: char, line: fmt::Arguments<'_>) {
    let Some(mut kernel_log) = kernel_log() else { return };
    let mut record = String::new();
    if write!(record, "<{level}>vmrun-agent: {line}").is_err() {
        return;
    }
    let mut record = record.replace('\n', "; ");
    let end = (0..=MAX_LINE_BYTES.min(record.len())).rev().find(|end| record.is_char_boundary(*end));
    record.truncate(end.unwrap_or(0));
    record.push('\n');
    // Where the log itself cannot be written there is no place left to say so.
    let _ = kernel_log.write_all(record.as_bytes());
}

/// A panic ends the process, whatever the profile says: a maker must not unwind
/// into the agent's loop. The message reaches the kernel log first (and the agent,
/// when a maker panics).
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        warn(format_args!("panic: {panic}"));
        report::send_panic(&panic.to_string());
        sys::exit_now(PANIC_EXIT_CODE);
    }));
}
