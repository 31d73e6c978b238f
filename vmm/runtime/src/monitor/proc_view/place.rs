//! Where the processes are looked for: `/proc` as whoever enters the monitor's mount namespace finds it.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{getegid, geteuid};
use rustix::fs::{Mode, OFlags, mkdirat, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, move_mount,
};

/// The empty directories that stand for what the guest alone has mounted.
#[derive(Debug)]
pub(super) struct Places {
    processes: OwnedFd,
    /// Of devices, where it has no directory for terminals.
    devices: Option<OwnedFd>,
}

/// They are reached as anybody reaches them. None where something else is in their place.
pub(super) fn find() -> io::Result<Option<Places>> {
    thread::spawn(find_inside)
        .join()
        .map_err(|_| io::Error::other("the thread that looks for it panicked"))?
}

fn find_inside() -> io::Result<Option<Places>> {
    let namespace = File::open("/proc/thread-self/ns/mnt")?;
    // This thread gets a root of its own, and then what is mounted on top of it.
    unshare(CloneFlags::CLONE_FS)?;
    setns(namespace, CloneFlags::CLONE_NEWNS)?;
    let Some(processes) = ours(c"/proc") else { return Ok(None) };
    let has_terminals = rustix::fs::stat(c"/dev/pts").is_ok();
    let devices = if has_terminals { None } else { ours(c"/dev") };
    Ok(Some(Places { processes, devices }))
}

fn ours(path: &CStr) -> Option<OwnedFd> {
    let place = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    (fstatfs(&place).ok()?.filesystem_type() == TMPFS_MAGIC).then_some(place)
}

impl Places {
    /// Mounts the processes in their place.
    pub(super) fn take(&self, mount: &OwnedFd) -> io::Result<()> {
        if let Some(devices) = &self.devices {
            put(&devices_with_terminals()?, devices)?;
        }
        put(mount, &self.processes)
    }
}

fn put(mount: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", place, c"", flags)?)
}

fn attributes() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC
}

/// psgo, the library behind `podman top`, gives up where there is no directory of terminals. Nothing
/// can be written to it, as before.
fn devices_with_terminals() -> io::Result<OwnedFd> {
    let configuration = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(configuration.as_fd())?;
    let mount = fsmount(configuration.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes())?;
    mkdirat(&mount, c"pts", Mode::from_raw_mode(0o755))?;
    let picked = fspick(&mount, c"", FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC)?;
    fsconfig_set_flag(picked.as_fd(), c"ro")?;
    fsconfig_reconfigure(picked.as_fd())?;
    Ok(mount)
}

/// The file system that answers through `device`.
pub(super) fn mount_of(device: &File) -> io::Result<OwnedFd> {
    let configuration = fsopen(c"fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |name: &CStr, value: String| fsconfig_set_string(configuration.as_fd(), name, value);
    set(c"fd", device.as_raw_fd().to_string())?;
    set(c"rootmode", "40000".to_owned())?;
    set(c"user_id", geteuid().to_string())?;
    set(c"group_id", getegid().to_string())?;
    fsconfig_set_flag(configuration.as_fd(), c"allow_other")?;
    fsconfig_create(configuration.as_fd())?;
    let flags = attributes() | MountAttrFlags::MOUNT_ATTR_RDONLY;
    Ok(fsmount(configuration.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}
