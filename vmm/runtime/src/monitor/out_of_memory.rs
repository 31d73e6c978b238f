//! When the guest tells that memory has run out.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::host_cgroup;

/// A guest may run out of memory as often as it likes. Once it has been told, the host takes that
/// in no more often than this, and once more at the end.
const PAUSE: Duration = Duration::from_secs(1);

/// What of it the host's kernel has counted.
#[derive(Debug, Default)]
pub(super) struct OutOfMemory {
    counted: Option<Instant>,
    owed: bool,
}

impl OutOfMemory {
    /// It has run out again. `cgroup` is the container's on the host.
    pub(super) fn ran_out(&mut self, cgroup: Option<&Path>) {
        self.owed = true;
        if self.counted.is_none_or(|counted| counted.elapsed() >= PAUSE) {
            self.end(cgroup);
        }
    }

    /// Counts what is owed: the container ends.
    pub(super) fn end(&mut self, cgroup: Option<&Path>) {
        let (true, Some(cgroup)) = (std::mem::take(&mut self.owed), cgroup) else { return };
        // Where it cannot be counted engines see the exit code alone, as the documents say.
        let _ = host_cgroup::count_kill(cgroup);
        self.counted = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_too_soon_is_owed_until_the_end() {
        // There is no such cgroup: what matters is when it is tried.
        let cgroup = Some(Path::new("vmrun-test/none"));
        let mut memory = OutOfMemory::default();
        memory.end(cgroup);
        assert_eq!(memory.counted, None);
        memory.ran_out(cgroup);
        let first = memory.counted.unwrap();
        memory.ran_out(cgroup);
        assert!(memory.owed && memory.counted == Some(first));
        memory.end(cgroup);
        assert!(!memory.owed && memory.counted > Some(first));
    }
}
