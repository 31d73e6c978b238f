//! Files that have no name (`O_TMPFILE`), which virtiofsd does not know: it finds a file by a name, and keeps what
//! it has found by numbers that nobody else can give.
//!
//! ```text
//!   TMPFILE ─▶ host's O_TMPFILE ─▶ a node of a number of its own, and a handle ─▶ LINK: the host's linkat
//!                                    └ forgotten, closed: the file is gone
//! ```
//!
//! By its name it is a file of virtiofsd's, with a node of that: the guest has two inodes for the file then, of one
//! number. What is mapped of one does not show what is written by the other.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{
    AtFlags, FallocateFlags, Gid, Mode, OFlags, SeekFrom, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    XattrFlags,
};
use rustix::fs::{
    fallocate, fchmod, fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat, ftruncate, futimens,
    linkat, openat, seek,
};
use virtiofsd::filesystem::{
    Context, Entry, FileSystem, GetxattrReply, ListxattrReply, OpenOptions, SetattrValid, SetxattrFlags,
    ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::oslib::WritevFlags;
use virtiofsd::soft_idmap::{GuestGid, GuestUid, Id};

use super::as_user::as_user;
use super::descriptors;
use super::ids::{Handle, Node};

/// Nodes and handles from here on are nameless files': virtiofsd counts from 1.
const FIRST: u64 = 1 << 62;
/// Set-user-id and set-group-id.
const SPECIAL_BITS: u32 = 0o6000;

/// Whether a node or handle is a nameless file's.
pub(super) fn is_nameless(number: u64) -> bool {
    number >= FIRST
}

/// The guest's nameless files.
#[derive(Debug)]
pub(super) struct Nameless {
    /// `/proc/self/fd`
    descriptors: OwnedFd,
    /// So many nodes and handles together: each may take a descriptor.
    most: usize,
    next: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    nodes: HashMap<Node, Known>,
    handles: HashMap<Handle, Arc<File>>,
}

#[derive(Debug)]
struct Known {
    file: Arc<File>,
    /// The directory that it was made in.
    parent: Node,
    /// How often the guest has been told of it.
    count: u64,
}

impl Nameless {
    /// At most so many nodes and handles.
    pub(super) fn new(most: usize) -> io::Result<Self> {
        Ok(Self {
            descriptors: descriptors::open()?,
            most,
            next: AtomicU64::new(FIRST),
            open: Mutex::default(),
        })
    }

    /// `/proc/self/fd`
    pub(super) fn descriptors(&self) -> BorrowedFd<'_> {
        self.descriptors.as_fd()
    }

    fn has_room(&self) -> bool {
        let table = self.table();
        table.nodes.len().saturating_add(table.handles.len()) < self.most
    }

    /// Makes one in `directory`, open as `flags` say, for the user of `ctx`.
    pub(super) fn make(
        &self,
        (parent, directory): (Node, &File),
        ctx: Context,
        flags: u32,
        mode: u32,
    ) -> io::Result<(Entry, Handle)> {
        if !self.has_room() {
            return Err(number(libc::ENFILE));
        }
        // It can be given a name unless that was ruled out, which the host then sees to as well.
        let excluded = OFlags::from_bits_truncate(flags) & OFlags::EXCL;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | excluded;
        let file = as_user(ctx, || Ok(openat(directory, c".", flags, mode)?))?;
        let file = Arc::new(File::from(file));
        let node = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = entry(node, &file)?;
        let mut table = self.table();
        table.nodes.insert(node, Known { file: Arc::clone(&file), parent, count: 1 });
        table.handles.insert(node, file);
        Ok((entry, node))
    }

    /// Gives `node` a name in `directory`.
    pub(super) fn link(&self, node: Node, directory: &File, name: &CStr) -> io::Result<()> {
        let file = self.file(node)?;
        linkat(&self.descriptors, file.as_raw_fd().to_string(), directory, name, AtFlags::SYMLINK_FOLLOW)?;
        Ok(())
    }

    /// What is open as `handle`, if that is a nameless file's.
    pub(super) fn opened(&self, handle: Handle) -> Option<Arc<File>> {
        if is_nameless(handle) { self.table().handles.get(&handle).cloned() } else { None }
    }

    /// The directory that `node` was made in.
    pub(super) fn parent(&self, node: Node) -> Option<Node> {
        self.table().nodes.get(&node).map(|known| known.parent)
    }

    /// The guest has forgotten them all.
    pub(super) fn clear(&self) {
        *self.table() = Open::default();
    }

    fn table(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, node: Node) -> io::Result<Arc<File>> {
        self.table().nodes.get(&node).map(|known| Arc::clone(&known.file)).ok_or_else(|| number(libc::EBADF))
    }

    fn handle(&self, handle: Handle) -> io::Result<Arc<File>> {
        self.opened(handle).ok_or_else(|| number(libc::EBADF))
    }
}

