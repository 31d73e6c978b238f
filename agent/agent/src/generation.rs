//! A guest that goes on as another one: the machine was saved at a checkpoint, and restored, maybe many times.
//!
//! Whatever was random before that is the same in each of them, and the wall clock stands where it was. So the
//! host says at once what time it is and brings randomness of its own, before there is a container.

use std::io;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use vmrun_proto::{CHECKPOINT_PORT, CHECKPOINT_VARIABLE};

use crate::sys;

/// The least that the host has to bring, bytes: the size of the kernel's key.
const LEAST_ENTROPY: usize = 32;

/// More than there is of such memory; other memory that is free is zeros already.
const FORGOTTEN_BYTES: usize = 12 << 20;
const PAGE_BYTES: usize = 4096;

/// Whether the host wants the guest to stop at the checkpoint.
pub(crate) fn is_to_stop() -> bool {
    std::env::var_os(CHECKPOINT_VARIABLE).is_some()
}

/// Stops there; in which machine this returns is the host's affair.
pub(crate) fn stop() -> io::Result<()> {
    forget_what_is_free();
    sys::write_port(CHECKPOINT_PORT, 1)
}

/// The kernel gives out first what it got back last: what it needed for its boot, where the bytes of that still
/// stand. They would be saved, and each page of them be brought back before it is overwritten. A page of zeros is not
/// saved, and pages that are not are backed by huge ones.
fn forget_what_is_free() {
    let there = usize::try_from(rustix::system::sysinfo().freeram).unwrap_or(usize::MAX);
    let mut free = vec![0u8; FORGOTTEN_BYTES.min(there / 4)];
    for page in free.chunks_mut(PAGE_BYTES) {
        if let Some(byte) = std::hint::black_box(page).first_mut() {
            *byte = 0;
        }
    }
    drop(std::hint::black_box(free));
}

/// Becomes another guest: with other random numbers from here on, and at this time, ns since 1970.
pub(crate) fn begin(entropy: &[u8], realtime_ns: i64) -> io::Result<()> {
    if entropy.len() < LEAST_ENTROPY {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the host has sent too little entropy"));
    }
    sys::add_entropy(entropy)?;
    let seconds = realtime_ns.div_euclid(1_000_000_000);
    let nanoseconds = realtime_ns.rem_euclid(1_000_000_000);
    Ok(clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(seconds, nanoseconds))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_entropy_is_refused_before_anything_changes() {
        assert_eq!(begin(&[7; 31], 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
