//! `tmpcopyup`: a tmpfs that begins with what lies below it.
//!
//! The tmpfs is made and filled in the
//! guest's own tree, and the container gets a bind mount of it in its place.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use oci_spec::runtime::{Mount, Spec};

use super::dev;

/// The option's name.
const OPTION: &str = "tmpcopyup";

/// Replaces each such mount. `directory` is where the file systems are made.
pub(crate) fn prepare(spec: &mut Spec, rootfs: &Path, directory: &Path) -> Result<(), String> {
    let Some(mut mounts) = spec.mounts().clone() else { return Ok(()) };
    for (index, mount) in mounts.iter_mut().enumerate().filter(|(_, mount)| is_meant(mount)) {
        let destination = mount.destination().clone();
        let at = directory.join(format!("copyup-{index}"));
        let filled = fill(mount, rootfs, &at);
        filled.map_err(|error| format!("cannot fill the tmpfs at {}: {error}", destination.display()))?;
        become_bind(mount, at);
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

fn is_meant(mount: &Mount) -> bool {
    mount.options().iter().flatten().any(|option| option == OPTION)
}

/// What the file system itself understands, like `size=64m`.
fn is_data(option: &str) -> bool {
    option.contains('=')
}

fn become_bind(mount: &mut Mount, source: PathBuf) {
    let old = mount.options().iter().flatten().filter(|option| !is_data(option) && *option != OPTION);
    let options = ["rbind".to_owned()].into_iter().chain(old.cloned()).collect();
    mount.set_typ(Some("bind".to_owned())).set_source(Some(source)).set_options(Some(options));
}

fn fill(tmpfs: &Mount, rootfs: &Path, at: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(at)?;
    let options = tmpfs.options().clone().unwrap_or_default();
    let data: Vec<_> = options.iter().map(String::as_str).filter(|option| is_data(option)).collect();
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(data.join(",").as_str()))?;
    let below = tmpfs.destination().strip_prefix("/").unwrap_or(tmpfs.destination());
    // A link may lead out of the root file system: there is nothing to copy then.
    let Ok(from) = fs::canonicalize(rootfs.join(below)) else { return Ok(()) };
    if !from.starts_with(rootfs) || !from.is_dir() {
        return Ok(());
    }
    if !data.iter().any(|option| option.starts_with("mode=")) {
        look_like(&fs::metadata(&from)?, at)?;
    }
    copy(&from, at)?;
    if tmpfs.destination() == Path::new("/dev") {
        remove_what_is_made(at)?;
    }
    Ok(())
}

/// Devices and links of a `/dev` are made anew.
fn remove_what_is_made(tmpfs: &Path) -> io::Result<()> {
    for entry in fs::read_dir(tmpfs)? {
        let entry = entry?;
        if dev::is_made(&entry.file_name()) && !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = entry.metadata()?;
        let kind = metadata.file_type();
        if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
        } else if kind.is_dir() {
            fs::create_dir(&target)?;
            copy(&source, &target)?;
            look_like(&metadata, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
            look_like(&metadata, &target)?;
        }
        // Sockets, FIFOs and device nodes are of those who made them.
    }
    Ok(())
}

/// The owner first: a change of it takes set-user-ID bits away.
fn look_like(model: &Metadata, path: &Path) -> io::Result<()> {
    lchown(path, Some(model.uid()), Some(model.gid()))?;
    fs::set_permissions(path, model.permissions())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn mount_becomes_a_bind_without_what_only_a_tmpfs_understands() {
        let tmpfs = json!({
            "destination": "/run", "type": "tmpfs", "source": "tmpfs",
            "options": ["rw", "size=64m", "nosuid", "tmpcopyup"],
        });
        let mut mount: Mount = serde_json::from_value(tmpfs).unwrap();
        assert!(is_meant(&mount));
        become_bind(&mut mount, "/x".into());
        let value = serde_json::to_value(mount).unwrap();
        let expected = json!({ "destination": "/run", "type": "bind", "source": "/x", "options": ["rbind", "rw", "nosuid"] });
        assert_eq!(value, expected);
    }

    #[test]
    fn tree_is_copied_with_modes_and_links() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("d")).unwrap();
        fs::write(from.path().join("d/f"), "text").unwrap();
        fs::set_permissions(from.path().join("d/f"), fs::Permissions::from_mode(0o4751)).unwrap();
        symlink("/nowhere", from.path().join("l")).unwrap();
        copy(from.path(), to.path()).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("d/f")).unwrap(), "text");
        assert_eq!(fs::metadata(to.path().join("d/f")).unwrap().permissions().mode() & 0o7777, 0o4751);
        assert_eq!(fs::read_link(to.path().join("l")).unwrap(), Path::new("/nowhere"));
    }
}
