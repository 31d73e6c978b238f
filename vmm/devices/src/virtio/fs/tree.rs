//! The shared tree as the guest sees it.
//!
//! Names are checked here: virtiofsd hands them to `unlinkat` and its like as they are, which would
//! follow a path out of the tree. Its own program relies on `pivot_root` for that. What else the
//! guest chooses leads nowhere: nodes and handles are numbers that virtiofsd looks up, of nodes
//! that are neither regular files nor directories nothing but `O_PATH` is ever opened, and the
//! target of a symbolic link is text that only the guest follows. Names of extended attributes are
//! no paths.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use delegate::delegate;
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};

use super::closing::needs_no_flush;
use super::handle_file::with_file;
use super::host::Host;
use super::ids::{Handle, Node};
use super::listing::{Listings, Page};
use super::locks::Locks;
use super::page_cache::PageCache;

/// A directory of the host, passed through but for what the guest may cache, how it lists, and locks.
pub(super) struct SharedTree {
    host: Arc<Host>,
    page_cache: PageCache,
    listings: Listings,
    locks: Arc<Locks>,
}

impl SharedTree {
    /// `locks` are those of `host`'s files.
    pub(super) fn new(host: Arc<Host>, locks: Arc<Locks>) -> Self {
        Self { host, page_cache: PageCache::default(), listings: Listings::default(), locks }
    }

    /// The guest gives `handle` up, which may be a directory's whatever the request is for: the host
    /// has one table for all.
    fn give_up(&self, handle: Handle) {
        self.locks.release(handle);
        self.listings.close(handle);
    }

    fn may_keep(&self, ctx: Context, node: Node) -> bool {
        self.host
            .getattr(ctx, node, None)
            .is_ok_and(|(attr, _)| self.page_cache.open(node, &attr, SystemTime::now()))
    }

    /// The host's side, for a request about what a directory has under `name`.
    fn host_under(&self, name: &CStr) -> io::Result<&Host> {
        #[cfg(feature = "planted-holes")]
        if !crate::planted::CHECKS_NAMES {
            return Ok(&self.host);
        }
        if is_component(name) { Ok(&self.host) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
    }
}

/// Whether `name` names an entry of a directory and nothing else. Linux resolves paths itself, and
/// asks for `.` and `..` only where a server says that it can look them up (`FUSE_EXPORT_SUPPORT`).
fn is_component(name: &CStr) -> bool {
    let name = name.to_bytes();
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/')
}

/// Is not cached.
fn no_entry() -> Entry {
    Entry {
        inode: 0,
        generation: 0,
        attr: Attr::default(),
        attr_timeout: Duration::ZERO,
        entry_timeout: Duration::ZERO,
    }
}

impl FileSystem for SharedTree {
    type Inode = Node;
    type Handle = Handle;
    type DirIter = Page;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.page_cache.clear();
        self.host.clear();
        // Where a symbolic link leads never changes: another target is another link.
        let cached = FsOptions::CACHE_SYMLINKS;
        Ok(self.host.init(capable)? | cached | FsOptions::POSIX_LOCKS | FsOptions::FLOCK_LOCKS)
    }

    fn destroy(&self) {
        self.page_cache.clear();
        self.listings.clear();
        self.host.clear();
        self.host.destroy();
    }

    fn forget(&self, ctx: Context, node: Node, count: u64) {
        self.page_cache.forget(node);
        self.host.forget(ctx, node, count);
    }

    fn batch_forget(&self, ctx: Context, requests: Vec<(Node, u64)>) {
        requests.into_iter().for_each(|(node, count)| self.forget(ctx, node, count));
    }

    fn open(
        &self,
        ctx: Context,
        node: Node,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        let (handle, mut options) = self.host.open(ctx, node, kill_priv, flags)?;
        options.set(OpenOptions::KEEP_CACHE, self.may_keep(ctx, node));
        options.set(OpenOptions::NOFLUSH, needs_no_flush(&self.host, ctx, node, handle, flags));
        Ok((handle, self.host.options(node, options)))
    }

    fn create(
        &self,
        ctx: Context,
        parent: Node,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<Handle>, OpenOptions)> {
        let (entry, handle, mut options) =
            self.host_under(name)?.create(ctx, parent, name, mode, kill_priv, flags, umask, extensions)?;
        options.set(OpenOptions::NOFLUSH, needs_no_flush(&self.host, ctx, entry.inode, handle, flags));
        let entry = self.host.told(parent, name, entry);
        let options = self.host.options(entry.inode, options);
        Ok((entry, handle, options))
    }

    fn symlink(
        &self,
        ctx: Context,
        target: &CStr,
        parent: Node,
        name: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        let made = self.host_under(name)?.symlink(ctx, target, parent, name, extensions)?;
        Ok(self.host.told(parent, name, made))
    }

