//! The root file system on a disk.
//!
//! ```text
//!   overlay at /run/vmrun/root ─▶ changes: a tmpfs, or the directories `upper` and `work` of another disk
//!                              └▶ the image, which nobody writes to
//! ```

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use oci_spec::runtime::{Mount, Spec};
use vmrun_proto::{Changes, RootImage};

use super::file_system;
use crate::container::create::words;

const ROOT: &str = "/run/vmrun/root";
const CHANGES: &str = "/run/vmrun/changes";

/// Mounts it, and has the configuration take it for its root; `node` gives the node of the disk of a name.
pub(super) fn mount_root(
    spec: &mut Spec,
    image: &RootImage,
    node: impl Fn(&str) -> Option<PathBuf>,
) -> Result<(), String> {
    let of_disk = |name: &str, typ: &str, option: Option<&str>| {
        let place = PathBuf::from(format!("{name}.root"));
        let node = node(name)
            .ok_or_else(|| format!("cannot mount the root file system: there is no disk {name}"))?;
        file_system::mount_at(&place, &node, &described(typ, option), false)
            .map_err(|cause| format!("cannot mount {typ} for the root file system: {cause}"))?;
        Ok::<_, String>(place)
    };
    let lower = of_disk(&image.name, &image.typ, Some("ro"))?;
    let root = match &image.changes {
        Changes::Nowhere => lower,
        Changes::Memory => overlay(&lower, &memory()?)?,
        Changes::Disk { name } => overlay(&lower, &of_disk(name, "ext4", None)?)?,
    };
    if let Some(mut given) = spec.root().clone() {
        given.set_path(root);
        spec.set_root(Some(given));
    }
    Ok(())
}

fn described(typ: &str, option: Option<&str>) -> Mount {
    let mut mount = Mount::default();
    mount.set_typ(Some(typ.to_owned())).set_options(option.map(|option| vec![option.to_owned()]));
    mount
}

fn memory() -> Result<PathBuf, String> {
    let about = |error: std::io::Error| {
        format!("cannot mount a tmpfs for changes of the root file system: {}", words(error))
    };
    fs::create_dir_all(CHANGES).map_err(about)?;
    let options = Some("mode=0700");
    mount(Some("tmpfs"), CHANGES, Some("tmpfs"), MsFlags::empty(), options)
        .map_err(|errno| about(errno.into()))?;
    Ok(CHANGES.into())
}

fn overlay(lower: &Path, changes: &Path) -> Result<PathBuf, String> {
    let about = |error: std::io::Error| {
        format!("cannot mount the root file system with its changes: {}", words(error))
    };
    let (upper, work) = (changes.join("upper"), changes.join("work"));
    if !upper.exists() {
        // Its owner and mode are those of the root directory.
        like(lower, &upper).map_err(about)?;
    }
    for directory in [work.as_path(), Path::new(ROOT)] {
        fs::create_dir_all(directory).map_err(about)?;
    }
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount(Some("overlay"), ROOT, Some("overlay"), MsFlags::empty(), Some(&*options))
        .map_err(|errno| about(errno.into()))?;
    Ok(ROOT.into())
}

/// Makes a directory that belongs to whom another does, for the same.
fn like(model: &Path, directory: &Path) -> std::io::Result<()> {
    let model = fs::metadata(model)?;
    fs::create_dir(directory)?;
    std::os::unix::fs::chown(directory, Some(model.uid()), Some(model.gid()))?;
    fs::set_permissions(directory, model.permissions())
}
