//! Where the time of a start goes.
//!
//! With `VMRUN_TIMELINE=FILE` in the environment each process of a start appends
//! one line a mark to FILE: nanoseconds of `CLOCK_MONOTONIC`, a space, the mark.
//! `make bench-boot` reads it. Without the variable a mark costs nothing but a
//! look at it.

use std::fs::OpenOptions;
use std::io::Write;

use nix::time::{ClockId, clock_gettime};

const VARIABLE: &str = "VMRUN_TIMELINE";

/// Says that the start has come to `mark`.
pub fn mark(mark: &str) {
    let Some(path) = std::env::var_os(VARIABLE) else { return };
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return };
    let line = format!("{} {mark}\n", i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec()));
    // A measurement that cannot be written must not stop what is measured.
    let _ = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
}
