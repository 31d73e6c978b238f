//! Disks: mounts of file systems on images and block devices, and block devices for the container itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Mount, Spec};
use vmrun_proto::{DISKS_DIR, Disk};
use vmrun_spec::{DiskPlan, DiskSlot, DiskSource, RateSpec};

use crate::root_image::{self, Changes, IMAGE_ANNOTATION, RootImage, WRITABLE_ANNOTATION};
use crate::validate::PlanError;
use crate::{Bundle, Facts, file_systems, rates, volumes};

/// What is behind the name of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskIdentity {
    /// A block device, whatever leads to it.
    Device {
        /// Its class.
        major: u32,
        /// Which one.
        minor: u32,
    },
    /// An image.
    File {
        /// Of its file system.
        device: u64,
        /// In it.
        inode: u64,
    },
}

/// The disks, and for each mount that is of one its source in the guest.
#[derive(Debug, Default)]
pub(crate) struct Disks {
    /// One a slot.
    pub(crate) planned: Vec<DiskPlan>,
    /// What is behind each, where that is known.
    identities: Vec<Option<DiskIdentity>>,
    /// By index in `mounts`.
    pub(crate) guest_sources: BTreeMap<usize, PathBuf>,
    /// What the root file system is on, if it is on one.
    pub(crate) root: Option<vmrun_proto::RootImage>,
}

/// Whose names for disks are read, and what has come of it.
struct Planner<'f> {
    known: &'f BTreeMap<PathBuf, DiskIdentity>,
    rate: Option<RateSpec>,
    disks: Disks,
}

/// Host paths for which [`Facts::disks`] has to tell what is behind them.
pub fn disk_sources(bundle: &Bundle) -> Vec<PathBuf> {
    let mounts = bundle.spec.mounts().iter().flatten();
    let mounted = mounts.filter(|mount| on_disk(mount).is_some());
    let mounted = mounted.filter_map(|mount| volumes::host_source(bundle, mount));
    // A root file system that cannot be is refused when it is planned.
    let root = root_image::root_image(bundle).ok().flatten();
    let root = root.into_iter().flat_map(|RootImage { image, changes, .. }| match changes {
        Changes::Disk(path) => vec![image, path],
        Changes::Memory | Changes::Nowhere => vec![image],
    });
    mounted.chain(root).collect()
}

/// Of a mount that is of a disk, whether its file system can be written.
fn on_disk(mount: &Mount) -> Option<bool> {
    file_systems::on_disk(mount.typ().as_deref().unwrap_or_default()).filter(|_| !volumes::is_bind(mount))
}

/// Plans one for each image or block device that a mount is of, and for each block device in `linux.devices` that the
/// container may use.
pub(crate) fn disks(bundle: &Bundle, facts: &Facts) -> Result<Disks, PlanError> {
    let rate = rates::disk_rate(bundle)?;
    let mut planner = Planner { known: &facts.disks, rate, disks: Disks::default() };
    if let Some(root) = root_image::root_image(bundle)? {
        planner.add_root(root)?;
    }
    for (index, mount) in bundle.spec.mounts().iter().flatten().enumerate() {
        let Some(writable) = on_disk(mount) else { continue };
        let field = format!("mounts[{index}].source");
        let Some(source) = volumes::host_source(bundle, mount) else {
            let typ = mount.typ().as_deref().unwrap_or_default();
            return Err(PlanError::invalid(
                field,
                format!("is missing; a mount of type {typ} needs an image"),
            ));
        };
        let slot = planner.add(field, DiskSource::Path(source), !writable || is_read_only(mount))?;
        planner.disks.guest_sources.insert(index, name(slot));
    }
    let linux = bundle.spec.linux().as_ref();
    let devices = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    for (index, device) in devices.iter().enumerate().filter(|(_, device)| device.typ() == LinuxDeviceType::B)
    {
        if let Some((source, writable)) = granted(&bundle.spec, device) {
            planner.add(format!("linux.devices[{index}]"), source, !writable)?;
        }
    }
    Ok(planner.disks)
}

impl Disks {
    /// What the agent has to know of them.
    pub(crate) fn for_the_guest(&self) -> Vec<Disk> {
        let disks = DiskSlot::all().zip(&self.planned);
        let disks = disks.map(|(slot, disk)| Disk {
            device: slot.device(),
            announcement: slot.announcement(),
            name: guest_name(slot),
            number: match disk.source {
                DiskSource::Device { major, minor } => Some((major, minor)),
                DiskSource::Path(_) => None,
            },
        });
        disks.collect()
    }
}

