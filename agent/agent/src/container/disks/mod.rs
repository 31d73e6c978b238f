//! Disks of the host's: found in their slots, mounted where the configuration has mounts of them, and put under their
//! numbers here where it has devices.
//!
//! A file system is mounted in the agent's own namespace, and bound from there: so it can be mounted for a container with
//! a user namespace, too, and the agent can end it in order.

mod file_system;
mod kernel_log;
mod root;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespaceType, Mount, Spec};
use rustix::fs::{CWD, FileType, Gid, Mode, Uid, chown, makedev, mknodat};
use vmrun_proto::{DISKS_DIR, Disk, RootImage};

use super::create::{mounts, words};
use super::identity::host_user;
use crate::{late_device, log};

const PLATFORM_DEVICES: &str = "/sys/bus/platform/devices";
const DEV: &str = "/dev";

/// A disk that the guest's kernel has.
#[derive(Debug)]
struct Found<'d> {
    disk: &'d Disk,
    /// Its node in `/dev`.
    node: PathBuf,
    /// Major and minor.
    number: (u32, u32),
}

impl Found<'_> {
    /// Its number on the host.
    fn host(&self) -> Option<(i64, i64)> {
        self.disk.number.map(|(major, minor)| (major.into(), minor.into()))
    }

    /// And in the guest.
    fn here(&self) -> (i64, i64) {
        (self.number.0.into(), self.number.1.into())
    }
}

/// Has the kernel find the disks, and `spec` name them as they are here; `given` is the configuration whose fields
/// failures name.
pub(crate) fn attach(
    spec: &mut Spec,
    given: &Spec,
    disks: &[Disk],
    root: Option<&RootImage>,
) -> Result<(), String> {
    if disks.is_empty() {
        return Ok(());
    }
    let found: Vec<_> = disks.iter().map(find).collect::<Result<_, _>>()?;
    if let Some(root) = root {
        let named = |name: &str| found.iter().find(|found| found.disk.name == name);
        root::mount_root(spec, root, |name| named(name).map(|found| found.node.clone()))?;
    }
    mount_all(spec, given, &found)?;
    rename_devices(spec, &found);
    if has_user_namespace(spec) {
        make_nodes_to_bind(spec)?;
    }
    Ok(())
}

fn find(disk: &Disk) -> Result<Found<'_>, String> {
    let about = |error: io::Error| format!("cannot use the disk at {}: {}", disk.device, words(error));
    let virtio = late_device::bind(&disk.device, &disk.announcement).map_err(about)?;
    let block = Path::new(PLATFORM_DEVICES).join(&disk.device).join(virtio).join("block");
    block_device(&block)
        .map(|(name, number)| Found { disk, node: Path::new(DEV).join(name), number })
        .map_err(about)
}

