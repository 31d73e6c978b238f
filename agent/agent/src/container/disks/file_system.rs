//! A file system on a disk.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::fs::CWD;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsmount, fsopen, move_mount};

use super::kernel_log::KernelLog;
use crate::container::create::{mounts, options, words};

/// Those that nobody writes to.
const READ_ONLY: &[&str] = &["erofs", "squashfs"];

/// mount(8)'s own: an image is a disk here already.
const LOOP: &str = "loop";

/// Longest message of a file system's; one that is longer is left out by the kernel.
const MESSAGE_BYTES: usize = 1024;

/// Whether nothing can be written by way of `mount`.
pub(super) fn is_read_only(mount: &Mount) -> bool {
    let typ = mount.typ().as_deref().unwrap_or_default();
    READ_ONLY.contains(&typ) || options::of(mount).own.set.contains(MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// Mounts what is on `node` at `place`, which is made, as `mount` says; `is_written` by way of another one. What of its
/// options is about the mount and not about the file system is for who binds it.
pub(super) fn mount_at(place: &Path, node: &Path, mount: &Mount, is_written: bool) -> Result<(), String> {
    let typ = mount.typ().as_deref().unwrap_or_default();
    let context = fsopen(typ, FsOpenFlags::FSOPEN_CLOEXEC).map_err(words)?;
    let log = KernelLog::from_here();
    let name = node.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // The kernel has one file system for a disk, which is written or not.
    make(&context, node, mount, is_read_only(mount) && !is_written).map_err(|error| {
        let why = said(&context).or_else(|| log.ok()?.last_about(name));
        let error = words(error);
        why.map_or_else(|| error.clone(), |why| format!("{error}: {why}"))
    })?;
    put(&context, place).map_err(words)
}

fn make(context: &OwnedFd, node: &Path, mount: &Mount, read_only: bool) -> io::Result<()> {
    let options = options::of(mount);
    let given = options.data.iter().copied().filter(|option| *option != LOOP);
    mounts::configure(context, node, given.chain(read_only.then_some("ro")))
}

fn put(context: &OwnedFd, place: &Path) -> io::Result<()> {
    let made = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    fs::create_dir_all(place)?;
    Ok(move_mount(&made, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// The last error that the file system has told whoever makes it; each has its kind in front (`e ext4: …`).
fn said(context: &OwnedFd) -> Option<String> {
    let mut last = None;
    let mut message = [0; MESSAGE_BYTES];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut message) {
        let text = String::from_utf8_lossy(message.get(..length)?).trim_end().to_owned();
        last = text.strip_prefix("e ").map(str::to_owned).or(last);
    }
    last
}
