//! The host's files, with a name or without one.

use std::ffi::{CStr, CString};
use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use virtiofsd::filesystem::{
    Context, Entry, FileSystem, GetxattrReply, ListxattrReply, OpenOptions, SetattrValid, SetxattrFlags,
    ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::passthrough::PassthroughFs;

use super::handle_file::with_file;
use super::ids::{Handle, Node};
use super::nameless::{Nameless, is_nameless};
use super::uncached::Uncached;

/// So much of a file is copied by one request, bytes: some milliseconds.
const MOST_COPIED: u64 = 16 << 20;

/// How the guest is told of files.
#[derive(Clone, Debug, Default)]
pub(super) struct Manner {
    /// The directory in the root of which it keeps nothing.
    pub(super) uncached: Option<CString>,
    /// Its kernel tells of closes that end locks, whatever else it need not tell of.
    pub(super) quiet_closes: bool,
}

/// virtiofsd's files, and those that it does not know. What a request names by a directory and a name is always
/// virtiofsd's.
pub(super) struct Host {
    named: PassthroughFs,
    nameless: Nameless,
    /// Of what the guest keeps nothing, if there is something.
    uncached: Option<Uncached>,
    quiet_closes: bool,
}

/// Requests about a node, which are served by whose it is.
macro_rules! by_node {
    ($(fn $name:ident(&self, node: Node $(, $argument:ident: $kind:ty)*) -> $result:ty;)*) => {
        $(pub(super) fn $name(&self, ctx: Context, node: Node $(, $argument: $kind)*) -> $result {
            if is_nameless(node) {
                self.nameless.$name(ctx, node $(, $argument)*)
            } else {
                self.named.$name(ctx, node $(, $argument)*)
            }
        })*
    };
}

#[allow(clippy::too_many_arguments, reason = "they are the request's")]
impl Host {
    /// Of nameless files it knows so many at a time.
    pub(super) fn new(named: PassthroughFs, nameless: usize, manner: Manner) -> io::Result<Self> {
        let Manner { uncached, quiet_closes } = manner;
        let uncached = uncached.map(Uncached::below);
        Ok(Self { named, nameless: Nameless::new(nameless)?, uncached, quiet_closes })
    }

    /// `/proc/self/fd`
    pub(super) fn descriptors(&self) -> BorrowedFd<'_> {
        self.nameless.descriptors()
    }

    /// Whether the guest's kernel can be told that nothing comes of a close.
    pub(super) fn has_quiet_closes(&self) -> bool {
        self.quiet_closes
    }

    /// What was found or made in `parent` under `name`, as the guest may keep it.
    pub(super) fn told(&self, parent: Node, name: &CStr, entry: Entry) -> Entry {
        match &self.uncached {
            Some(uncached) => uncached.entry(parent, name, entry),
            None => entry,
        }
    }

    /// How `node` is opened.
    pub(super) fn options(&self, node: Node, options: OpenOptions) -> OpenOptions {
        self.uncached.as_ref().map_or(options, |uncached| uncached.options(node, options))
    }

    /// For how long attributes of `node` count.
    fn valid(&self, node: Node, (attr, valid): (Attr, Duration)) -> (Attr, Duration) {
        (attr, self.uncached.as_ref().map_or(valid, |uncached| uncached.valid(node, valid)))
    }

    pub(super) fn getattr(
        &self,
        ctx: Context,
        node: Node,
        handle: Option<Handle>,
    ) -> io::Result<(Attr, Duration)> {
        (if is_nameless(node) {
            self.nameless.getattr(ctx, node, handle)
        } else {
            self.named.getattr(ctx, node, handle)
        })
        .map(|found| self.valid(node, found))
    }

    pub(super) fn setattr(
        &self,
        ctx: Context,
        node: Node,
        attr: SetattrIn,
        handle: Option<Handle>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        (if is_nameless(node) {
            self.nameless.setattr(ctx, node, attr, handle, valid)
        } else {
            self.named.setattr(ctx, node, attr, handle, valid)
        })
        .map(|found| self.valid(node, found))
    }

    pub(super) fn forget(&self, ctx: Context, node: Node, count: u64) {
        if let Some(uncached) = &self.uncached {
            uncached.forget(node, count);
        }
        if is_nameless(node) {
            self.nameless.forget(ctx, node, count);
        } else {
            self.named.forget(ctx, node, count);
        }
    }

    /// The guest has forgotten all.
    pub(super) fn clear(&self) {
        self.nameless.clear();
        if let Some(uncached) = &self.uncached {
            uncached.clear();
        }
    }

    /// Makes a file without a name in the directory `parent`.
    pub(super) fn tmpfile(
        &self,
        ctx: Context,
        parent: Node,
        flags: u32,
        mode: u32,
    ) -> io::Result<(Entry, Handle)> {
        let made = |directory: &_| self.nameless.make((parent, directory), ctx, flags, mode);
        let (entry, handle) = self.in_directory(ctx, parent, made)?;
        // It has no name in it, and is in it all the same.
        Ok((self.told(parent, c"", entry), handle))
    }

    /// Of the file system of `node`.
    pub(super) fn statfs(&self, ctx: Context, node: Node) -> io::Result<libc::statvfs64> {
        let node = if is_nameless(node) { self.nameless.parent(node).unwrap_or(node) } else { node };
        self.named.statfs(ctx, node)
    }

    /// `name` is one component.
    pub(super) fn link(&self, ctx: Context, node: Node, parent: Node, name: &CStr) -> io::Result<Entry> {
        if !is_nameless(node) {
            return Ok(self.told(parent, name, self.named.link(ctx, node, parent, name)?));
        }
        self.in_directory(ctx, parent, |directory| self.nameless.link(node, directory, name))?;
        // By its name it is one of the named ones, as whoever looks it up will find.
        Ok(self.told(parent, name, self.named.lookup(ctx, parent, name)?))
    }

    pub(super) fn in_directory<T>(
        &self,
        ctx: Context,
        node: Node,
        act: impl FnOnce(&std::fs::File) -> io::Result<T>,
    ) -> io::Result<T> {
        let (handle, _) = self.named.opendir(ctx, node, libc::O_DIRECTORY.cast_unsigned())?;
        let handle = handle.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let result = with_file(self, ctx, node, handle, act);
        // Nobody else has known of it.
        let _ = self.named.releasedir(ctx, node, 0, handle);
        result
    }

    pub(super) fn read<W: ZeroCopyWriter>(
        &self,
        ctx: Context,
        node: Node,
        handle: Handle,
        to: W,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        if is_nameless(node) {
            self.nameless.read(ctx, node, handle, to, size, offset, lock_owner, flags)
        } else {
            self.named.read(ctx, node, handle, to, size, offset, lock_owner, flags)
        }
    }

    pub(super) fn write<R: ZeroCopyReader>(
        &self,
        ctx: Context,
        node: Node,
        handle: Handle,
        from: R,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        if is_nameless(node) {
            self.nameless.write(ctx, node, handle, from, size, offset, lock_owner, delayed, kill_priv, flags)
        } else {
            self.named.write(ctx, node, handle, from, size, offset, lock_owner, delayed, kill_priv, flags)
        }
    }

    pub(super) fn copyfilerange(
        &self,
        ctx: Context,
        from: Node,
        from_handle: Handle,
        from_offset: u64,
        to: Node,
        to_handle: Handle,
        to_offset: u64,
        length: u64,
        flags: u64,
    ) -> io::Result<usize> {
        // The guest's kernel asks for all at once, and everybody would wait for it. Who copies goes on after a part.
        let length = length.min(MOST_COPIED);
        if !is_nameless(from) && !is_nameless(to) {
            return self.named.copyfilerange(
                ctx,
                from,
                from_handle,
                from_offset,
                to,
                to_handle,
                to_offset,
                length,
                flags,
            );
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (mut from_offset, mut to_offset) = (from_offset, to_offset);
        with_file(self, ctx, from, from_handle, |source| {
            with_file(self, ctx, to, to_handle, |target| {
                let (from, to) = (Some(&mut from_offset), Some(&mut to_offset));
                Ok(rustix::fs::copy_file_range(source, from, target, to, length)?)
            })
        })
    }

    by_node! {
        fn open(&self, node: Node, kill_priv: bool, flags: u32) -> io::Result<(Option<Handle>, OpenOptions)>;
        fn release(&self, node: Node, flags: u32, handle: Handle, flush: bool, flock_release: bool,
            lock_owner: Option<u64>) -> io::Result<()>;
        fn flush(&self, node: Node, handle: Handle, lock_owner: u64) -> io::Result<()>;
        fn fallocate(&self, node: Node, handle: Handle, mode: u32, offset: u64, length: u64) -> io::Result<()>;
        fn lseek(&self, node: Node, handle: Handle, offset: u64, whence: u32) -> io::Result<u64>;
        fn setxattr(&self, node: Node, name: &CStr, value: &[u8], flags: u32,
            extra_flags: SetxattrFlags) -> io::Result<()>;
        fn getxattr(&self, node: Node, name: &CStr, size: u32) -> io::Result<GetxattrReply>;
        fn listxattr(&self, node: Node, size: u32) -> io::Result<ListxattrReply>;
        fn removexattr(&self, node: Node, name: &CStr) -> io::Result<()>;
    }
}

impl Deref for Host {
    type Target = PassthroughFs;

    fn deref(&self) -> &PassthroughFs {
        &self.named
    }
}
