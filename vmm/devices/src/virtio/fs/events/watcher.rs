//! The host's inotify.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::abort;

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init, remove_watch};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::fchdir;
use virtiofsd::filesystem::Context;
use virtiofsd::fuse::InHeader;

use super::super::handle_file::with_file;
use super::super::host::Host;
use super::super::ids::Node;
use super::table::{OF_CHILDREN, Watch};

/// What is read at once.
const BATCH_BYTES: usize = 4096;
/// So many events are taken before requests are served again, and those that its buffer has besides.
const MOST_AT_ONCE: usize = 4096;
/// What `/proc/self/fd` has behind the path of a file that has none any more.
const DELETED: &[u8] = b" (deleted)";

/// An event as the host tells it.
#[derive(Debug)]
pub(super) struct Raw<'r> {
    pub(super) watch: Watch,
    pub(super) mask: u32,
    pub(super) cookie: u32,
    pub(super) name: &'r [u8],
}

/// The descriptor, and the working directory to which this thread comes back.
#[derive(Debug)]
pub(super) struct Watcher {
    inotify: OwnedFd,
    home: OwnedFd,
}

impl Watcher {
    pub(super) fn new() -> io::Result<Self> {
        let home = openat(CWD, c".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // As one watch too many: neither limit of the host leaves room for this one.
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(|errno| if errno == Errno::MFILE { Errno::NOSPC } else { errno })?;
        Ok(Self { inotify, home })
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }

    /// Watches the file behind `node`; `more` leaves what it is watched for already.
    pub(super) fn add(
        &self,
        host: &Host,
        ctx: Context,
        node: Node,
        mask: u32,
        more: bool,
    ) -> io::Result<Watch> {
        with_path(host, ctx, node, |file| {
            // There is no call that takes a descriptor in place of a path, and no other path leads there.
            let _back = Away::go(host, &self.home)?;
            self.add_here(&number(file), mask, more)
        })
    }

    /// Watches the file behind the new `node`, and if it is a directory the one that it is in.
    pub(super) fn add_new(
        &self,
        host: &Host,
        ctx: Context,
        node: Node,
        mask: u32,
    ) -> io::Result<(Watch, io::Result<Option<Parent>>)> {
        with_path(host, ctx, node, |file| {
            let _back = Away::go(host, &self.home)?;
            Ok((self.add_here(&number(file), mask, true)?, self.add_parent_here(file)))
        })
    }

    /// Watches the directory that the one behind `node` is in; nothing if it is none.
    pub(super) fn add_parent(&self, host: &Host, ctx: Context, node: Node) -> io::Result<Option<Parent>> {
        with_path(host, ctx, node, |file| {
            let _back = Away::go(host, &self.home)?;
            self.add_parent_here(file)
        })
    }

    fn add_here(&self, path: &str, mask: u32, more: bool) -> io::Result<Watch> {
        let mut flags = WatchFlags::from_bits_truncate(mask);
        flags.set(WatchFlags::MASK_ADD, more);
        Ok(add_watch(&self.inotify, path, flags)?)
    }

    fn add_parent_here(&self, file: &File) -> io::Result<Option<Parent>> {
        match self.add_here(&format!("{}/..", number(file)), OF_CHILDREN, true) {
            Ok(watch) => Ok(name_of(CWD, file).ok().map(|name| Parent { watch, name })),
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => Err(error),
            // It is no directory, or in one that nobody may read.
            Err(_) => Ok(None),
        }
    }

    pub(super) fn remove(&self, watch: Watch) -> io::Result<()> {
        match remove_watch(&self.inotify, watch) {
            // It went with its file.
            Err(Errno::INVAL) => Ok(()),
            result => Ok(result?),
        }
    }

    /// What there is by now, or the first of it: others wait for this thread.
    pub(super) fn read(&self, mut each: impl FnMut(Raw<'_>)) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); BATCH_BYTES];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut count = 0;
        // What the reader has taken from the kernel is nowhere else.
        while count < MOST_AT_ONCE || !reader.is_buffer_empty() {
            count += 1;
            match reader.next() {
                Ok(event) => each(Raw {
                    watch: event.wd(),
                    mask: event.events().bits(),
                    cookie: event.cookie(),
                    name: event.file_name().map_or(&[], |name| name.to_bytes()),
                }),
                Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Whether the file behind `node` has no name any more. Directories of an overlay have a link always.
    pub(super) fn is_gone(&self, host: &Host, node: Node) -> bool {
        let ctx = Context::from(InHeader::default());
        let look = |file: &File| {
            let seen = fstat(file)?;
            let is_directory = FileType::from_raw_mode(seen.st_mode) == FileType::Directory;
            Ok(seen.st_nlink == 0 || is_directory && path_of(host.descriptors(), file)?.ends_with(DELETED))
        };
        with_path(host, ctx, node, look).unwrap_or(false)
    }

    /// The name by which the host knows `node` now.
    pub(super) fn name(&self, host: &Host, ctx: Context, node: Node) -> Option<Vec<u8>> {
        with_path(host, ctx, node, |file| name_of(host.descriptors(), file)).ok()
    }
}

/// The directory that a directory is in, and its name there.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) watch: Watch,
    pub(super) name: Vec<u8>,
}

/// What `file` is called in the directory of descriptors.
fn number(file: &File) -> String {
    file.as_raw_fd().to_string()
}

fn path_of(descriptors: impl AsFd, file: &File) -> io::Result<Vec<u8>> {
    Ok(readlinkat(descriptors, number(file), Vec::new())?.into_bytes())
}

/// What it is called elsewhere.
fn name_of(descriptors: impl AsFd, file: &File) -> io::Result<Vec<u8>> {
    let path = path_of(descriptors, file)?;
    let path = path.strip_suffix(DELETED).unwrap_or(&path);
    Ok(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec())
}

/// Lends `act` a descriptor of the file behind `node`, which is opened as no program's.
fn with_path<T>(
    host: &Host,
    ctx: Context,
    node: Node,
    act: impl FnOnce(&File) -> io::Result<T>,
) -> io::Result<T> {
    let (handle, _) = host.open(ctx, node, false, libc::O_PATH.cast_unsigned()).map_err(cannot)?;
    let handle = handle.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
    let result = with_file(host, ctx, node, handle, act);
    // Nobody else has known of it.
    let _ = host.release(ctx, node, 0, handle, false, false, None);
    result
}

/// What is neither a regular file nor a directory is not opened at all.
fn cannot(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EBADF) => io::Error::from_raw_os_error(libc::EOPNOTSUPP),
        _ => error,
    }
}

/// This thread's working directory is that of descriptors.
struct Away<'w>(&'w OwnedFd);

impl<'w> Away<'w> {
    fn go(host: &Host, home: &'w OwnedFd) -> io::Result<Self> {
        fchdir(host.descriptors())?;
        Ok(Self(home))
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        if fchdir(self.0).is_err() {
            // virtiofsd takes it for granted that it is in the tree.
            abort();
        }
    }
}
