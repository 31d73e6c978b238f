//! How often the kernel had to kill a process of a container for want of memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// `memory.events` of a container's cgroup, which counts for all that lie below it. The kernel
/// tells a change as a priority event.
#[derive(Debug)]
pub(crate) struct MemoryEvents {
    file: File,
    kills: u64,
}

impl MemoryEvents {
    /// Those of the cgroup at `directory`; all that was before is known.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let file = File::open(directory.join("memory.events"))?;
        let kills = kills(&file)?;
        Ok(Self { file, kills })
    }

    /// How many there are in all, if there are more than the last time.
    pub(crate) fn more_kills(&mut self) -> Option<u64> {
        // A container that has removed its cgroup has no count any more.
        let kills = kills(&self.file).ok()?;
        let more = kills > self.kills;
        self.kills = kills;
        more.then_some(kills)
    }
}

impl AsFd for MemoryEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn kills(file: &File) -> io::Result<u64> {
    // Six short lines.
    let mut buffer = [0; 512];
    let count = file.read_at(&mut buffer, 0)?;
    let text = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    Ok(line.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_kills_that_are_new_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(directory.path().join("memory.events"), text).unwrap();
        write("low 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n");
        let mut events = MemoryEvents::open(directory.path()).unwrap();
        assert_eq!(events.more_kills(), None);
        write("low 0\nmax 9\noom 3\noom_kill 3\noom_group_kill 0\n");
        assert_eq!(events.more_kills(), Some(3));
        assert_eq!(events.more_kills(), None);
        assert!(MemoryEvents::open(Path::new("/nowhere")).is_err());
    }
}