fn entry(node: Node, file: &File) -> io::Result<Entry> {
    let attr = attributes(file)?;
    // What changes it by its name is not told.
    let kept = Duration::ZERO;
    Ok(Entry { inode: node, generation: 0, attr, attr_timeout: kept, entry_timeout: kept })
}

fn attributes(file: &File) -> io::Result<Attr> {
    let found = fstat(file)?;
    let (seconds, nanoseconds) =
        (|time: i64| time.cast_unsigned(), |part: u64| u32::try_from(part).unwrap_or(0));
    Ok(Attr {
        ino: found.st_ino,
        size: found.st_size.cast_unsigned(),
        blocks: found.st_blocks.cast_unsigned(),
        atime: seconds(found.st_atime),
        mtime: seconds(found.st_mtime),
        ctime: seconds(found.st_ctime),
        atimensec: nanoseconds(found.st_atime_nsec),
        mtimensec: nanoseconds(found.st_mtime_nsec),
        ctimensec: nanoseconds(found.st_ctime_nsec),
        mode: found.st_mode,
        nlink: u32::try_from(found.st_nlink).unwrap_or(u32::MAX),
        uid: GuestUid::from(found.st_uid),
        gid: GuestGid::from(found.st_gid),
        blksize: u32::try_from(found.st_blksize).unwrap_or(4096),
        ..Attr::default()
    })
}

/// What a write or a truncation by one who may not keep them takes away.
fn drop_special_bits(file: &File) -> io::Result<()> {
    let mode = fstat(file)?.st_mode;
    if mode & SPECIAL_BITS != 0 {
        fchmod(file, Mode::from_raw_mode(mode & 0o7777 & !SPECIAL_BITS))?;
    }
    Ok(())
}

impl FileSystem for Nameless {
    type Inode = Node;
    type Handle = Handle;
    type DirIter = super::listing::Page;

    fn forget(&self, _ctx: Context, node: Node, count: u64) {
        let mut table = self.table();
        if let Some(known) = table.nodes.get_mut(&node) {
            known.count = known.count.saturating_sub(count);
            if known.count == 0 {
                table.nodes.remove(&node);
            }
        }
    }

    fn open(
        &self,
        _ctx: Context,
        node: Node,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        let file = self.file(node)?;
        if !self.has_room() {
            return Err(number(libc::ENFILE));
        }
        // Where to write is told with each write.
        let wanted = OFlags::ACCMODE | OFlags::TRUNC | OFlags::DIRECT | OFlags::SYNC | OFlags::DSYNC;
        let flags = (OFlags::from_bits_truncate(flags) & wanted) | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened = openat(&self.descriptors, file.as_raw_fd().to_string(), flags, Mode::empty())?;
        if kill_priv {
            drop_special_bits(&file)?;
        }
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.table().handles.insert(handle, Arc::new(File::from(opened)));
        Ok((Some(handle), OpenOptions::KEEP_CACHE))
    }

    fn release(
        &self,
        _ctx: Context,
        _node: Node,
        _flags: u32,
        handle: Handle,
        _flush: bool,
        _flock_release: bool,
        _lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.table().handles.remove(&handle).map(drop).ok_or_else(|| number(libc::EBADF))
    }

    fn flush(&self, _ctx: Context, _node: Node, handle: Handle, _lock_owner: u64) -> io::Result<()> {
        // Some file systems write when a descriptor is closed, and tell then what went wrong.
        let copy = self.handle(handle)?.try_clone()?;
        Ok(nix::unistd::close(copy)?)
    }

    fn getattr(&self, _ctx: Context, node: Node, _handle: Option<Handle>) -> io::Result<(Attr, Duration)> {
        Ok((attributes(&*self.file(node)?)?, Duration::ZERO))
    }

