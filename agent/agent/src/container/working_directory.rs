//! The process's working directory, made where it is missing.
//!
//! In the root file system it is made before there is a container. In a mount of
//! the container, or behind a link, it can only be made inside.

use std::fs;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;

use super::destinations;

/// Makes it, or returns it if it is to be made inside. Whether it is there in the end
/// shows when the process enters it, so a failure is left to that.
pub(crate) fn make(spec: &Spec, rootfs: &Path) -> Option<PathBuf> {
    let cwd = spec.process().as_ref()?.cwd();
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    if mounts.iter().any(|mount| mount.destination() == cwd) {
        return None;
    }
    let Some((base, below)) = destinations::place(rootfs, mounts, cwd) else {
        return Some(cwd.clone());
    };
    let may_make = base == rootfs;
    (reach(&base, &below, may_make) == Reached::NotHere).then(|| cwd.clone())
}

#[derive(Debug, PartialEq, Eq)]
enum Reached {
    /// It is there, or nobody can make it.
    Settled,
    /// It is missing, or behind a link, which may lead out of `base`.
    NotHere,
}

fn reach(base: &Path, below: &Path, may_make: bool) -> Reached {
    let mut path = base.to_owned();
    for part in below.components() {
        if part == Component::ParentDir {
            return Reached::NotHere;
        }
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(metadata) if metadata.is_symlink() => return Reached::NotHere,
            Ok(_) => return Reached::Settled,
            Err(_) if !may_make => return Reached::NotHere,
            Err(_) if fs::create_dir(&path).is_err() => return Reached::Settled,
            Err(_) => {}
        }
    }
    Reached::Settled
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    #[test]
    fn directory_of_the_root_is_made_and_others_are_left_to_be_made_inside() {
        let (root, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(volume.path().join("there")).unwrap();
        symlink("/etc", root.path().join("link")).unwrap();
        symlink("/etc", volume.path().join("link")).unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let mounts = json!([
            { "destination": "/v", "type": "bind", "source": volume.path(), "options": ["rbind"] },
            { "destination": "/t", "type": "tmpfs", "source": "tmpfs" },
        ]);
        let inside = |cwd: &str| {
            let process = json!({ "user": { "uid": 0, "gid": 0 }, "args": ["x"], "cwd": cwd });
            let spec = json!({ "ociVersion": "1.0.2", "process": process, "mounts": mounts });
            make(&serde_json::from_value(spec).unwrap(), root.path()).is_some()
        };
        for settled in ["/", "/made/here", "/v", "/v/there", "/t", "/file/x"] {
            assert!(!inside(settled), "{settled}");
        }
        for open in ["/v/missing", "/v/link/x", "/t/x", "/link", "/link/x", "/made/../x"] {
            assert!(inside(open), "{open}");
        }
        assert!(root.path().join("made/here").is_dir());
        assert!(!volume.path().join("missing").exists());
    }
}
