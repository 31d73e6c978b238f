//! What is done in a container's own mounts before they become its root.
//!
//! libcontainer does it in other ways than runc, or too early, and runs
//! `createContainer` hooks at the right moment: behind the last mount. So the
//! agent is such a hook, under another name, for the few containers that need
//! one. It enters the container's root first: nothing leads out of that.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, chroot};
use oci_spec::runtime::{Hook, Spec};
use serde::{Deserialize, Serialize};

use super::dev::{self, Staged};
use super::working_directory;
use crate::{log, sys};

/// The name under which the agent is the hook.
const NAME: &str = "vmrun-agent: inside";

/// Its own program; the guest's `/proc` is still there.
const PROGRAM: &str = "/proc/self/exe";

/// What there is to do.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tasks {
    rootfs: PathBuf,
    dev: Staged,
    working_directory: Option<PathBuf>,
    readonly_paths: Vec<PathBuf>,
}

/// Adds the hook to a configuration that needs it. Destinations of its mounts are free of links.
pub(crate) fn prepare(spec: &mut Spec, rootfs: &Path, dev: Staged) -> Result<(), serde_json::Error> {
    let tasks = Tasks {
        rootfs: rootfs.to_owned(),
        dev,
        working_directory: working_directory::make(spec, rootfs),
        readonly_paths: take_readonly_paths(spec),
    };
    if tasks.dev.is_empty() && tasks.working_directory.is_none() && tasks.readonly_paths.is_empty() {
        return Ok(());
    }
    let mut hook = Hook::default();
    hook.set_path(PROGRAM.into()).set_args(Some(vec![NAME.to_owned(), serde_json::to_string(&tasks)?]));
    let mut hooks = spec.hooks().clone().unwrap_or_default();
    hooks.set_create_container(Some(vec![hook]));
    spec.set_hooks(Some(hooks));
    Ok(())
}

/// libcontainer forbids programs and devices below such a path, too. That is right for the
/// kernel's file systems alone.
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

/// Does it and ends, if this process is the hook.
pub(crate) fn run_if_asked() {
    let mut args = std::env::args();
    if args.next().as_deref() != Some(NAME) {
        return;
    }
    // Opened here, since the container's root has none. What comes in is the container's
    // state; who sends it would not like it to be left unread.
    let _ = (log::descriptor(), io::copy(&mut io::stdin(), &mut io::sink()));
    let tasks = args.next().ok_or_else(|| "nothing to do".to_owned());
    let done = tasks
        .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()))
        .and_then(|tasks: Tasks| run(&tasks));
    if let Err(error) = &done {
        // libcontainer tells of the hook no more than its code; its standard error is the container's.
        eprintln!("vmrun: error: agent: {error}");
        log::warn(format_args!("{error}"));
    }
    sys::exit_now(i32::from(done.is_err()))
}

fn run(tasks: &Tasks) -> Result<(), String> {
    let entered = chroot(&tasks.rootfs).and_then(|()| chdir("/"));
    entered.map_err(|error| format!("cannot enter {}: {}", tasks.rootfs.display(), error.desc()))?;
    dev::unstage(&tasks.dev)?;
    // Where it cannot be made, entering it will say so.
    let _ = tasks.working_directory.as_ref().map(|path| all_directories().create(path));
    tasks.readonly_paths.iter().try_for_each(|path| {
        make_readonly(path).map_err(|error| {
            format!("cannot make {} of readonlyPaths read-only: {}", path.display(), error.desc())
        })
    })
}

fn all_directories() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder
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

    fn prepared(mut value: serde_json::Value) -> Spec {
        let rootfs = tempfile::tempdir().unwrap();
        value["ociVersion"] = json!("1.0.2");
        let mut spec = serde_json::from_value(value).unwrap();
        prepare(&mut spec, rootfs.path(), Staged::default()).unwrap();
        spec
    }

    #[test]
    fn ordinary_configuration_needs_no_hook() {
        let paths = json!(["/proc/sys", "/sys/firmware"]);
        let spec = prepared(json!({ "linux": { "readonlyPaths": paths } }));
        assert_eq!(spec.hooks(), &None);
        let left = spec.linux().as_ref().unwrap().readonly_paths().clone();
        assert_eq!(left.unwrap(), ["/proc/sys", "/sys/firmware"]);
    }

    #[test]
    fn read_only_paths_of_the_containers_own_files_are_the_hooks() {
        let spec = prepared(json!({ "linux": { "readonlyPaths": ["/bin", "/proc/sys", "/system"] } }));
        let hooks = spec.hooks().clone().unwrap().create_container().clone().unwrap();
        let args = hooks[0].args().clone().unwrap();
        let tasks: Tasks = serde_json::from_str(&args[1]).unwrap();
        assert_eq!(tasks.readonly_paths, ["/bin", "/system"].map(PathBuf::from));
        let left = spec.linux().as_ref().unwrap().readonly_paths().clone();
        assert_eq!(left.unwrap(), ["/proc/sys"]);
    }

    #[test]
    fn read_only_dev_is_left_to_its_mount() {
        let dev = json!({ "destination": "/dev", "type": "tmpfs", "options": ["mode=755"] });
        let spec = prepared(json!({ "mounts": [dev], "linux": { "readonlyPaths": ["/dev"] } }));
        assert_eq!(spec.hooks(), &None);
        let mounts = spec.mounts().clone().unwrap();
        assert_eq!(mounts[0].options().clone().unwrap(), ["mode=755", "ro"]);
    }

    #[test]
    fn flags_of_the_mount_are_kept() {
        assert_eq!(kept(FsFlags::ST_NODEV | FsFlags::ST_RDONLY), MsFlags::MS_NODEV);
        assert_eq!(kept(FsFlags::empty()), MsFlags::empty());
    }
}
