//! What hooks find that run before the container is made, and how what they mount reaches it.
//!
//! With other runtimes a hook that enters the mount namespace of the state's process, or that
//! runs in it, finds the host's files there and the container's mounts below the root file
//! system's path; what it mounts there, the program sees. So here:
//!
//! ```text
//!   the rootfs's path     the root file system once more, with the volumes in their places
//!     ║ a peer group
//!   share/rootfs          what the guest is served: of the above only what hooks mount
//! ```
//!
//! A volume in its place is a peer of `share/volumes/N` in the same way. All of it is the
//! monitor's namespace's alone, which gives nothing back to the host's.
//!
//! What the guest alone has, like a tmpfs, is shown as an empty directory that cannot be written
//! to: what a hook would put there could not reach the container. Only `/proc` is the host's.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};
use vmrun_proto::{ROOTFS_DIR, VOLUMES_DIR};
use vmrun_spec::{HostPlan, ViewMount, VolumeKind};

use super::mount_table;
use super::view::{copy_of, is_directory, nothing};
use crate::log;

/// Why hooks cannot find the container's files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookMountsError {
    #[error("cannot show {} to the hooks", .path.display())]
    Show { path: PathBuf, source: io::Error },
    #[error(
        "a hook has mounted something on {}, where the container has a file system of the guest's, which it \
         cannot reach; have it mounted elsewhere, or as a volume", .path.display()
    )]
    Lost { path: PathBuf },
}

/// Puts the container's files where hooks look for them. The shared tree at `share` is built.
pub(crate) fn offer(share: &Path, plan: &HostPlan) -> Result<(), HookMountsError> {
    let about =
        |path: &Path, errno: Errno| HookMountsError::Show { path: path.to_owned(), source: errno.into() };
    let again = copy_of(&plan.rootfs).map_err(|errno| about(&plan.rootfs, errno))?;
    move_mount(&again, c"", CWD, &plan.rootfs, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| about(&plan.rootfs, errno))?;
    let root = openat2(CWD, &plan.rootfs, PATH, Mode::empty(), ResolveFlags::empty())
        .map_err(|errno| about(&plan.rootfs, errno))?;
    // It has no peers yet, so these stay out of what the guest is served.
    for mount in &plan.view.mounts {
        show(&root, share, plan, mount).map_err(|errno| about(&mount.destination, errno))?;
    }
    join(&root, &share.join(ROOTFS_DIR)).map_err(|errno| about(&plan.rootfs, errno))
}

/// The mounts in, or on, what the guest alone has, without those of the kernel's file systems, which the
/// host makes by itself. What hooks add to them would be lost.
pub(crate) fn out_of_reach(plan: &HostPlan) -> Result<Vec<PathBuf>, HookMountsError> {
    let about = |source| HookMountsError::Show { path: plan.rootfs.clone(), source };
    let root = plan.rootfs.canonicalize().map_err(about)?;
    let guests = plan.view.mounts.iter().filter(|mount| mount.volume.is_none());
    let guests: Vec<_> = guests.map(|mount| clean(&mount.destination)).collect();
    let is_guests = |at: &Path| guests.iter().any(|place| at.starts_with(place));
    let rows = mount_table::read(&root).map_err(about)?.into_iter();
    Ok(rows.filter(|row| !row.is_kernels() && is_guests(&row.at)).map(|row| row.at).collect())
}

/// Refuses what has come to them since.
pub(crate) fn nothing_is_lost(plan: &HostPlan, before: &[PathBuf]) -> Result<(), HookMountsError> {
    let mut before = before.to_vec();
    for at in out_of_reach(plan)? {
        match before.iter().position(|known| *known == at) {
            Some(index) => drop(before.swap_remove(index)),
            None => return Err(HookMountsError::Lost { path: Path::new("/").join(at) }),
        }
    }
    Ok(())
}

