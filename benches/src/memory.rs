//! What a process holds for itself alone.

use std::error::Error;
use std::fs;

/// A mapping of a process, from `/proc/<pid>/smaps`; addresses and sizes in bytes.
#[derive(Debug, Default)]
struct Mapping {
    start: u64,
    end: u64,
    writable: bool,
    /// `Private_Clean` and `Private_Dirty`.
    private: u64,
}

/// Private memory of process `pid` in bytes, without that of guest memory: the
/// writable mappings side by side, anonymous and of the kernel's file, that are
/// `guest_bytes` together.
pub(crate) fn private_besides_guest(pid: u32, guest_bytes: u64) -> Result<u64, Box<dyn Error>> {
    let mappings = mappings(&fs::read_to_string(format!("/proc/{pid}/smaps"))?)?;
    let guest = (0..mappings.len())
        .find_map(|first| side_by_side(&mappings[first..], guest_bytes))
        .ok_or("the monitor has no mappings side by side that are as large as guest memory")?;
    Ok(private(&mappings) - private(guest))
}

fn private(mappings: &[Mapping]) -> u64 {
    mappings.iter().map(|mapping| mapping.private).sum()
}

/// The first of `mappings`, if they are writable without a gap and one of them ends after `bytes`.
fn side_by_side(mappings: &[Mapping], bytes: u64) -> Option<&[Mapping]> {
    let start = mappings.first()?.start;
    let mut end = start;
    let joined = mappings
        .iter()
        .take_while(|next| next.writable && std::mem::replace(&mut end, next.end) == next.start);
    let count = joined.count();
    let last = mappings[..count].iter().position(|mapping| mapping.end - start == bytes)?;
    Some(&mappings[..=last])
}

fn mappings(smaps: &str) -> Result<Vec<Mapping>, Box<dyn Error>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = mapping(line) {
            mappings.push(mapping);
        } else if let Some(size) = kib(line, "Private_Clean:").or_else(|| kib(line, "Private_Dirty:")) {
            mappings.last_mut().ok_or("smaps begins without a mapping")?.private += size * 1024;
        }
    }
    Ok(mappings)
}

/// A mapping's first line: `7f5a8c600000-7f5a8d600000 rw-p ...`.
fn mapping(line: &str) -> Option<Mapping> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let address = |hexadecimal| u64::from_str_radix(hexadecimal, 16).ok();
    Some(Mapping { start: address(start)?, end: address(end)?, writable: rest.starts_with("rw"), private: 0 })
}

fn kib(line: &str, field: &str) -> Option<u64> {
    line.strip_prefix(field)?.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-2000 rw-p 00000000 00:00 0 [heap]
Private_Clean:         1 kB
Private_Dirty:         2 kB
3000-5000 rw-p 00000000 00:00 0
Private_Dirty:         8 kB
5000-6000 rw-p 00293000 00:1b 2 /vmrun
Private_Dirty:         4 kB
6000-7000 rw-p 00000000 00:00 0
VmFlags: rd wr
7000-9000 r--p 00000000 00:00 0
Private_Clean:        16 kB
";

    #[test]
    fn guest_memory_may_be_several_mappings_but_has_no_gaps() {
        let mappings = mappings(SMAPS).unwrap();
        assert_eq!(private(&mappings), 31 * 1024);
        let found = |bytes| (0..mappings.len()).find_map(|first| side_by_side(&mappings[first..], bytes));
        assert_eq!(found(0x4000).map(private), Some(12 * 1024));
        assert_eq!(found(0x5000).map(private), None);
        assert_eq!(found(0x6000).map(private), None);
    }
}
