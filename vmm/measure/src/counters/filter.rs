//! Filters of tracepoints.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;

use perf_event::Counter;

/// `PERF_EVENT_IOC_SET_FILTER` of `linux/perf_event.h`.
const SET_FILTER: nix::libc::c_ulong = 0x4008_2406;

/// Lets a counter count the events alone for which the filter holds (Documentation/trace/events.rst, §5).
pub(super) fn set(counter: &Counter, filter: &str) -> io::Result<()> {
    let filter = CString::new(filter)?;
    // SAFETY: the kernel copies the text, which ends with a zero byte, before the call returns.
    match unsafe { nix::libc::ioctl(counter.as_raw_fd(), SET_FILTER, filter.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Holds where the field is one of these values.
pub(super) fn any_of(field: &str, values: &[u32]) -> String {
    let terms: Vec<_> = values.iter().map(|value| format!("{field} == {value:#x}")).collect();
    terms.join(" || ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_names_each_value() {
        assert_eq!(any_of("exit_reason", &[0x400]), "exit_reason == 0x400");
        assert_eq!(any_of("exit_reason", &[1, 0x7b]), "exit_reason == 0x1 || exit_reason == 0x7b");
    }
}
