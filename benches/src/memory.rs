//! What a process holds for itself alone.

use std::error::Error;
use std::fs;

/// Private memory of process `pid` in bytes, without the mapping of guest
/// memory: the largest anonymous one of at least `guest_bytes`.
pub(crate) fn private_besides_guest(pid: u32, guest_bytes: u64) -> Result<u64, Box<dyn Error>> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut private = 0;
    let mut guest = false;
    let mut seen_guest = false;
    for line in smaps.lines() {
        if let Some(size) = kib(line, "Size:") {
            guest = size * 1024 >= guest_bytes;
            seen_guest |= guest;
        }
        for field in ["Private_Clean:", "Private_Dirty:"] {
            if let Some(size) = kib(line, field).filter(|_| !guest) {
                private += size * 1024;
            }
        }
    }
    if seen_guest { Ok(private) } else { Err("the monitor has no mapping as large as guest memory".into()) }
}

fn kib(line: &str, field: &str) -> Option<u64> {
    line.strip_prefix(field)?.trim().strip_suffix("kB")?.trim().parse().ok()
}
