//! Types of mounts: the file systems of the guest's kernel.
//!
//! What another one would show is on the host, and comes in by a bind mount.

use std::path::PathBuf;

use oci_spec::runtime::{Mount, Spec};

use crate::validate::PlanError;
use crate::volumes::is_bind;
use crate::{Bundle, Facts};

/// Those that are made out of nothing, so that they are as good in the guest as on the host.
const OWN: &[&str] = &[
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "devpts",
    "devtmpfs",
    "hugetlbfs",
    "mqueue",
    "proc",
    "ramfs",
    "sysfs",
    "tmpfs",
];

/// Those whose options name directories of the host.
const OF_DIRECTORIES: &[&str] = &["overlay", "fuse", "virtiofs", "9p", "aufs", "ecryptfs"];

/// Those on a disk that the guest's kernel has, and whether one can be written.
const ON_DISKS: &[(&str, bool)] =
    &[("erofs", false), ("ext2", true), ("ext3", true), ("ext4", true), ("squashfs", false)];

/// Others of block devices.
const OF_DEVICES: &[&str] = &["btrfs", "exfat", "f2fs", "iso9660", "ntfs3", "udf", "vfat", "xfs", "zfs"];

/// Those of another machine.
const OF_NETWORKS: &[&str] = &["afs", "ceph", "cifs", "glusterfs", "nfs", "nfs4", "smb3"];

const DIRECTORIES: &str =
    "what it shows is on the host, where the guest cannot mount it; mount it there and bind that";
const DEVICES: &str =
    "the guest's kernel has ext2, ext3, ext4, erofs and squashfs alone; mount it on the host and bind that";
const NETWORKS: &str = "the guest cannot reach its server; mount it on the host and bind that";
const UNKNOWN: &str =
    "the guest's kernel has no such file system; leave the mount out, or bind one of the host";

/// Refuses a mount whose type cannot be mounted in the guest.
pub(crate) fn check(spec: &Spec) -> Result<(), PlanError> {
    let mounts = spec.mounts().iter().flatten().enumerate().filter(|(_, mount)| !is_bind(mount));
    for (index, mount) in mounts {
        let Some(typ) = mount.typ().as_deref().filter(|typ| !typ.is_empty()) else {
            let problem = "is missing; a bind mount has the option bind or rbind";
            return Err(PlanError::invalid(format!("mounts[{index}].type"), problem));
        };
        if let Some(why) = why_not(typ) {
            return Err(PlanError::Unsupported { field: place(index, mount, typ), why });
        }
    }
    Ok(())
}

/// Host paths of the places in the root file system where proc and sysfs are to be mounted.
pub fn kernel_mount_points(bundle: &Bundle) -> Vec<PathBuf> {
    mount_points(bundle).map(|(_, _, place)| place).collect()
}

/// With the number of the mount, and the mount.
fn mount_points(bundle: &Bundle) -> impl Iterator<Item = (usize, &Mount, PathBuf)> {
    let mounts = bundle.spec.mounts().as_deref().unwrap_or_default();
    mounts.iter().enumerate().filter_map(move |(index, mount)| {
        let destination = mount.destination();
        let is_kernels = matches!(mount.typ().as_deref(), Some("proc" | "sysfs")) && !is_bind(mount);
        // What an earlier mount covers is not in the root file system.
        let covered = mounts.iter().take(index).any(|earlier| destination.starts_with(earlier.destination()));
        let below = destination.strip_prefix("/").unwrap_or(destination);
        (is_kernels && !covered).then(|| (index, mount, bundle.rootfs.join(below)))
    })
}

/// Refuses to mount proc or sysfs through a link, as runc does: what is there would not be where
/// everybody takes it to be.
pub(crate) fn check_mount_points(bundle: &Bundle, facts: &Facts) -> Result<(), PlanError> {
    let found = mount_points(bundle)
        .find_map(|(index, mount, place)| Some((index, mount, facts.not_directories.get(&place)?, place)));
    let Some((index, mount, what, place)) = found else { return Ok(()) };
    let problem = format!(
        "filesystem {:?} must be mounted on ordinary directory, and {} in the root file system is {what}: {}",
        mount.typ().as_deref().unwrap_or_default(),
        mount.destination().display(),
        place.display(),
    );
    Err(PlanError::invalid(format!("mounts[{index}].destination"), problem))
}

/// Of a file system on a disk, whether it can be written.
pub(crate) fn on_disk(typ: &str) -> Option<bool> {
    ON_DISKS.iter().find(|(known, _)| *known == typ).map(|(_, writable)| *writable)
}

fn why_not(typ: &str) -> Option<&'static str> {
    let family = typ.split('.').next().unwrap_or(typ);
    let table = [(OF_DIRECTORIES, DIRECTORIES), (OF_DEVICES, DEVICES), (OF_NETWORKS, NETWORKS)];
    if OWN.contains(&typ) || on_disk(typ).is_some() {
        return None;
    }
    let known = table.into_iter().find(|(types, _)| types.contains(&family));
    Some(known.map_or(UNKNOWN, |(_, why)| why))
}

/// The option that names a directory tells more than the type.
fn place(index: usize, mount: &Mount, typ: &str) -> String {
    let mut options = mount.options().iter().flatten();
    match options.find(|option| option.contains("dir=/") || option.contains("dir+=/")) {
        Some(option) => format!("mounts[{index}].options: {option} of a mount of type {typ}"),
        None => format!("mounts[{index}].type: {typ}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(mount: &serde_json::Value) -> String {
        let spec = json!({ "ociVersion": "1.0.2", "mounts": [mount] });
        check(&serde_json::from_value(spec).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn file_systems_that_show_something_of_the_host_are_refused_by_field() {
        let overlay = json!({
            "destination": "/a", "type": "overlay", "source": "overlay", "options": ["ro", "lowerdir=/l:/m"],
        });
        let start =
            "config.json: mounts[0].options: lowerdir=/l:/m of a mount of type overlay: not supported: ";
        assert!(message(&overlay).starts_with(start));
        for (typ, why) in [
            ("overlay", DIRECTORIES),
            ("fuse.sshfs", DIRECTORIES),
            ("xfs", DEVICES),
            ("nfs4", NETWORKS),
            ("nonsense", UNKNOWN),
        ] {
            let text = message(&json!({ "destination": "/a", "type": typ, "source": "/dev/vda" }));
            assert_eq!(text, format!("config.json: mounts[0].type: {typ}: not supported: {why}"));
        }
        assert!(
            message(&json!({ "destination": "/a" })).starts_with("config.json: mounts[0].type: is missing")
        );
    }

    #[test]
    fn own_file_systems_and_bind_mounts_of_any_type_pass() {
        let mut mounts: Vec<_> = OWN.iter().map(|typ| json!({ "destination": "/a", "type": typ })).collect();
        mounts.push(json!({ "destination": "/a", "type": "ext4", "source": "/s", "options": ["rbind"] }));
        mounts.push(json!({ "destination": "/a", "source": "/s", "options": ["bind"] }));
        let spec = json!({ "ociVersion": "1.0.2", "mounts": mounts });
        check(&serde_json::from_value(spec).unwrap()).unwrap();
    }
}
