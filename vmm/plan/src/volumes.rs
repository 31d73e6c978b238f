//! Bind mounts: where their sources are on the host and in the guest.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, Root};
use vmrun_proto::{HostSocket, SHARE_MOUNT, VOLUMES_DIR};
use vmrun_spec::{Propagation, View, ViewMount, Volume, VolumeKind};

use crate::validate::PlanError;
use crate::{Bundle, Facts, id_map, mount_attributes};

/// The volumes, and for each bind mount of the configuration its source in the guest.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    pub(crate) planned: Vec<Volume>,
    /// By index in `mounts`.
    pub(crate) guest_sources: BTreeMap<usize, PathBuf>,
    /// By index in `mounts`, the number of the volume.
    numbers: BTreeMap<usize, usize>,
}

/// Whether the configuration's mount is a bind mount.
pub(crate) fn is_bind(mount: &Mount) -> bool {
    let by_type = mount.typ().as_deref() == Some("bind");
    by_type || has_option(mount, &["bind", "rbind"])
}

pub(crate) fn has_option(mount: &Mount, names: &[&str]) -> bool {
    mount.options().iter().flatten().any(|option| names.contains(&option.as_str()))
}

/// Host paths whose kind [`Facts::sources`] has to tell.
pub fn bind_sources(bundle: &Bundle) -> Vec<PathBuf> {
    let mounts = bundle.spec.mounts().iter().flatten();
    mounts.filter(|mount| is_bind(mount)).filter_map(|mount| host_source(bundle, mount)).collect()
}

/// Absolute, with `.` and doubled slashes gone; `..` and symbolic links are the kernel's.
pub(crate) fn host_source(bundle: &Bundle, mount: &Mount) -> Option<PathBuf> {
    let joined = bundle.dir.join(mount.source().as_ref()?);
    Some(joined.components().collect())
}

/// Kernel file systems: what the container wants to see there is its own
/// kernel's, and that is the guest's.
fn is_kernels(path: &Path) -> bool {
    let mut parts = path.components().skip_while(|part| *part == Component::RootDir);
    let first = parts.next();
    match first.and_then(|part| part.as_os_str().to_str()) {
        Some("proc" | "sys") => true,
        Some("dev") => parts.next().is_none(),
        _ => false,
    }
}

/// The last one that is given counts, as a kernel would do them one after the other.
fn propagation(mount: &Mount) -> Propagation {
    let options = mount.options().iter().flatten();
    let mut found = options.filter_map(|option| match option.as_str() {
        "slave" | "rslave" => Some(Propagation::Slave),
        "private" | "unbindable" => Some(Propagation::Private),
        "rprivate" | "runbindable" => Some(Propagation::RecursivelyPrivate),
        _ => None,
    });
    found.next_back().unwrap_or_default()
}

/// Plans one volume for each bind mount.
pub(crate) fn volumes(bundle: &Bundle, facts: &Facts) -> Result<Volumes, PlanError> {
    let mut volumes = Volumes::default();
    for (index, mount) in bundle.spec.mounts().iter().flatten().enumerate() {
        let id_map = id_map::planned(&bundle.spec, index, mount)?;
        if id_map.is_some() && !facts.may_map_ids {
            return Err(id_map::needs_root(index, mount));
        }
        let source = host_source(bundle, mount).filter(|_| is_bind(mount));
        let source = match source {
            Some(source) if !is_kernels(&source) => source,
            // What is mounted in the guest alone.
            _ if id_map.is_some() => return Err(id_map::needs_a_volume(index, mount)),
            Some(source) => {
                volumes.guest_sources.insert(index, source);
                continue;
            }
            None => continue,
        };
        let Some(&kind) = facts.sources.get(&source) else {
            let problem = format!("{}: no such file or directory", source.display());
            return Err(PlanError::invalid(format!("mounts[{index}].source"), problem));
        };
        volumes.guest_sources.insert(index, place(volumes.planned.len()));
        volumes.numbers.insert(index, volumes.planned.len());
        volumes.planned.push(Volume {
            source,
            kind,
            recursive: has_option(mount, &["rbind"]),
            attributes: mount_attributes::of_the_mount(mount),
            below: mount_attributes::recursive(mount),
            propagation: propagation(mount),
            id_map,
        });
    }
    Ok(volumes)
}

/// Sockets among the volumes, in their order, as the guest finds them in the shared tree.
pub(crate) fn sockets(volumes: &Volumes) -> Vec<HostSocket> {
    let numbered = volumes.planned.iter().enumerate();
    let sockets = numbered.filter(|(_, volume)| volume.kind == VolumeKind::Socket);
    sockets.map(|(number, _)| HostSocket { path: place(number).display().to_string() }).collect()
}

/// Where the guest finds a volume.
fn place(number: usize) -> PathBuf {
    Path::new(SHARE_MOUNT).join(VOLUMES_DIR).join(number.to_string())
}

/// The configuration's mounts as the host has them.
pub(crate) fn view(bundle: &Bundle, volumes: &Volumes) -> View {
    let root = bundle.spec.root().as_ref();
    let mounts = bundle.spec.mounts().iter().flatten().enumerate();
    View {
        readonly: root.and_then(Root::readonly).unwrap_or(false),
        mounts: mounts
            .map(|(index, mount)| ViewMount {
                destination: mount.destination().clone(),
                volume: volumes.numbers.get(&index).copied(),
            })
            .collect(),
    }
}
