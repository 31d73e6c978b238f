//! The shared tree: all that the guest can reach of the host.
//!
//! ```text
//!   share/            a tmpfs of our own, read-only once it is built, and in no copy of what it is mounted below
//!     rootfs/         bind mount of the container's root file system, read-only once the
//!                     container is made where the bundle says so
//!     volumes/0 …     bind mounts of the volumes, with the attributes and other owners
//!                     that the bundle wants
//! ```
//!
//! What the bundle does not let the container write to, this kernel does not let the file server
//! write to, whatever the guest's kernel thinks. File systems of the kernel's own are taken out of it.
//!
//! It lives in a mount namespace of the monitor's, which receives the host's
//! mounts and gives none back: the host's mount table never shows it, and it is
//! gone with the monitor however that ends.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use vmrun_proto::{ROOTFS_DIR, SharedMount, VOLUMES_DIR};
use vmrun_spec::{HostPlan, Propagation, Volume, VolumeKind};

use super::callers_ids;
use super::id_map::{self, IdMapError};
use super::kernels::{self, KernelsError, LaterMounts};
use crate::log::Log;
use crate::mount_attributes;

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
    #[error(transparent)]
    Kernels(#[from] KernelsError),
    #[error("cannot make the root file system read-only")]
    Readonly(#[source] io::Error),
}

/// Mount points are all that the tmpfs holds.
const TMPFS_OPTIONS: &str = "mode=0755,size=1m";

/// How long writing to the root file system may go on after the container is made: what the
/// agent has closed, the file server may not have heard of yet.
const WRITES_LIMIT: Duration = Duration::from_secs(20);

/// The first pause between two attempts, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));

/// A tree that was built.
#[derive(Debug)]
pub(crate) struct Built {
    /// What the guest has to be told of its mounts.
    pub(crate) mounts: Vec<SharedMount>,
    /// What has to be watched.
    pub(crate) later: Option<LaterMounts>,
    /// The mounts of the volumes that are sockets, in their order: each is its socket, whatever becomes of the name.
    pub(crate) sockets: Vec<OwnedFd>,
}

/// Builds the tree at `share`, which is made.
pub(crate) fn build(share: &Path, plan: &HostPlan, log: &Log) -> Result<Built, TreeError> {
    if let Some(warning) = enter_namespace().map_err(TreeError::Namespace)? {
        super::warn(log, &warning);
    }
    make_directory(share)?;
    let none: Option<&str> = None;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("vmrun"), share, Some("tmpfs"), flags, Some(TMPFS_OPTIONS))
        .map_err(|errno| TreeError::Make { path: share.to_owned(), source: errno.into() })?;
    // A volume that is a directory above, such as `/`, must not show all this once more: the root file
    // system with the rights that it has here, and the other volumes.
    mount(none, share, none, MsFlags::MS_UNBINDABLE, none)
        .map_err(|errno| TreeError::Close { path: share.to_owned(), source: errno.into() })?;
    let rootfs = share.join(ROOTFS_DIR);
    make_directory(&rootfs)?;
    attach(&copy_of(&plan.rootfs, true)?, &plan.rootfs, &rootfs)?;
    let sockets = add_volumes(&plan.volumes, &share.join(VOLUMES_DIR))?;
    let (mounts, later) = kernels::keep_out(share, plan)?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags;
    mount(none, share, none, flags, none)
        .map_err(|errno| TreeError::Close { path: share.to_owned(), source: errno.into() })?;
    Ok(Built { mounts, later, sockets })
}

/// Mounts the volumes in `directory`, which is made if there are any. Gives those that are sockets.
fn add_volumes(volumes: &[Volume], directory: &Path) -> Result<Vec<OwnedFd>, TreeError> {
    let mut sockets = Vec::new();
    if !volumes.is_empty() {
        make_directory(directory)?;
    }
    for (index, volume) in volumes.iter().enumerate() {
        let mount = add_volume(volume, &directory.join(index.to_string()))?;
        if volume.kind == VolumeKind::Socket {
            sockets.push(mount);
        }
    }
    Ok(sockets)
}

/// Ends writing to the root file system, now that the guest has made its mount points.
pub(crate) fn close_rootfs(share: &Path) -> Result<(), TreeError> {
    let rootfs = kernels::open(&share.join(ROOTFS_DIR)).map_err(TreeError::Readonly)?;
    let deadline = Instant::now() + WRITES_LIMIT;
    let mut pause = PAUSES.0;
    loop {
        match mount_attributes::change(&rootfs, mount_attributes::READONLY, false) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                thread::sleep(pause);
                pause = PAUSES.1.min(pause * 2);
            }
            other => return other.map_err(TreeError::Readonly),
        }
    }
}

/// Takes the tree out of the way of removing its directory. What cannot be
/// unmounted vanishes with the namespace.
pub(crate) fn unmount(share: &Path) {
    let _ = umount2(share, MntFlags::MNT_DETACH);
}

/// Mounts, and the host's name: who takes the monitor for the container's process and enters its namespaces
/// to set the name must not rename the host. Gives a warning.
fn enter_namespace() -> io::Result<Option<String>> {
    // Without root, a user namespace in which we are root lends the right to mount.
    let warning = if geteuid().is_root() { None } else { callers_ids::become_root()? };
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    Ok(warning)
}

fn make_directory(path: &Path) -> Result<(), TreeError> {
    fs::create_dir(path).map_err(|source| TreeError::Make { path: path.to_owned(), source })
}

/// Gives the mount.
fn add_volume(volume: &Volume, target: &Path) -> Result<OwnedFd, TreeError> {
    match volume.kind {
        VolumeKind::Directory => make_directory(target)?,
        VolumeKind::File | VolumeKind::Socket => drop(
            File::create_new(target).map_err(|source| TreeError::Make { path: target.to_owned(), source })?,
        ),
    }
    let failed = |source| TreeError::Bind { source_path: volume.source.clone(), source };
    let copy = copy_of(&volume.source, volume.recursive)?;
    if let Some(map) = &volume.id_map {
        id_map::apply(&copy, map).map_err(|source| TreeError::Map {
            field: map.field.clone(),
            source_path: volume.source.clone(),
            source,
        })?;
    }
    mount_attributes::change(&copy, volume.attributes, false).map_err(failed)?;
    mount_attributes::change(&copy, volume.below, true).map_err(failed)?;
    attach(&copy, &volume.source, target)?;
    isolate(target, volume.propagation).map_err(failed)?;
    Ok(copy)
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

/// Another mount of what is at `source`, mounted nowhere yet.
fn copy_of(source: &Path, recursive: bool) -> Result<OwnedFd, TreeError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(CWD, source, flags)
        .map_err(|errno| TreeError::Bind { source_path: source.to_owned(), source: errno.into() })
}

fn attach(copy: &OwnedFd, source: &Path, target: &Path) -> Result<(), TreeError> {
    move_mount(copy, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| TreeError::Bind { source_path: source.to_owned(), source: errno.into() })
}