impl Planner<'_> {
    fn add_root(&mut self, root: RootImage) -> Result<(), PlanError> {
        let RootImage { image, typ, changes } = root;
        let field = |key: &str| format!("annotations[{key:?}]");
        let image = self.add(field(IMAGE_ANNOTATION), DiskSource::Path(image), true)?;
        let changes = match changes {
            Changes::Memory => vmrun_proto::Changes::Memory,
            Changes::Nowhere => vmrun_proto::Changes::Nowhere,
            Changes::Disk(path) => {
                let slot = self.add(field(WRITABLE_ANNOTATION), DiskSource::Path(path), false)?;
                vmrun_proto::Changes::Disk { name: guest_name(slot) }
            }
        };
        self.disks.root = Some(vmrun_proto::RootImage { name: guest_name(image), typ, changes });
        Ok(())
    }

    /// The same disk by several names is one, which can be written if any of its users may.
    fn add(&mut self, field: String, source: DiskSource, read_only: bool) -> Result<DiskSlot, PlanError> {
        let identity = self.identity(&source);
        let Disks { planned, identities, .. } = &mut self.disks;
        let mut known = planned.iter().zip(identities.iter());
        let at = known
            .position(|(disk, behind)| disk.source == source || (identity.is_some() && *behind == identity))
            .unwrap_or(planned.len());
        let Some(slot) = u8::try_from(at).ok().and_then(DiskSlot::new) else {
            let problem = format!(
                "is one disk more than the {} that a machine has room for; leave a mount or device out",
                DiskSlot::COUNT
            );
            return Err(PlanError::invalid(field, problem));
        };
        let Some(disk) = planned.get_mut(at) else {
            planned.push(DiskPlan { field, source, read_only, rate: self.rate });
            identities.push(identity);
            return Ok(slot);
        };
        if matches!(source, DiskSource::Device { .. }) {
            // By its number the guest is told of it, as rules for devices name it.
            disk.source = source;
        }
        if disk.read_only && !read_only {
            // Where it cannot be opened for writing, this is who wants that.
            (disk.read_only, disk.field) = (false, field);
        }
        Ok(slot)
    }

    fn identity(&self, source: &DiskSource) -> Option<DiskIdentity> {
        match source {
            DiskSource::Path(path) => self.known.get(path).copied(),
            DiskSource::Device { major, minor } => {
                Some(DiskIdentity::Device { major: *major, minor: *minor })
            }
        }
    }
}

/// What mounts of a disk have for their source in the guest.
fn name(slot: DiskSlot) -> PathBuf {
    Path::new(DISKS_DIR).join(slot.number().to_string())
}

fn guest_name(slot: DiskSlot) -> String {
    name(slot).display().to_string()
}

/// The last word on it counts.
fn is_read_only(mount: &Mount) -> bool {
    let mut options = mount.options().iter().flatten().rev();
    options.find(|option| matches!(option.as_str(), "ro" | "rw")).is_some_and(|option| option == "ro")
}

/// A device that rules for devices allow, and whether it may be written. A rule for all block devices, as a privileged
/// container has, is not about this one: no engine means to give a microVM all disks of its host.
fn granted(spec: &Spec, device: &LinuxDevice) -> Option<(DiskSource, bool)> {
    let (major, minor) = (u32::try_from(device.major()).ok()?, u32::try_from(device.minor()).ok()?);
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let rules = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    let access = rules.iter().filter(|rule| names(rule, device)).fold("", |access, rule| {
        let given = rule.access().as_deref().unwrap_or("rwm");
        match (rule.allow(), given.contains('w'), given.contains('r')) {
            (true, true, _) => "w",
            (true, false, true) if access.is_empty() => "r",
            (false, _, true) => "",
            (false, true, false) if access == "w" => "r",
            _ => access,
        }
    });
    (!access.is_empty()).then_some((DiskSource::Device { major, minor }, access == "w"))
}

