//! Destinations of mounts that lead through symbolic links.
//!
//! A destination is looked up inside of the root file system and what is missing is made, but not
//! where a link's target is missing, which runc makes. So links are
//! replaced by what they stand for first. What keeps a mount inside is still the kernel's
//! lookup: a path that is wrong here can only make it fail.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

/// As many as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// Replaces the links in each destination.
pub(crate) fn resolve(spec: &mut Spec, rootfs: &Path) {
    let Some(mut mounts) = spec.mounts().clone() else { return };
    let mut covered = Vec::with_capacity(mounts.len());
    for mount in &mut mounts {
        if let Some(resolved) = inside(rootfs, mount.destination(), &covered) {
            mount.set_destination(resolved);
        }
        covered.push(mount.destination().clone());
    }
    spec.set_mounts(Some(mounts));
}

/// What `destination` is in `rootfs`: absolute, and free of links. What lies below a path of
/// `covered` is not in there but in an earlier mount, and stays as it is. `None` when links
/// lead in a circle.
fn inside(rootfs: &Path, destination: &Path, covered: &[PathBuf]) -> Option<PathBuf> {
    let mut done = PathBuf::from("/");
    let mut left = parts(destination);
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            done.pop();
            continue;
        }
        done.push(&part);
        if covered.contains(&done) {
            done.extend(left);
            return Some(done);
        }
        let Ok(target) = fs::read_link(below(rootfs, &done)) else { continue };
        links += 1;
        if links > MAX_LINKS {
            return None;
        }
        done.pop();
        if target.is_absolute() {
            done = PathBuf::from("/");
        }
        left = parts(&target).into_iter().chain(left).collect();
    }
    Some(done)
}

/// Where the guest finds what the container will see at `path` after these mounts: a
/// directory, and the path below it. `None` in a file system that they make.
pub(crate) fn place(rootfs: &Path, mounts: &[Mount], path: &Path) -> Option<(PathBuf, PathBuf)> {
    let Some(mount) = mounts.iter().rev().find(|mount| path.starts_with(mount.destination())) else {
        return Some((rootfs.to_owned(), path.strip_prefix("/").unwrap_or(path).to_owned()));
    };
    let rest = path.strip_prefix(mount.destination()).ok()?;
    let source = mount.source().as_ref().filter(|_| is_bind(mount))?;
    Some((source.clone(), rest.to_owned()))
}

/// Whether a mount shows what is there already.
pub(crate) fn is_bind(mount: &Mount) -> bool {
    let mut options = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind") || options.any(|option| option == "bind" || option == "rbind")
}

fn below(rootfs: &Path, path: &Path) -> PathBuf {
    rootfs.join(path.strip_prefix("/").unwrap_or(path))
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    names.map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("var/lib")).unwrap();
        symlink("../../../../target", root.path().join("out")).unwrap();
        symlink("/var/lib", root.path().join("absolute")).unwrap();
        symlink("lib/new", root.path().join("var/relative")).unwrap();
        symlink("circle", root.path().join("circle")).unwrap();
        root
    }

    #[test]
    fn links_are_followed_and_stay_inside() {
        let root = root();
        let resolved = |path: &str| inside(root.path(), Path::new(path), &[]).unwrap().display().to_string();
        assert_eq!(resolved("/out"), "/target");
        assert_eq!(resolved("/out/x"), "/target/x");
        assert_eq!(resolved("/absolute/x"), "/var/lib/x");
        assert_eq!(resolved("/var/relative"), "/var/lib/new");
        assert_eq!(resolved("/var/../../missing/./y"), "/missing/y");
        assert_eq!(resolved("/"), "/");
        assert_eq!(inside(root.path(), Path::new("/circle/x"), &[]), None);
    }

    #[test]
    fn what_an_earlier_mount_covers_is_left_to_the_lookup_after_it() {
        let root = root();
        let covered = [PathBuf::from("/var")];
        let resolved = inside(root.path(), Path::new("/absolute/../relative"), &covered).unwrap();
        assert_eq!(resolved, Path::new("/var/lib/../relative"));
        assert_eq!(inside(root.path(), Path::new("/var"), &covered).unwrap(), Path::new("/var"));
    }
}