    fn setattr(
        &self,
        ctx: Context,
        node: Node,
        attr: SetattrIn,
        _handle: Option<Handle>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        let file = self.file(node)?;
        if valid.contains(SetattrValid::MODE) {
            fchmod(&file, Mode::from_raw_mode(attr.mode & 0o7777))?;
        }
        let uid = valid
            .contains(SetattrValid::UID)
            .then(|| id(attr.uid.into_inner()))
            .transpose()?
            .map(Uid::from_raw);
        let gid = valid
            .contains(SetattrValid::GID)
            .then(|| id(attr.gid.into_inner()))
            .transpose()?
            .map(Gid::from_raw);
        if uid.is_some() || gid.is_some() {
            fchown(&file, uid, gid)?;
        }
        if valid.contains(SetattrValid::SIZE) {
            ftruncate(&file, attr.size)?;
            if valid.contains(SetattrValid::KILL_SUIDGID) {
                drop_special_bits(&file)?;
            }
        }
        if valid.intersects(SetattrValid::ATIME | SetattrValid::MTIME) {
            let time = |is_now, is_told, seconds: u64, nanoseconds: u32| Timespec {
                tv_sec: seconds.cast_signed(),
                tv_nsec: match (valid.contains(is_now), valid.contains(is_told)) {
                    (true, _) => UTIME_NOW,
                    (_, true) => nanoseconds.into(),
                    _ => UTIME_OMIT,
                },
            };
            let (atime, mtime) = (SetattrValid::ATIME, SetattrValid::MTIME);
            futimens(
                &file,
                &Timestamps {
                    last_access: time(SetattrValid::ATIME_NOW, atime, attr.atime, attr.atimensec),
                    last_modification: time(SetattrValid::MTIME_NOW, mtime, attr.mtime, attr.mtimensec),
                },
            )?;
        }
        self.getattr(ctx, node, None)
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        _ctx: Context,
        _node: Node,
        handle: Handle,
        mut to: W,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _flags: u32,
    ) -> io::Result<usize> {
        to.read_from_file_at(&*self.handle(handle)?, usize::try_from(size).unwrap_or(0), offset, None)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        _ctx: Context,
        _node: Node,
        handle: Handle,
        mut from: R,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        delayed: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        let file = self.handle(handle)?;
        if kill_priv {
            drop_special_bits(&file)?;
        }
        let appends = !delayed && flags & libc::O_APPEND.cast_unsigned() != 0;
        let how = appends.then_some(WritevFlags::RWF_APPEND);
        from.write_to_file_at(&file, usize::try_from(size).unwrap_or(0), offset, how)
    }

    fn fallocate(
        &self,
        _ctx: Context,
        _node: Node,
        handle: Handle,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        Ok(fallocate(&*self.handle(handle)?, FallocateFlags::from_bits_retain(mode), offset, length)?)
    }

    fn lseek(&self, _ctx: Context, _node: Node, handle: Handle, offset: u64, whence: u32) -> io::Result<u64> {
        let to = match libc::c_int::try_from(whence) {
            Ok(libc::SEEK_DATA) => SeekFrom::Data(offset),
            Ok(libc::SEEK_HOLE) => SeekFrom::Hole(offset),
            _ => return Err(number(libc::EINVAL)),
        };
        Ok(seek(&*self.handle(handle)?, to)?)
    }

    fn setxattr(
        &self,
        _ctx: Context,
        node: Node,
        name: &CStr,
        value: &[u8],
        flags: u32,
        _extra_flags: SetxattrFlags,
    ) -> io::Result<()> {
        not_an_access_list(name)?;
        Ok(fsetxattr(&*self.file(node)?, name, value, XattrFlags::from_bits_truncate(flags))?)
    }

    fn getxattr(&self, _ctx: Context, node: Node, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        not_an_access_list(name)?;
        let mut value = vec![0; room(size)];
        let count = fgetxattr(&*self.file(node)?, name, &mut value)?;
        if size == 0 {
            return Ok(GetxattrReply::Count(u32::try_from(count).unwrap_or(u32::MAX)));
        }
        value.truncate(count);
        Ok(GetxattrReply::Value(value))
    }

    fn listxattr(&self, _ctx: Context, node: Node, size: u32) -> io::Result<ListxattrReply> {
        let mut names = vec![0; MOST_BYTES];
        let count = flistxattr(&*self.file(node)?, &mut names)?;
        let names = names.get(..count).unwrap_or_default().split_inclusive(|byte| *byte == 0);
        let names: Vec<u8> = names.filter(|name| !is_access_list(name)).flatten().copied().collect();
        let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        match size {
            0 => Ok(ListxattrReply::Count(count)),
            _ if count > size => Err(number(libc::ERANGE)),
            _ => Ok(ListxattrReply::Names(names)),
        }
    }

    fn removexattr(&self, _ctx: Context, node: Node, name: &CStr) -> io::Result<()> {
        not_an_access_list(name)?;
        Ok(fremovexattr(&*self.file(node)?, name)?)
    }
}

/// The largest value, or list of names, that there is.
const MOST_BYTES: usize = 64 << 10;

fn room(size: u32) -> usize {
    usize::try_from(size).unwrap_or(0).min(MOST_BYTES)
}

/// As with named files: the guest, which does not know of access lists, would grant more than they do.
fn not_an_access_list(name: &CStr) -> io::Result<()> {
    if is_access_list(name.to_bytes_with_nul()) { Err(number(libc::ENOTSUP)) } else { Ok(()) }
}

/// `name` ends with a zero.
fn is_access_list(name: &[u8]) -> bool {
    matches!(name, b"system.posix_acl_access\0" | b"system.posix_acl_default\0")
}

/// An id that is one: -1 means "leave it" to the host's kernel.
pub(super) fn id(raw: u32) -> io::Result<u32> {
    if raw == u32::MAX { Err(number(libc::EINVAL)) } else { Ok(raw) }
}

fn number(errno: libc::c_int) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

#[cfg(test)]
#[path = "nameless_tests.rs"]
mod tests;
