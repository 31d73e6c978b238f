//! What is done in a container's own mounts, when they have become its root.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};
use oci_spec::runtime::Spec;

use super::create::Root;
use super::dev::{self, Staged};
use super::working_directory;

/// What there is to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tasks {
    dev: Staged,
    working_directory: Option<PathBuf>,
    readonly_paths: Vec<PathBuf>,
}

/// Takes it out of a configuration. Destinations of its mounts are free of links.
pub(crate) fn take(spec: &mut Spec, rootfs: &Path, dev: Staged) -> Tasks {
    Tasks {
        dev,
        working_directory: working_directory::make(spec, rootfs),
        readonly_paths: take_readonly_paths(spec),
    }
}

/// Of the kernel's file systems programs and devices are forbidden, too; elsewhere that would be wrong.
fn take_readonly_paths(spec: &mut Spec) -> Vec<PathBuf> {
    let Some(mut linux) = spec.linux().clone() else { return Vec::new() };
    let is_kernels = |path: &String| ["/proc", "/sys", "/"].iter().any(|at| lies_at(path, at));
    let all = linux.readonly_paths().clone().unwrap_or_default();
    let (kept, mut taken): (Vec<_>, Vec<_>) = all.into_iter().partition(is_kernels);
    linux.set_readonly_paths(Some(kept));
    spec.set_linux(Some(linux));
    if let Some(dev) = taken.iter().position(|path| Path::new(path) == Path::new("/dev")) {
        taken.remove(dev);
        close_dev(spec);
    }
    taken.into_iter().map(PathBuf::from).collect()
}

/// What is made in `/dev` after this is made before a mount there becomes read-only.
fn close_dev(spec: &mut Spec) {
    let Some(mut mounts) = spec.mounts().clone() else { return };
    for mount in mounts.iter_mut().filter(|mount| mount.destination() == Path::new("/dev")) {
        let options = mount.options().iter().flatten().cloned().chain(["ro".to_owned()]).collect();
        mount.set_options(Some(options));
    }
    spec.set_mounts(Some(mounts));
}

fn lies_at(path: &str, at: &str) -> bool {
    let path = Path::new(path);
    if at == "/" { path == Path::new("/") } else { path.starts_with(at) }
}

/// Does it.
pub(crate) fn run(tasks: &Tasks) -> Result<(), String> {
    dev::unstage(&tasks.dev)?;
    // Where it cannot be made, entering it will say so. No descriptor of the agent's is a way there.
    let _ = tasks.working_directory.as_ref().map(|path| Root::open(Path::new("/"))?.directory(path));
    tasks.readonly_paths.iter().try_for_each(|path| {
        make_readonly(path).map_err(|error| {
            format!("cannot make {} of readonlyPaths read-only: {}", path.display(), error.desc())
        })
    })
}

/// What is missing needs no protection.
fn make_readonly(path: &Path) -> Result<(), Errno> {
    let nothing: Option<&str> = None;
    match mount(Some(path), path, nothing, MsFlags::MS_BIND | MsFlags::MS_REC, nothing) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    }
    remount_readonly(path)
}

/// Makes a mount read-only and leaves everything else of it as it is.
pub(crate) fn remount_readonly(at: &Path) -> Result<(), Errno> {
    let nothing: Option<&str> = None;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | kept(statvfs(at)?.flags());
    mount(nothing, at, nothing, flags, nothing)
}

fn kept(flags: FsFlags) -> MsFlags {
    let same = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ];
    same.into_iter().filter(|(is, _)| flags.contains(*is)).map(|(_, keep)| keep).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taken(mut value: serde_json::Value) -> (Spec, Tasks) {
        let rootfs = tempfile::tempdir().unwrap();
        value["ociVersion"] = json!("1.0.2");
        let mut spec = serde_json::from_value(value).unwrap();
        let tasks = take(&mut spec, rootfs.path(), Staged::default());
        (spec, tasks)
    }

    #[test]
    fn ordinary_configuration_has_no_tasks() {
        let paths = json!(["/proc/sys", "/sys/firmware"]);
        let (spec, tasks) = taken(json!({ "linux": { "readonlyPaths": paths } }));
        assert_eq!(tasks, Tasks::default());
        let left = spec.linux().as_ref().unwrap().readonly_paths().clone();
        assert_eq!(left.unwrap(), ["/proc/sys", "/sys/firmware"]);
    }

    #[test]
    fn read_only_paths_of_the_containers_own_files_are_tasks() {
        let (spec, tasks) = taken(json!({ "linux": { "readonlyPaths": ["/bin", "/proc/sys", "/system"] } }));
        assert_eq!(tasks.readonly_paths, ["/bin", "/system"].map(PathBuf::from));
        let left = spec.linux().as_ref().unwrap().readonly_paths().clone();
        assert_eq!(left.unwrap(), ["/proc/sys"]);
    }

    #[test]
    fn read_only_dev_is_left_to_its_mount() {
        let dev = json!({ "destination": "/dev", "type": "tmpfs", "options": ["mode=755"] });
        let (spec, tasks) = taken(json!({ "mounts": [dev], "linux": { "readonlyPaths": ["/dev"] } }));
        assert_eq!(tasks, Tasks::default());
        let mounts = spec.mounts().clone().unwrap();
        assert_eq!(mounts[0].options().clone().unwrap(), ["mode=755", "ro"]);
    }

    #[test]
    fn flags_of_the_mount_are_kept() {
        assert_eq!(kept(FsFlags::ST_NODEV | FsFlags::ST_RDONLY), MsFlags::MS_NODEV);
        assert_eq!(kept(FsFlags::empty()), MsFlags::empty());
    }
}
