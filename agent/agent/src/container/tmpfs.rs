//! The mode of a tmpfs that is not told one: that of the directory below, as runc has it.
//!
//! Where there is none it is the kernel's own, which lets everybody write.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use oci_spec::runtime::{Mount, Spec};

use super::destinations::{self, is_bind};

/// Gives each such mount a mode. Destinations are free of links.
pub(crate) fn keep_modes(spec: &mut Spec, rootfs: &Path) {
    let Some(mut mounts) = spec.mounts().clone() else { return };
    for index in 0..mounts.len() {
        let (earlier, rest) = mounts.split_at_mut(index);
        let Some(mount) = rest.first_mut().filter(|mount| wants_mode(mount)) else { continue };
        let below = destinations::place(rootfs, earlier, mount.destination());
        let mode = below.and_then(|(base, rest)| directory_mode(&base.join(rest)));
        let Some(option) = mode.map(|mode| format!("mode={mode:04o}")) else { continue };
        let options = mount.options().iter().flatten().cloned().chain([option]).collect();
        mount.set_options(Some(options));
    }
    spec.set_mounts(Some(mounts));
}

fn wants_mode(mount: &Mount) -> bool {
    let mut options = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("tmpfs")
        && !is_bind(mount)
        && !options.any(|option| option.starts_with("mode="))
}

fn directory_mode(path: &Path) -> Option<u32> {
    let metadata = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_dir)?;
    Some(metadata.permissions().mode() & 0o7777)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options(mounts: &serde_json::Value, rootfs: &Path) -> Vec<String> {
        let mut spec: Spec =
            serde_json::from_value(json!({ "ociVersion": "1.0.2", "mounts": mounts })).unwrap();
        keep_modes(&mut spec, rootfs);
        let mounts = spec.mounts().iter().flatten();
        mounts.map(|mount| mount.options().clone().unwrap_or_default().join(",")).collect()
    }

    fn directory(path: &Path, mode: u32) {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn mode_is_that_of_the_directory_below() {
        let (root, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        directory(&root.path().join("secret"), 0o2710);
        directory(&volume.path().join("open"), 0o1777);
        let mounts = json!([
            { "destination": "/secret", "type": "tmpfs", "options": ["size=1m"] },
            { "destination": "/missing", "type": "tmpfs" },
            { "destination": "/v", "type": "bind", "source": volume.path(), "options": ["rbind"] },
            { "destination": "/v/open", "type": "tmpfs", "options": [] },
            { "destination": "/secret/below", "type": "tmpfs" },
        ]);
        let expected = ["size=1m,mode=2710", "", "rbind", "mode=1777", ""];
        assert_eq!(options(&mounts, root.path()), expected);
    }

    #[test]
    fn what_is_told_its_mode_or_is_no_new_tmpfs_stays_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let mounts = json!([
            { "destination": "/dev", "type": "tmpfs", "options": ["mode=755", "size=65536k"] },
            { "destination": "/a", "type": "tmpfs", "source": "/b", "options": ["bind"] },
            { "destination": "/proc", "type": "proc" },
        ]);
        assert_eq!(options(&mounts, root.path()), ["mode=755,size=65536k", "bind", ""]);
    }
}
