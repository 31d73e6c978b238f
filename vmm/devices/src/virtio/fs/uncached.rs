//! A directory of which the guest keeps nothing: what others change there it sees at once.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use virtiofsd::filesystem::{Entry, OpenOptions};
use virtiofsd::fuse::ROOT_ID;

use super::ids::Node;

/// The nodes in a directory, and below it.
#[derive(Debug)]
pub(super) struct Uncached {
    /// The directory, which is in the root.
    name: CString,
    /// With how often the guest has been told of each.
    told: Mutex<HashMap<Node, u64>>,
}

impl Uncached {
    /// In the directory of this name in the root.
    pub(super) fn below(name: CString) -> Self {
        Self { name, told: Mutex::default() }
    }

    /// What was found or made in `parent` under `name`.
    pub(super) fn entry(&self, parent: Node, name: &CStr, mut entry: Entry) -> Entry {
        let mut told = self.told();
        let is_it = parent == ROOT_ID && name == self.name.as_c_str();
        if entry.inode != 0 && (is_it || told.contains_key(&parent)) {
            *told.entry(entry.inode).or_default() += 1;
            entry.attr_timeout = Duration::ZERO;
            entry.entry_timeout = Duration::ZERO;
        }
        entry
    }

    /// For how long attributes of `node` count.
    pub(super) fn valid(&self, node: Node, valid: Duration) -> Duration {
        if self.told().contains_key(&node) { Duration::ZERO } else { valid }
    }

    /// How `node` is opened.
    pub(super) fn options(&self, node: Node, options: OpenOptions) -> OpenOptions {
        if self.told().contains_key(&node) {
            (options - OpenOptions::KEEP_CACHE) | OpenOptions::DIRECT_IO
        } else {
            options
        }
    }

    pub(super) fn forget(&self, node: Node, count: u64) {
        let mut told = self.told();
        if let Some(left) = told.get_mut(&node) {
            *left = left.saturating_sub(count);
            if *left == 0 {
                told.remove(&node);
            }
        }
    }

    pub(super) fn clear(&self) {
        self.told().clear();
    }

    fn told(&self) -> MutexGuard<'_, HashMap<Node, u64>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use virtiofsd::fuse::Attr;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn entry(inode: Node) -> Entry {
        Entry { inode, generation: 0, attr: Attr::default(), attr_timeout: SECOND, entry_timeout: SECOND }
    }

    fn uncached() -> Uncached {
        Uncached::below(c"volumes".to_owned())
    }

    #[test]
    fn what_is_below_the_directory_is_not_kept_and_the_rest_is() {
        let uncached = uncached();
        assert_eq!(uncached.entry(ROOT_ID, c"rootfs", entry(2)).entry_timeout, SECOND);
        assert_eq!(uncached.entry(ROOT_ID, c"volumes", entry(3)).attr_timeout, Duration::ZERO);
        assert_eq!(uncached.entry(3, c"0", entry(4)).entry_timeout, Duration::ZERO);
        assert_eq!(uncached.entry(2, c"volumes", entry(5)).entry_timeout, SECOND);
        assert_eq!([2, 3, 4].map(|node| uncached.valid(node, SECOND).as_secs()), [1, 0, 0]);
        assert_eq!(uncached.options(4, OpenOptions::KEEP_CACHE), OpenOptions::DIRECT_IO);
        assert_eq!(uncached.options(2, OpenOptions::KEEP_CACHE), OpenOptions::KEEP_CACHE);
    }

    #[test]
    fn node_that_was_told_of_again_is_forgotten_with_the_last_time() {
        let uncached = uncached();
        uncached.entry(ROOT_ID, c"volumes", entry(3));
        uncached.entry(ROOT_ID, c"volumes", entry(3));
        uncached.forget(3, 1);
        assert_eq!(uncached.valid(3, SECOND), Duration::ZERO);
        uncached.forget(3, 1);
        assert_eq!(uncached.valid(3, SECOND), SECOND);
    }
}
