//! The shared tree: all that the guest can reach of the host.
//!
//! ```text
//!   share/            a tmpfs of our own, read-only once it is built
//!     rootfs/         bind mount of the container's root file system
//!     volumes/0 …     bind mounts of the volumes, read-only and with other owners where
//!                     the bundle says so
//! ```
//!
//! It lives in a mount namespace of the monitor's, which receives the host's
//! mounts and gives none back: the host's mount table never shows it, and it is
//! gone with the monitor however that ends.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{getegid, geteuid};
use vmrun_proto::{ROOTFS_DIR, VOLUMES_DIR};
use vmrun_spec::{HostPlan, Propagation, Volume, VolumeKind};

use super::id_map::{self, IdMapError};

/// Why the tree could not be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    #[error("cannot make a mount namespace")]
    Namespace(#[source] io::Error),
    #[error("cannot make {}", .path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot share {} with the guest", .source_path.display())]
    Bind { source_path: PathBuf, source: io::Error },
    #[error("{field}: cannot show {} with other owners", .source_path.display())]
    Map { field: String, source_path: PathBuf, source: IdMapError },
    #[error("cannot close the shared tree {}", .path.display())]
    Close { path: PathBuf, source: io::Error },
}

/// Mount points are all that the tmpfs holds.
const TMPFS_OPTIONS: &str = "mode=0755,size=1m";

/// Builds the tree at `share`, which is made.
pub(crate) fn build(share: &Path, plan: &HostPlan) -> Result<(), TreeError> {
    enter_namespace().map_err(TreeError::Namespace)?;
    make_directory(share)?;
    let none: Option<&str> = None;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("vmrun"), share, Some("tmpfs"), flags, Some(TMPFS_OPTIONS))
        .map_err(|errno| TreeError::Make { path: share.to_owned(), source: errno.into() })?;
    let rootfs = share.join(ROOTFS_DIR);
    make_directory(&rootfs)?;
    bind(&plan.rootfs, &rootfs, true)?;
    if !plan.volumes.is_empty() {
        let volumes = share.join(VOLUMES_DIR);
        make_directory(&volumes)?;
        for (index, volume) in plan.volumes.iter().enumerate() {
            add_volume(volume, &volumes.join(index.to_string()))?;
        }
    }
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags;
    mount(none, share, none, flags, none)
        .map_err(|errno| TreeError::Close { path: share.to_owned(), source: errno.into() })
}

/// Takes the tree out of the way of removing its directory. What cannot be
/// unmounted vanishes with the namespace.
pub(crate) fn unmount(share: &Path) {
    let _ = umount2(share, MntFlags::MNT_DETACH);
}

fn enter_namespace() -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        unshare(CloneFlags::CLONE_NEWNS)?;
    } else {
        // Without root, a user namespace in which we are root lends the right to mount.
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), TreeError> {
    fs::create_dir(path).map_err(|source| TreeError::Make { path: path.to_owned(), source })
}

fn add_volume(volume: &Volume, target: &Path) -> Result<(), TreeError> {
    match volume.kind {
        VolumeKind::Directory => make_directory(target)?,
        VolumeKind::File => drop(
            File::create_new(target).map_err(|source| TreeError::Make { path: target.to_owned(), source })?,
        ),
    }
    match &volume.id_map {
        None => bind(&volume.source, target, volume.recursive)?,
        Some(map) => id_map::bind(&volume.source, target, volume.recursive, map).map_err(|source| {
            TreeError::Map { field: map.field.clone(), source_path: volume.source.clone(), source }
        })?,
    }
    let failed = |source| TreeError::Bind { source_path: volume.source.clone(), source };
    isolate(target, volume.propagation).map_err(failed)?;
    if !volume.readonly {
        return Ok(());
    }
    // The host holds it too: a guest that forgets the flag still cannot write.
    make_readonly(target).map_err(failed)
}

/// What is bound receives the host's later mounts, unless it is cut off from them.
fn isolate(target: &Path, propagation: Propagation) -> io::Result<()> {
    let flags = match propagation {
        Propagation::Slave => return Ok(()),
        Propagation::Private => MsFlags::MS_PRIVATE,
        Propagation::RecursivelyPrivate => MsFlags::MS_PRIVATE | MsFlags::MS_REC,
    };
    let none: Option<&str> = None;
    Ok(mount(none, target, none, flags, none)?)
}

pub(super) fn bind(source: &Path, target: &Path, recursive: bool) -> Result<(), TreeError> {
    let mut flags = MsFlags::MS_BIND;
    flags.set(MsFlags::MS_REC, recursive);
    let none: Option<&str> = None;
    mount(Some(source), target, none, flags, none)
        .map_err(|errno| TreeError::Bind { source_path: source.to_owned(), source: errno.into() })
}

/// Makes the mount at `target` read-only.
pub(super) fn make_readonly(target: &Path) -> io::Result<()> {
    // In a user namespace the flags that the mount has are locked: leaving one out is refused.
    let present = statvfs(target)?.flags();
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    flags.set(MsFlags::MS_NODEV, present.contains(FsFlags::ST_NODEV));
    flags.set(MsFlags::MS_NOSUID, present.contains(FsFlags::ST_NOSUID));
    flags.set(MsFlags::MS_NOEXEC, present.contains(FsFlags::ST_NOEXEC));
    flags.set(MsFlags::MS_NOATIME, present.contains(FsFlags::ST_NOATIME));
    flags.set(MsFlags::MS_NODIRATIME, present.contains(FsFlags::ST_NODIRATIME));
    flags.set(MsFlags::MS_RELATIME, present.contains(FsFlags::ST_RELATIME));
    let none: Option<&str> = None;
    Ok(mount(none, target, none, flags, none)?)
}
