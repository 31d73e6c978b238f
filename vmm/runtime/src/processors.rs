//! Keeping a sandbox on some of the host's processors.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps this process, and every thread that it will have, on `wanted`, if that is any.
pub(crate) fn keep_on(wanted: &BTreeSet<u32>) -> io::Result<()> {
    if wanted.is_empty() { Ok(()) } else { Ok(sched_setaffinity(Pid::from_raw(0), &set(wanted)?)?) }
}

/// Moves all threads of another process.
pub(crate) fn move_to(process: i32, wanted: &BTreeSet<u32>) -> io::Result<()> {
    let wanted = set(wanted)?;
    // A thread has its maker's processors: who is made while the list is read is in the next one.
    let mut moved = BTreeSet::new();
    loop {
        let before = moved.len();
        for entry in fs::read_dir(format!("/proc/{process}/task"))? {
            let Some(thread) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if moved.insert(thread) {
                match sched_setaffinity(Pid::from_raw(thread), &wanted) {
                    Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        if moved.len() == before {
            return Ok(());
        }
    }
}

fn set(wanted: &BTreeSet<u32>) -> io::Result<CpuSet> {
    let mut set = CpuSet::new();
    for number in wanted {
        set.set(usize::try_from(*number).unwrap_or(usize::MAX))?;
    }
    Ok(set)
}
