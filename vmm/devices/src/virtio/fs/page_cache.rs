//! Which files the guest may keep in its page cache when it opens them again.
//!
//! A FUSE client drops what it holds of a file each time that it opens it, unless the server
//! says that it may keep it (`FOPEN_KEEP_CACHE`, fuse(4)): without that each start of a program
//! reads the whole program again. The guest may keep a file if nothing has changed it since
//! its last open, of which size, modification and change time tell.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use virtiofsd::fuse::Attr;

/// A file that changed less than this ago may change once more and keep its times: file
/// systems count in ticks, some in two seconds (FAT).
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Tells one content of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    size: u64,
    modified: (u64, u32),
    changed: (u64, u32),
}

impl Version {
    /// None while another change might look the same.
    fn settled(attr: &Attr, now: SystemTime) -> Option<Self> {
        let changed = Duration::new(attr.ctime, attr.ctimensec.min(999_999_999));
        let age = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.checked_sub(changed)?;
        (age >= SETTLED_AFTER).then_some(Self {
            size: attr.size,
            modified: (attr.mtime, attr.mtimensec),
            changed: (attr.ctime, attr.ctimensec),
        })
    }
}

/// The version of each file that the guest has opened, by its node number.
#[derive(Debug, Default)]
pub(super) struct PageCache {
    opened: Mutex<HashMap<u64, Version>>,
}

impl PageCache {
    /// Notes that the guest opens `node`, which now is as `attr` says. Returns whether what it
    /// may hold of it is its content still.
    pub(super) fn open(&self, node: u64, attr: &Attr, now: SystemTime) -> bool {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let version = Version::settled(attr, now);
        let before = match version {
            Some(version) => opened.insert(node, version),
            None => opened.remove(&node),
        };
        version.is_some() && version == before
    }

    /// The guest holds nothing of `node` any more.
    pub(super) fn forget(&self, node: u64) {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }

    /// The guest holds nothing any more.
    pub(super) fn clear(&self) {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn open(cache: &PageCache, attr: Attr, seconds: u64) -> bool {
        cache.open(7, &attr, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn attr(changed: u64) -> Attr {
        Attr { size: 10, mtime: 5, ctime: changed, ..Attr::default() }
    }

    #[test]
    fn file_is_kept_from_its_second_open_on() {
        let cache = PageCache::default();
        assert!(!open(&cache, attr(NOW - 100), NOW));
        assert!(open(&cache, attr(NOW - 100), NOW));
        assert!(open(&cache, attr(NOW - 100), NOW + 1000));
    }

    #[test]
    fn changed_file_is_not_kept() {
        let cache = PageCache::default();
        for changed in [
            Attr { size: 11, ..attr(NOW) },
            Attr { mtime: 6, ..attr(NOW) },
            Attr { mtimensec: 1, ..attr(NOW) },
            Attr { ctimensec: 1, ..attr(NOW) },
            attr(NOW + 1),
        ] {
            open(&cache, attr(NOW), NOW + 100);
            assert!(open(&cache, attr(NOW), NOW + 100));
            assert!(!open(&cache, changed, NOW + 100), "{changed:?}");
        }
    }

    #[test]
    fn file_that_has_just_changed_is_not_trusted() {
        let cache = PageCache::default();
        assert!(!open(&cache, attr(NOW), NOW + 1));
        // The open before was too early to tell.
        assert!(!open(&cache, attr(NOW), NOW + 2));
        assert!(open(&cache, attr(NOW), NOW + 2));
        // A clock that was set back, or another machine's.
        assert!(!open(&cache, attr(NOW), NOW - 50));
    }

    #[test]
    fn forgotten_file_is_not_kept() {
        let cache = PageCache::default();
        open(&cache, attr(NOW), NOW + 100);
        cache.forget(7);
        assert!(!open(&cache, attr(NOW), NOW + 100));
        cache.clear();
        assert!(!open(&cache, attr(NOW), NOW + 100));
    }
}
