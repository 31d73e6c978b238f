//! The container's root file system, from a directory of the guest to what the process sees.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, fchdir, pivot_root};
use oci_spec::runtime::{Linux, Spec};

use super::nodes::{self, Nodes};
use super::place::{self, Root};
use super::{Creation, mounts, words};

const NOTHING: Option<&str> = None;

/// Mounts everything in `rootfs`, and fills its `/dev`.
pub(super) fn prepare(spec: &Spec, creation: &Creation<'_>, nodes: Nodes) -> Result<Root, String> {
    let rootfs = creation.rootfs;
    let linux = spec.linux().as_ref();
    let propagation = linux.and_then(|linux| linux.rootfs_propagation().as_deref());
    set_propagation(propagation, rootfs)
        .map_err(|error| format!("linux.rootfsPropagation: cannot set it: {}", words(error)))?;
    let about = |error: std::io::Error| format!("root.path: cannot mount it: {}", words(error));
    mount(Some(rootfs), rootfs, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)
        .map_err(|error| about(error.into()))?;
    let root = Root::open(rootfs).map_err(about)?;
    mounts::mount_all(&root, spec, creation.given, creation.cgroup.directory())?;
    nodes::furnish(&root, spec, nodes)?;
    Ok(root)
}

/// What is mounted here is not seen outside, nor, if the configuration wants that, the other way round.
fn set_propagation(propagation: Option<&str>, rootfs: &Path) -> nix::Result<()> {
    let kind = match propagation {
        Some("shared") => MsFlags::MS_SHARED,
        Some("private") => MsFlags::MS_PRIVATE,
        _ => MsFlags::MS_SLAVE,
    };
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | kind, NOTHING)?;
    if kind != MsFlags::MS_SHARED {
        return Ok(());
    }
    // A root cannot be changed in a shared mount: that which `rootfs` is in.
    for above in rootfs.ancestors() {
        match mount(NOTHING, above, NOTHING, MsFlags::MS_PRIVATE, NOTHING) {
            // No mount begins there.
            Err(Errno::EINVAL) => {}
            other => return other,
        }
    }
    Ok(())
}

/// Makes it the root of this process's mount namespace.
pub(super) fn enter(root: &Root) -> Result<(), String> {
    pivot(root).map_err(|error| format!("cannot change the root: {}", words(error)))
}

fn pivot(root: &Root) -> nix::Result<()> {
    let old = place::find_outside(Path::new("/"))
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    fchdir(&root.0)?;
    // The old root is mounted over the new one; from there it is taken away.
    pivot_root(".", ".")?;
    fchdir(&old)?;
    // Nobody outside is to see that.
    mount(NOTHING, ".", NOTHING, MsFlags::MS_SLAVE | MsFlags::MS_REC, NOTHING)?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

/// What the root mount itself is to be, in the end.
pub(super) fn finish_propagation(linux: &Linux) -> Result<(), String> {
    let kind = match linux.rootfs_propagation().as_deref() {
        Some("shared") => MsFlags::MS_SHARED,
        Some("unbindable") => MsFlags::MS_UNBINDABLE,
        _ => return Ok(()),
    };
    mount(NOTHING, "/", NOTHING, kind, NOTHING)
        .map_err(|error| format!("linux.rootfsPropagation: cannot set it: {}", words(error)))
}