fn names(rule: &LinuxDeviceCgroup, device: &LinuxDevice) -> bool {
    rule.typ() == Some(LinuxDeviceType::B)
        && rule.major() == Some(device.major())
        && rule.minor().is_none_or(|minor| minor < 0 || minor == device.minor())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::bundle;

    fn planned(config: Value) -> Result<Disks, String> {
        let mut config = config;
        config["ociVersion"] = json!("1.0.2");
        let spec = bundle::parse(config.to_string().as_bytes()).unwrap().spec;
        let dir = PathBuf::from("/bundle");
        let rootfs = dir.join("rootfs");
        let bundle = Bundle { dir, rootfs, spec, vm: Default::default(), ignored_capabilities: Vec::new() };
        let file = DiskIdentity::File { device: 1, inode: 9 };
        let device = DiskIdentity::Device { major: 7, minor: 3 };
        let known = [("/link", file), ("/x.img", file), ("/dev/loop3", device)];
        let facts = Facts {
            disks: known.into_iter().map(|(path, identity)| (path.into(), identity)).collect(),
            ..Facts::default()
        };
        disks(&bundle, &facts).map_err(|error| error.to_string())
    }

    fn mount(typ: &str, source: &str, options: &[&str]) -> Value {
        json!({ "destination": "/a", "type": typ, "source": source, "options": options })
    }

    #[test]
    fn each_image_is_a_disk_that_is_written_only_where_a_mount_may() {
        let disks = planned(json!({
            "mounts": [
                mount("ext4", "/x.img", &["ro"]),
                mount("tmpfs", "tmpfs", &[]),
                mount("squashfs", "./s.img", &[]),
                mount("ext4", "/x.img", &["ro", "rw"]),
                mount("ext4", "/bound", &["rbind"]),
                mount("ext2", "/y.img", &["nosuid", "ro"]),
            ],
            "annotations": { "dev.vmrun.disk.rate": "7iops" },
        }))
        .unwrap();
        let shown: Vec<_> = disks.planned.iter().map(|disk| (&*disk.field, disk.read_only)).collect();
        let expected = [("mounts[3].source", false), ("mounts[2].source", true), ("mounts[5].source", true)];
        assert_eq!(shown, expected);
        assert_eq!(disks.planned[1].source, DiskSource::Path("/bundle/s.img".into()));
        assert!(disks.planned.iter().all(|disk| disk.rate.unwrap().packets.unwrap().get() == 7));
        let sources: Vec<_> = disks.guest_sources.values().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            sources,
            ["/run/vmrun/disks/0", "/run/vmrun/disks/1", "/run/vmrun/disks/0", "/run/vmrun/disks/2"]
        );
        assert_eq!(disks.for_the_guest()[2].announcement, "4K@0xd001b000:1:27");
    }

    #[test]
    fn disk_by_several_names_is_one() {
        let device = json!({ "path": "/dev/disk", "type": "b", "major": 7, "minor": 3 });
        let rule = json!({ "allow": true, "type": "b", "major": 7, "minor": 3, "access": "r" });
        let disks = planned(json!({
            "mounts": [
                mount("ext4", "/x.img", &["ro"]),
                mount("ext4", "/dev/loop3", &[]),
                mount("ext4", "/link", &[]),
                mount("ext4", "/unknown", &[]),
            ],
            "linux": { "devices": [device], "resources": { "devices": [rule] } },
        }))
        .unwrap();
        let shown: Vec<_> = disks.planned.iter().map(|disk| (&*disk.field, disk.read_only)).collect();
        let expected =
            [("mounts[2].source", false), ("mounts[1].source", false), ("mounts[3].source", false)];
        assert_eq!(shown, expected);
        assert_eq!(disks.for_the_guest()[1].number, Some((7, 3)));
        assert_eq!(disks.guest_sources[&2], disks.guest_sources[&0]);
    }

    fn with_rules(rules: &Value) -> Vec<(DiskSource, bool)> {
        let device = json!({ "path": "/dev/disk", "type": "b", "major": 7, "minor": 3 });
        let other = json!({ "path": "/dev/null2", "type": "c", "major": 7, "minor": 3 });
        let linux = json!({ "devices": [other, device], "resources": { "devices": rules } });
        let disks = planned(json!({ "linux": linux })).unwrap();
        disks.planned.into_iter().map(|disk| (disk.source, disk.read_only)).collect()
    }

    #[test]
    fn block_device_is_a_disk_where_a_rule_names_it() {
        let rule = |allow: bool, minor: i64, access: &str| json!({ "allow": allow, "type": "b", "major": 7, "minor": minor, "access": access });
        let disk = |read_only| vec![(DiskSource::Device { major: 7, minor: 3 }, read_only)];
        let all = json!({ "allow": false, "access": "rwm" });
        assert_eq!(with_rules(&json!([all, rule(true, 3, "rwm")])), disk(false));
        assert_eq!(with_rules(&json!([all, rule(true, 3, "r"), rule(true, 3, "m")])), disk(true));
        assert_eq!(with_rules(&json!([all, rule(true, -1, "rw")])), disk(false));
        assert_eq!(with_rules(&json!([rule(true, 3, "rwm"), rule(false, 3, "w")])), disk(true));
        for rules in [
            json!([]),
            json!([all]),
            json!([all, rule(true, 4, "rwm")]),
            json!([all, rule(true, 3, "m")]),
            json!([rule(true, 3, "rwm"), rule(false, 3, "rwm")]),
            json!([{ "allow": true, "access": "rwm" }]),
            json!([{ "allow": true, "type": "b", "access": "rwm" }]),
        ] {
            assert_eq!(with_rules(&rules), [], "{rules}");
        }
    }

    #[test]
    fn image_that_is_not_named_and_disks_without_a_slot_are_refused() {
        let missing = json!({ "mounts": [{ "destination": "/a", "type": "erofs" }] });
        let error = planned(missing).unwrap_err();
        assert!(
            error.contains("mounts[0].source: is missing; a mount of type erofs needs an image"),
            "{error}"
        );
        let many: Vec<_> = (0..17).map(|number| mount("ext4", &format!("/{number}"), &[])).collect();
        let error = planned(json!({ "mounts": many })).unwrap_err();
        assert!(error.contains("mounts[16].source: is one disk more than the 16"), "{error}");
    }
}
