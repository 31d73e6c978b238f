//! What a process holds in memory.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::MeasureError;

/// In bytes, from `/proc/<pid>/smaps_rollup` (`proc(5)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Its share of what it has, where others have it too.
    pub proportional: u64,
    /// What nobody else has.
    pub private: u64,
    /// What others have too.
    pub shared: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Result<Self, MeasureError> {
        let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
        let text = fs::read_to_string(&path).map_err(MeasureError::file("read", path))?;
        Ok(Self::parse(&text))
    }

    fn parse(rollup: &str) -> Self {
        let sum = |names: &[&str]| -> u64 {
            let lines = rollup.lines().filter_map(|line| line.split_once(':'));
            let mine = lines.filter(|(name, _)| names.contains(name));
            mine.filter_map(|(_, value)| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
                .sum::<u64>()
                * 1024
        };
        Self {
            proportional: sum(&["Pss"]),
            private: sum(&["Private_Clean", "Private_Dirty", "Private_Hugetlb"]),
            shared: sum(&["Shared_Clean", "Shared_Dirty", "Shared_Hugetlb"]),
        }
    }
}

/// Bytes that the host could give out, by its own estimate.
pub(crate) fn available() -> Result<u64, MeasureError> {
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).map_err(MeasureError::file("read", path))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap_or_default();
    Ok(line.trim().strip_suffix("kB").and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
        * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollup_is_read() {
        let text = "00400000-7fff ---p 00000000 00:00 0 [rollup]\nRss: 12 kB\nPss:        7 kB\nPss_Anon: 1 kB\n\
                    Private_Clean: 1 kB\nPrivate_Dirty: 2 kB\nShared_Clean: 9 kB\n";
        let memory = Memory { proportional: 7 << 10, private: 3 << 10, shared: 9 << 10 };
        assert_eq!(Memory::parse(text), memory);
        assert!(Memory::of(std::process::id()).unwrap().private > 0);
        assert!(available().unwrap() > 0);
    }
}
