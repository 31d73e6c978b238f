//! Destinations of mounts, as runc cleans them: dots are taken away before links are looked at.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;

/// Takes `..` out of the destinations of a configuration's mounts.
pub(crate) fn clean(spec: &mut Spec) {
    let leads_up = |path: &Path| path.components().any(|part| part == Component::ParentDir);
    if !spec.mounts().iter().flatten().any(|mount| leads_up(mount.destination())) {
        return;
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in mounts.iter_mut().filter(|mount| leads_up(mount.destination())) {
        mount.set_destination(cleaned(mount.destination()));
    }
    spec.set_mounts(Some(mounts));
}

fn cleaned(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            // Above the root there is the root.
            Component::ParentDir => drop(cleaned.pop()),
            _ => {}
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_lead_up_and_not_out() {
        for (path, expected) in
            [("/tmp/../mnt", "/mnt"), ("/../../etc", "/etc"), ("a/../b/./c", "/b/c"), ("/a/..", "/")]
        {
            assert_eq!(cleaned(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