    fn mknod(
        &self,
        ctx: Context,
        parent: Node,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        let made = self.host_under(name)?.mknod(ctx, parent, name, mode, rdev, umask, extensions)?;
        Ok(self.host.told(parent, name, made))
    }

    fn mkdir(
        &self,
        ctx: Context,
        parent: Node,
        name: &CStr,
        mode: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        let made = self.host_under(name)?.mkdir(ctx, parent, name, mode, umask, extensions)?;
        Ok(self.host.told(parent, name, made))
    }

    /// A name that is not there is told as a negative entry, which the guest takes for `ENOENT`. In a
    /// list with attributes, where others may remove what is being listed, that leaves one entry
    /// without attributes, where an error would end the list.
    fn lookup(&self, ctx: Context, parent: Node, name: &CStr) -> io::Result<Entry> {
        match self.host_under(name)?.lookup(ctx, parent, name) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(no_entry()),
            result => result.map(|entry| self.host.told(parent, name, entry)),
        }
    }

    fn readdir(&self, ctx: Context, node: Node, handle: Handle, size: u32, offset: u64) -> io::Result<Page> {
        with_file(&self.host, ctx, node, handle, |directory| {
            self.listings.read(handle, directory, size, offset)
        })
    }

    fn releasedir(&self, ctx: Context, node: Node, flags: u32, handle: Handle) -> io::Result<()> {
        self.give_up(handle);
        self.host.releasedir(ctx, node, flags, handle)
    }

    fn flush(&self, ctx: Context, node: Node, handle: Handle, lock_owner: u64) -> io::Result<()> {
        self.locks.flush(&self.host, ctx, node, handle, lock_owner);
        self.host.flush(ctx, node, handle, lock_owner)
    }

    fn release(
        &self,
        ctx: Context,
        node: Node,
        flags: u32,
        handle: Handle,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.give_up(handle);
        // What flock has locked goes with the host's open file.
        self.host.release(ctx, node, flags, handle, flush, flock_release, lock_owner)
    }

    fn rename(
        &self,
        ctx: Context,
        from: Node,
        old: &CStr,
        to: Node,
        new: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        self.host_under(old)?;
        self.host_under(new)?.rename(ctx, from, old, to, new, flags)
    }

    delegate! {
        to self.host_under(name)? {
            fn unlink(&self, ctx: Context, parent: Node, name: &CStr) -> io::Result<()>;
            fn rmdir(&self, ctx: Context, parent: Node, name: &CStr) -> io::Result<()>;
            fn link(&self, ctx: Context, node: Node, parent: Node, name: &CStr) -> io::Result<Entry>;
        }
        to self.host {
            fn getattr(&self, ctx: Context, node: Node, handle: Option<Handle>) -> io::Result<(Attr, Duration)>;
            fn setattr(&self, ctx: Context, node: Node, attr: SetattrIn, handle: Option<Handle>,
                valid: SetattrValid) -> io::Result<(Attr, Duration)>;
            fn readlink(&self, ctx: Context, node: Node) -> io::Result<Vec<u8>>;
            fn read<W: ZeroCopyWriter>(&self, ctx: Context, node: Node, handle: Handle, to: W, size: u32,
                offset: u64, lock_owner: Option<u64>, flags: u32) -> io::Result<usize>;
            fn write<R: ZeroCopyReader>(&self, ctx: Context, node: Node, handle: Handle, from: R, size: u32,
                offset: u64, lock_owner: Option<u64>, delayed: bool, kill_priv: bool,
                flags: u32) -> io::Result<usize>;
            fn fallocate(&self, ctx: Context, node: Node, handle: Handle, mode: u32, offset: u64,
                length: u64) -> io::Result<()>;
            fn statfs(&self, ctx: Context, node: Node) -> io::Result<libc::statvfs64>;
            fn setxattr(&self, ctx: Context, node: Node, name: &CStr, value: &[u8], flags: u32,
                extra_flags: SetxattrFlags) -> io::Result<()>;
            fn getxattr(&self, ctx: Context, node: Node, name: &CStr, size: u32) -> io::Result<GetxattrReply>;
            fn listxattr(&self, ctx: Context, node: Node, size: u32) -> io::Result<ListxattrReply>;
            fn removexattr(&self, ctx: Context, node: Node, name: &CStr) -> io::Result<()>;
            fn opendir(&self, ctx: Context, node: Node, flags: u32) -> io::Result<(Option<Handle>, OpenOptions)>;
            fn access(&self, ctx: Context, node: Node, mask: u32) -> io::Result<()>;
            fn lseek(&self, ctx: Context, node: Node, handle: Handle, offset: u64, whence: u32) -> io::Result<u64>;
            fn copyfilerange(&self, ctx: Context, from: Node, from_handle: Handle, from_offset: u64, to: Node,
                to_handle: Handle, to_offset: u64, length: u64, flags: u64) -> io::Result<usize>;
        }
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