const PROC: &str = "/proc";
const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// From here on what is mounted in one of them is mounted in both.
fn join(root: &OwnedFd, served: &Path) -> Result<(), Errno> {
    // The kernel lets only a mount without peers join.
    change(served, MsFlags::MS_PRIVATE)?;
    change(Path::new(&format!("/proc/self/fd/{}", root.as_raw_fd())), MsFlags::MS_SHARED)?;
    // With it the source's master, the host's mount, becomes its master.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_SET_GROUP;
    match move_mount(root, c"", CWD, served, flags) {
        // Before Linux 5.15, or where a user namespace has mounts locked: hooks see the files.
        Err(Errno::INVAL) => {
            log::warn(
                "what hooks mount does not reach the container: this host's kernel cannot join mounts (Linux 5.15 can)",
            );
            Ok(())
        }
        other => other,
    }
}

fn change(at: &Path, propagation: MsFlags) -> Result<(), Errno> {
    let none: Option<&str> = None;
    mount(none, at, none, propagation, none).map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

fn show(root: &OwnedFd, share: &Path, plan: &HostPlan, mount: &ViewMount) -> Result<(), Errno> {
    let volume = mount.volume.and_then(|number| Some((number, plan.volumes.get(number)?)));
    let kind = volume.map_or(VolumeKind::Directory, |(_, volume)| volume.kind);
    // The guest makes the mount points that are missing; of what it alone has it need not be here.
    let Some(place) = find(root, &mount.destination, volume.map(|_| kind))? else { return Ok(()) };
    let shown = match volume {
        Some((number, _)) => {
            let served = share.join(VOLUMES_DIR).join(number.to_string());
            change(&served, MsFlags::MS_SHARED)?;
            copy_of(&served)?
        }
        None if !is_directory(&place)? => return Ok(()),
        // A hook that changes its root to the container's looks for itself there.
        None if mount.destination == Path::new(PROC) => copy_of(Path::new(PROC))?,
        None => nothing()?,
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&shown, c"", &place, c"", flags)
}

/// The place of a mount, which is made if `missing` says of what kind. None where there is none,
/// or it lies in something that the guest alone has.
fn find(root: &OwnedFd, destination: &Path, missing: Option<VolumeKind>) -> Result<Option<OwnedFd>, Errno> {
    let mut way = PathBuf::new();
    let mut place = None;
    let cleaned = clean(destination);
    let mut names = cleaned.iter().peekable();
    while let Some(name) = names.next() {
        let parent = place.take();
        way.push(name);
        place = Some(match (open(root, &way), missing) {
            (Err(Errno::NOENT), Some(kind)) => {
                let kind = if names.peek().is_some() { VolumeKind::Directory } else { kind };
                match make(parent.as_ref().unwrap_or(root), Path::new(name), kind) {
                    // Something read-only, or a link to nowhere.
                    Err(Errno::ROFS | Errno::EXIST) => return Ok(None),
                    other => other?,
                }
                open(root, &way)?
            }
            (Err(Errno::NOENT | Errno::NOTDIR), _) => return Ok(None),
            (other, _) => other?,
        });
    }
    Ok(place)
}

/// Without dots, which are taken away before links are looked at, as runc does it.
fn clean(destination: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for part in destination.components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => drop(cleaned.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

fn open(root: &OwnedFd, way: &Path) -> Result<OwnedFd, Errno> {
    openat2(root, way, PATH, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

fn make(parent: &OwnedFd, name: &Path, kind: VolumeKind) -> Result<(), Errno> {
    match kind {
        VolumeKind::Directory => mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        VolumeKind::File | VolumeKind::Socket => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(directory: &Path) -> OwnedFd {
        openat2(CWD, directory, PATH, Mode::empty(), ResolveFlags::empty()).unwrap()
    }

    #[test]
    fn missing_places_of_volumes_are_made_below_the_root_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path());
        std::os::unix::fs::symlink("/real", directory.path().join("link")).unwrap();
        std::fs::create_dir(directory.path().join("real")).unwrap();
        assert!(find(&root, Path::new("/a/b"), None).unwrap().is_none());
        assert!(find(&root, Path::new("/a/../a/b/"), Some(VolumeKind::Directory)).unwrap().is_some());
        assert!(directory.path().join("a/b").is_dir());
        assert!(find(&root, Path::new("/link/f"), Some(VolumeKind::File)).unwrap().is_some());
        assert!(directory.path().join("real/f").is_file());
        assert!(find(&root, Path::new("/real/f/x"), Some(VolumeKind::File)).unwrap().is_none());
    }
}