/// The name and the number of the one block device below `directory`, which the driver has made by now.
fn block_device(directory: &Path) -> io::Result<(String, (u32, u32))> {
    let entry = fs::read_dir(directory)?.next().ok_or(io::ErrorKind::NotFound)??;
    let text = fs::read_to_string(entry.path().join("dev"))?;
    let number = text
        .trim_end()
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let name = entry.file_name().into_string().ok();
    name.zip(number).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Mounts what is on them, each mount by itself, and has the configuration bind that.
fn mount_all(spec: &mut Spec, given: &Spec, found: &[Found<'_>]) -> Result<(), String> {
    let Some(mut mounts) = spec.mounts().clone() else { return Ok(()) };
    let written = found.iter().filter(|found| {
        mounts.iter().any(|mount| is_of(mount, found.disk) && !file_system::is_read_only(mount))
    });
    let written: BTreeSet<_> = written.map(|found| found.number).collect();
    for (index, mount) in mounts.iter_mut().enumerate() {
        let Some(disk) = found.iter().find(|found| is_of(mount, found.disk)) else { continue };
        let place = PathBuf::from(format!("{}.{index}", disk.disk.name));
        file_system::mount_at(&place, &disk.node, mount, written.contains(&disk.number))
            .map_err(|cause| format!("{}: {cause}", mounts::describe(mount, given)))?;
        mount.set_typ(Some("bind".to_owned())).set_source(Some(place));
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

fn is_of(mount: &Mount, disk: &Disk) -> bool {
    mount.source().as_deref() == Some(Path::new(&disk.name))
}

/// Devices, and the rules that name one, get the numbers that the disks have here.
fn rename_devices(spec: &mut Spec, found: &[Found<'_>]) {
    let Some(mut linux) = spec.linux().clone() else { return };
    if let Some(mut devices) = linux.devices().clone() {
        for device in devices.iter_mut().filter(|device| device.typ() == LinuxDeviceType::B) {
            if let Some((major, minor)) = here(found, device.major(), device.minor()) {
                device.set_major(major).set_minor(minor);
            }
        }
        linux.set_devices(Some(devices));
    }
    if let Some(mut resources) = linux.resources().clone()
        && let Some(rules) = resources.devices().clone()
    {
        let rules = rules.into_iter().flat_map(|rule| renamed(rule, found)).collect();
        resources.set_devices(Some(rules));
        linux.set_resources(Some(resources));
    }
    spec.set_linux(Some(linux));
}

/// The number here of the host's device of that number.
fn here(found: &[Found<'_>], major: i64, minor: i64) -> Option<(i64, i64)> {
    found.iter().find(|found| found.host() == Some((major, minor))).map(Found::here)
}

/// A rule for one disk is for that disk's number here; one for all devices of a driver is for those of its disks besides.
fn renamed(mut rule: LinuxDeviceCgroup, found: &[Found<'_>]) -> Vec<LinuxDeviceCgroup> {
    let Some(major) = rule.major().filter(|_| rule.typ() == Some(LinuxDeviceType::B)) else {
        return vec![rule];
    };
    let of_this = |mut rule: LinuxDeviceCgroup, (major, minor)| {
        rule.set_major(Some(major)).set_minor(Some(minor));
        rule
    };
    if let Some(minor) = rule.minor().filter(|minor| *minor >= 0) {
        if let Some(number) = here(found, major, minor) {
            rule = of_this(rule, number);
        }
        return vec![rule];
    }
    let its = found.iter().filter(|found| found.host().is_some_and(|(of, _)| of == major));
    let its: Vec<_> = its.map(|found| of_this(rule.clone(), found.here())).collect();
    std::iter::once(rule).chain(its).collect()
}

fn has_user_namespace(spec: &Spec) -> bool {
    let namespaces =
        spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

/// In a user namespace nobody makes nodes: those of the guest are bound, and so are these.
fn make_nodes_to_bind(spec: &Spec) -> Result<(), String> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    for device in devices.iter().filter(|device| device.typ() == LinuxDeviceType::B) {
        make_node(spec, device).map_err(|error| {
            format!("linux.devices {}: cannot make the node: {}", device.path().display(), words(error))
        })?;
    }
    Ok(())
}

fn make_node(spec: &Spec, device: &LinuxDevice) -> io::Result<()> {
    let number = makedev(part(device.major())?, part(device.minor())?);
    if let Ok(there) = fs::symlink_metadata(device.path()) {
        let is_it =
            there.file_type().is_block_device() && std::os::unix::fs::MetadataExt::rdev(&there) == number;
        return if is_it { Ok(()) } else { Err(io::ErrorKind::AlreadyExists.into()) };
    }
    if let Some(above) = device.path().parent() {
        fs::create_dir_all(above)?;
    }
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666));
    mknodat(CWD, device.path(), FileType::BlockDevice, mode, number)?;
    let owner = |id: Option<u32>| id.map(|id| host_user(spec, id));
    let (user, group) = (owner(device.uid()).map(Uid::from_raw), owner(device.gid()).map(Gid::from_raw));
    Ok(chown(device.path(), user, group)?)
}

fn part(number: i64) -> io::Result<u32> {
    u32::try_from(number).map_err(io::Error::other)
}

/// Ends writing to the file systems of disks, so that what is on them is whole without a repair. One that somebody still
/// writes to stays as it is; what was synced is on it all the same.
pub(crate) fn close() {
    for entry in fs::read_dir(DISKS_DIR).into_iter().flatten().flatten() {
        let (nothing, place) = (None::<&str>, entry.path());
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        if let Err(error) = mount(nothing, &place, nothing, flags, nothing) {
            log::warn(format_args!("cannot remount {} read-only: {error}", place.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn disk_is_found_by_what_its_driver_has_made() {
        let directory = tempfile::tempdir().unwrap();
        assert!(block_device(directory.path()).is_err());
        fs::create_dir(directory.path().join("vdb")).unwrap();
        fs::write(directory.path().join("vdb/dev"), "254:16\n").unwrap();
        assert_eq!(block_device(directory.path()).unwrap(), ("vdb".to_owned(), (254, 16)));
        fs::write(directory.path().join("vdb/dev"), "none\n").unwrap();
        assert!(block_device(directory.path()).is_err());
    }

    #[test]
    fn devices_and_rules_that_name_a_disk_get_its_numbers_here_and_no_others() {
        let disk = Disk {
            device: String::new(),
            announcement: String::new(),
            name: String::new(),
            number: Some((7, 3)),
        };
        let found = [Found { disk: &disk, node: "/dev/vda".into(), number: (254, 16) }];
        let device =
            |typ: &str, minor: i64| json!({ "path": "/dev/x", "type": typ, "major": 7, "minor": minor });
        let rule = |typ: &str, minor: i64| json!({ "allow": true, "type": typ, "major": 7, "minor": minor });
        let linux = json!({
            "devices": [device("b", 3), device("c", 3), device("b", 4)],
            "resources": { "devices": [rule("b", 3), rule("c", 3), rule("b", 4), rule("b", -1), { "allow": false }] },
        });
        let mut spec: Spec =
            serde_json::from_value(json!({ "ociVersion": "1.0.2", "linux": linux })).unwrap();
        rename_devices(&mut spec, &found);
        let linux = spec.linux().as_ref().unwrap();
        let numbers: Vec<_> =
            linux.devices().as_ref().unwrap().iter().map(|device| (device.major(), device.minor())).collect();
        assert_eq!(numbers, [(254, 16), (7, 3), (7, 4)]);
        let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
        let numbers: Vec<_> = rules.iter().map(|rule| (rule.major(), rule.minor())).collect();
        let disk = (Some(254), Some(16));
        let all = (Some(7), Some(-1));
        assert_eq!(numbers, [disk, (Some(7), Some(3)), (Some(7), Some(4)), all, disk, (None, None)]);
    }
}
