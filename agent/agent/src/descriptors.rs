//! How many descriptors the agent may have: every process with its streams takes
//! about seven, and the kernel's default is used up by some hundred of them.
//!
//! The processes of containers have nothing of it.

use std::fs;
use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Soft and hard, as the kernel gave them to the agent.
static AT_BOOT: OnceLock<(u64, u64)> = OnceLock::new();

/// Lets the agent have as many as there can be.
pub(crate) fn raise_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let _ = AT_BOOT.set((soft, hard));
    let most = fs::read_to_string("/proc/sys/fs/nr_open")?.trim().parse().map_err(io::Error::other)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// Gives this process, which becomes another's, what the agent had at first.
pub(crate) fn restore_limit() -> io::Result<()> {
    let Some((soft, hard)) = AT_BOOT.get() else { return Ok(()) };
    Ok(setrlimit(Resource::RLIMIT_NOFILE, *soft, *hard)?)
}
