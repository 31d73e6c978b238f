//! What the guest has asked for, counted by kind: what an operation of a program costs is told by these
//! figures, whatever the machine.

use std::sync::Arc;

use virtiofsd::fuse::Opcode;

use super::events::{EVENTS, WATCH};
use crate::virtio::counters::{Counter, Counters};

/// Numbers of kinds of requests are less than this, but for one of other systems (`CUSE_INIT`).
const KINDS: usize = 64;
/// `FUSE_STATX`, which virtiofsd does not know.
pub(super) const STATX: u32 = 52;

/// Kinds that have a name; what has none is counted as another.
const NAMES: [(u32, &str); 47] = [
    (Opcode::Lookup as u32, "lookup"),
    (Opcode::Forget as u32, "forget"),
    (Opcode::Getattr as u32, "getattr"),
    (Opcode::Setattr as u32, "setattr"),
    (Opcode::Readlink as u32, "readlink"),
    (Opcode::Symlink as u32, "symlink"),
    (Opcode::Mknod as u32, "mknod"),
    (Opcode::Mkdir as u32, "mkdir"),
    (Opcode::Unlink as u32, "unlink"),
    (Opcode::Rmdir as u32, "rmdir"),
    (Opcode::Rename as u32, "rename"),
    (Opcode::Link as u32, "link"),
    (Opcode::Open as u32, "open"),
    (Opcode::Read as u32, "read"),
    (Opcode::Write as u32, "write"),
    (Opcode::Statfs as u32, "statfs"),
    (Opcode::Release as u32, "release"),
    (Opcode::Fsync as u32, "fsync"),
    (Opcode::Setxattr as u32, "setxattr"),
    (Opcode::Getxattr as u32, "getxattr"),
    (Opcode::Listxattr as u32, "listxattr"),
    (Opcode::Removexattr as u32, "removexattr"),
    (Opcode::Flush as u32, "flush"),
    (Opcode::Init as u32, "init"),
    (Opcode::Opendir as u32, "opendir"),
    (Opcode::Readdir as u32, "readdir"),
    (Opcode::Releasedir as u32, "releasedir"),
    (Opcode::Fsyncdir as u32, "fsyncdir"),
    (Opcode::Getlk as u32, "getlk"),
    (Opcode::Setlk as u32, "setlk"),
    (Opcode::Setlkw as u32, "setlkw"),
    (Opcode::Access as u32, "access"),
    (Opcode::Create as u32, "create"),
    (Opcode::Interrupt as u32, "interrupt"),
    (Opcode::Ioctl as u32, "ioctl"),
    (Opcode::Poll as u32, "poll"),
    (Opcode::BatchForget as u32, "batch_forget"),
    (Opcode::Fallocate as u32, "fallocate"),
    (Opcode::Readdirplus as u32, "readdirplus"),
    (Opcode::Rename2 as u32, "rename2"),
    (Opcode::Lseek as u32, "lseek"),
    (Opcode::CopyFileRange as u32, "copy_file_range"),
    (Opcode::Syncfs as u32, "syncfs"),
    (Opcode::TmpFile as u32, "tmpfile"),
    (STATX, "statx"),
    (WATCH, "watch"),
    (EVENTS, "events"),
];

/// Requests so far.
#[derive(Debug)]
pub(super) struct Requests {
    kinds: [Arc<Counter>; KINDS],
    others: Arc<Counter>,
}

impl Default for Requests {
    fn default() -> Self {
        Self { kinds: std::array::from_fn(|_| Arc::default()), others: Arc::default() }
    }
}

impl Requests {
    /// One more of this kind.
    pub(super) fn count(&self, opcode: u32) {
        let kind = usize::try_from(opcode).ok().and_then(|opcode| self.kinds.get(opcode));
        kind.unwrap_or(&self.others).count();
    }

    /// All by their names.
    pub(super) fn named(&self) -> Counters {
        let named = NAMES.iter().filter_map(|&(opcode, name)| {
            let counter = self.kinds.get(usize::try_from(opcode).ok()?)?;
            Some((name, Arc::clone(counter)))
        });
        Counters::new(named.chain([("other", Arc::clone(&self.others))]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_kind() {
        let requests = Requests::default();
        for opcode in [Opcode::Lookup as u32, Opcode::Lookup as u32, STATX, 4096] {
            requests.count(opcode);
        }
        let figures = requests.named().read();
        let counted: Vec<_> = figures.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("lookup", 2), ("statx", 1), ("other", 1)]);
    }
}
