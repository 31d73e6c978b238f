//! Paths that are hidden or read-only, and settings of the kernel.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use oci_spec::runtime::Linux;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, major, minor, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsmount, fsopen, move_mount, open_tree,
};

use super::words;
use crate::sys;

const NOTHING: Option<&str> = None;

/// Makes paths read-only, but not what is mounted below them, as with runc. What is missing needs no protection.
pub(super) fn make_readonly(linux: &Linux) -> Result<(), String> {
    linux.readonly_paths().iter().flatten().try_for_each(|path| {
        readonly(Path::new(path)).map_err(|error| {
            format!("linux.readonlyPaths {path}: cannot make one read-only: {}", words(error))
        })
    })
}

fn readonly(path: &Path) -> nix::Result<()> {
    match mount(Some(path), path, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING) {
        Err(nix::errno::Errno::ENOENT) => return Ok(()),
        other => other?,
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(Some(path), path, NOTHING, flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT, NOTHING)
}

/// Hides paths: a file behind `null`, the container's `/dev/null`, a directory behind an empty one. What is
/// missing needs no hiding.
pub(super) fn hide(linux: &Linux, null: &File) -> Result<(), String> {
    let mut covers = Covers { null, file: None, empty: None };
    linux.masked_paths().iter().flatten().try_for_each(|path| {
        covers
            .hide(path)
            .map_err(|error| format!("linux.maskedPaths {path}: cannot hide one: {}", words(error)))
    })
}

/// Mounts for hiding.
struct Covers<'a> {
    null: &'a File,
    /// A mount of `null` that has no place yet.
    file: Option<OwnedFd>,
    /// A mount that hides a directory already: one file system for all of them, since it is read-only.
    empty: Option<OwnedFd>,
}

impl Covers<'_> {
    fn hide(&mut self, path: &str) -> rustix::io::Result<()> {
        let file = self.file.take().map_or_else(|| open_tree(self.null, "", copied()), Ok)?;
        let result = put(&file, path);
        if result.is_err() {
            self.file = Some(file);
        }
        match result {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            // A file does not fit there.
            Err(Errno::INVAL) => self.hide_directory(path),
            other => other,
        }
    }

    fn hide_directory(&mut self, path: &str) -> rustix::io::Result<()> {
        let Some(empty) = &self.empty else {
            let empty = empty_directory()?;
            put(&empty, path)?;
            self.empty = Some(empty);
            return Ok(());
        };
        // What has no place cannot be copied, but this one has.
        put(&open_tree(empty, "", copied())?, path)
    }
}

fn copied() -> OpenTreeFlags {
    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH
}

fn put(mount: &OwnedFd, path: &str) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(mount, "", CWD, path, flags)
}

fn empty_directory() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// The kernel's settings of the guest, which a container's own `/proc` may not show.
pub(super) struct Settings(Option<OwnedFd>);

impl Settings {
    /// Opens them, if there are any to set.
    pub(super) fn open(linux: &Linux) -> Result<Self, String> {
        if linux.sysctl().as_ref().is_none_or(std::collections::HashMap::is_empty) {
            return Ok(Self(None));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, "/proc/sys", flags, Mode::empty());
        opened
            .map(|fd| Self(Some(fd)))
            .map_err(|error| format!("linux.sysctl: cannot open /proc/sys: {}", words(error)))
    }

    /// Sets them, in this process's namespaces.
    pub(super) fn apply(&self, linux: &Linux) -> Result<(), String> {
        let Some(directory) = &self.0 else { return Ok(()) };
        linux.sysctl().iter().flatten().try_for_each(|(name, value)| {
            set(directory, name, value)
                .map_err(|error| format!("linux.sysctl {name}={value}: cannot set it: {}", words(error)))
        })
    }
}

fn set(directory: &OwnedFd, name: &str, value: &str) -> io::Result<()> {
    let path = name.replace('.', "/");
    let file = openat(directory, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    File::from(file).write_all(value.as_bytes())
}

/// The container's own `/dev/null`, in place of the guest's where that is one of the standard streams.
pub(super) fn reopen_null() -> Result<File, String> {
    let cannot = |error: io::Error| format!("the container: cannot open its /dev/null: {}", words(error));
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(cannot)?;
    if !is_null(&fstat(&null).map_err(|error| cannot(error.into()))?) {
        return Err("the container: its /dev/null is another device".to_owned());
    }
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let streams: [BorrowedFd<'_>; 3] = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    for (number, stream) in (0..).zip(streams) {
        if fstat(stream).is_ok_and(|stat| is_null(&stat)) {
            sys::duplicate_onto(null.as_fd(), number).map_err(cannot)?;
        }
    }
    Ok(null)
}

fn is_null(stat: &Stat) -> bool {
    const NUMBER: (u32, u32) = (1, 3);
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == NUMBER
}
