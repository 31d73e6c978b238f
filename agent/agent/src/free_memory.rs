//! What the guest's kernel has free goes back to the host, by reports to a balloon that the host has plugged in.

use std::fs;

use crate::late_device;

/// Which part of a zone's pages the CPUs may hold back. The kernel reports what its buddy allocator has; what is freed goes to
/// lists of the CPUs first, which hold up to an eighth of all memory unless this is given, and let go of it within minutes.
const HELD_BACK: &str = "/proc/sys/vm/percpu_pagelist_high_fraction";

/// A thousandth, and at least four batches of a CPU's list: 1 MiB.
const THOUSANDTH: &str = "1000";

/// Has the kernel find the balloon, and hold little back.
pub(crate) fn give_back(device: &str, announcement: &str) -> Result<(), String> {
    late_device::bind(device, announcement)
        .map_err(|error| format!("cannot bind the balloon at {device}: {error}"))?;
    fs::write(HELD_BACK, THOUSANDTH)
        .map_err(|error| format!("cannot write {THOUSANDTH} to {HELD_BACK}: {error}"))
}
