//! A `/dev` that brings its own nodes, and mounts over what is made in one.
//!
//! The standard devices and links are made in whatever is mounted at `/dev`, and what is there already
//! is left alone. In a bind mount none are to be made. So they get another place:
//!
//! * Where a bind mount or a devtmpfs is at `/dev`, there is a tmpfs first. The mount and all that is to be
//!   below it are mounted in that, at [`STAGE`], and take its place from inside.
//! * A mount over a device or link is made beside it, and moved onto it from inside.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use oci_spec::runtime::{LinuxDevice, Mount, Spec};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::destinations::is_bind;

const DEV: &str = "/dev";

/// Where that is mounted which is to be at `/dev`, or beside it.
const STAGE: &str = "/dev/.vmrun";

/// What is made besides the devices of the configuration.
const MADE: &[&str] =
    &["fd", "full", "kcore", "null", "ptmx", "random", "stderr", "stdin", "stdout", "tty", "urandom", "zero"];

/// What a host's `/dev` has besides nodes.
const LINKS: &[(&str, &str)] = &[
    ("core", "/proc/kcore"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// What a host has mounted in its `/dev`: place, type, options.
const FILE_SYSTEMS: &[(&str, &str, &[&str])] = &[
    ("pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
    ("shm", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
    ("mqueue", "mqueue", &["nosuid", "nodev", "noexec"]),
];

/// What is left to do from inside.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Staged {
    /// What is mounted at [`STAGE`] takes the place of `/dev`.
    whole: bool,
    /// From where to where mounts are moved.
    single: Vec<(PathBuf, PathBuf)>,
}

/// The destination of a mount that may be staged.
pub(crate) fn destination(mounted: &Path) -> PathBuf {
    match mounted.strip_prefix(STAGE) {
        Ok(below) => Path::new(DEV).join(below),
        Err(_) => mounted.to_owned(),
    }
}

/// Whether something is made with this name in `/dev`.
pub(crate) fn is_made(name: &std::ffi::OsStr) -> bool {
    MADE.iter().chain(&["core", "console"]).any(|made| name == *made)
}

/// Changes the mounts so that devices can be made. Destinations are free of links.
pub(crate) fn stage(spec: &mut Spec) -> Staged {
    let Some(mounts) = spec.mounts().clone() else { return Staged::default() };
    let last = mounts.iter().rposition(|mount| mount.destination() == Path::new(DEV));
    let dev = last.and_then(|last| Some((last, mounts.get(last).filter(|mount| has_own_nodes(mount))?)));
    let (mounts, staged) = match dev.map(|(last, _)| last) {
        Some(last) => (stage_whole(mounts, last), Staged { whole: true, single: Vec::new() }),
        None => stage_single(mounts, last, &made(spec)),
    };
    spec.set_mounts(Some(mounts));
    only_first_of_each_device(spec);
    staged
}

fn has_own_nodes(mount: &Mount) -> bool {
    is_bind(mount) || mount.typ().as_deref() == Some("devtmpfs")
}

fn stage_whole(mounts: Vec<Mount>, last: usize) -> Vec<Mount> {
    let mut staged = Vec::with_capacity(mounts.len() + 1);
    for (index, mut mount) in mounts.into_iter().enumerate() {
        match mount.destination().strip_prefix(DEV).map(Path::to_owned) {
            Err(_) => staged.push(mount),
            // It would be covered.
            Ok(_) if index < last => {}
            Ok(below) => {
                if index == last {
                    staged.push(placeholder(&mut mount));
                }
                let place = Path::new(STAGE);
                mount.set_destination(if below.as_os_str().is_empty() {
                    place.to_owned()
                } else {
                    place.join(below)
                });
                staged.push(mount);
            }
        }
    }
    staged
}

/// The tmpfs for what is made. If `/dev` is to be read-only, the maker makes so what is there in the
/// end, when everything below is mounted.
fn placeholder(dev: &mut Mount) -> Mount {
    let mut options = vec!["nosuid".to_owned(), "mode=755".to_owned()];
    let given = dev.options().clone().unwrap_or_default();
    let (access, others): (Vec<_>, Vec<_>) =
        given.into_iter().partition(|option| option == "ro" || option == "rw");
    options.extend(access);
    dev.set_options(Some(others));
    tmpfs(DEV.into(), options)
}

fn tmpfs(destination: PathBuf, options: Vec<String>) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination)
        .set_typ(Some("tmpfs".to_owned()))
        .set_source(Some("tmpfs".into()))
        .set_options(Some(options));
    mount
}

/// Paths at which something is made.
fn made(spec: &Spec) -> Vec<PathBuf> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let devices = devices.iter().map(|device| device.path().clone());
    MADE.iter().map(|name| Path::new(DEV).join(name)).chain(devices).collect()
}

fn stage_single(mounts: Vec<Mount>, dev: Option<usize>, made: &[PathBuf]) -> (Vec<Mount>, Staged) {
    let mut staged = Staged::default();
    let after = dev.map_or(0, |dev| dev + 1);
    let mut mounts = mounts;
    for (index, mount) in mounts.iter_mut().enumerate().skip(after) {
        if !made.contains(mount.destination()) {
            continue;
        }
        let place = PathBuf::from(format!("{STAGE}-{index}"));
        staged.single.push((place.clone(), mount.destination().clone()));
        mount.set_destination(place);
    }
    (mounts, staged)
}

/// As with runc: what is there already is left alone.
fn only_first_of_each_device(spec: &mut Spec) {
    let Some(mut linux) = spec.linux().clone() else { return };
    let Some(devices) = linux.devices().clone() else { return };
    let mut kept: Vec<LinuxDevice> = Vec::with_capacity(devices.len());
    for device in devices {
        if !kept.iter().any(|other| other.path() == device.path()) {
            kept.push(device);
        }
    }
    linux.set_devices(Some(kept));
    spec.set_linux(Some(linux));
}

/// Gives a bind mount of the guest's own `/dev` what a host's has and a devtmpfs does not.
pub(crate) fn furnish(spec: &mut Spec) {
    let Some(mut mounts) = spec.mounts().clone() else { return };
    let Some(last) = mounts.iter().rposition(|mount| mount.destination() == Path::new(DEV)) else { return };
    let Some(dev) = mounts.get(last).filter(|mount| is_the_guests(mount)) else { return };
    for (name, target) in LINKS {
        // What is there already is right, too.
        let _ = symlink(target, Path::new(DEV).join(name));
    }
    make_console_usable();
    point_to_terminals();
    if !dev.options().iter().flatten().any(|option| option == "rbind") {
        return;
    }
    let missing = FILE_SYSTEMS.iter().filter(|(name, ..)| {
        let place = Path::new(DEV).join(name);
        !mounts.iter().skip(last).any(|mount| mount.destination() == &place)
    });
    let missing: Vec<_> = missing.map(|(name, typ, options)| file_system(name, typ, options)).collect();
    mounts.splice(last + 1..last + 1, missing);
    spec.set_mounts(Some(mounts));
}

/// The node shows the terminals of the devpts beside it; nothing but a file of that is believed.
fn point_to_terminals() {
    let ptmx = Path::new(DEV).join("ptmx");
    // Where this fails, making a terminal will say so.
    let _ = fs::remove_file(&ptmx).and_then(|()| symlink("pts/ptmx", &ptmx));
}

/// A terminal is mounted over `/dev/console`, which is opened for that: a machine without a console
/// has the node and nothing behind it. A file does as well.
fn make_console_usable() {
    let console = Path::new(DEV).join("console");
    let opened = OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(&console);
    if opened.is_err() && fs::remove_file(&console).is_ok() {
        // Where this fails, mounting the terminal will say so.
        let _ = fs::File::create(&console);
    }
}

fn is_the_guests(mount: &Mount) -> bool {
    let of_dev = is_bind(mount) && mount.source().as_deref() == Some(Path::new(DEV));
    of_dev || mount.typ().as_deref() == Some("devtmpfs")
}

fn file_system(name: &str, typ: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    let mut mount = tmpfs(Path::new(DEV).join(name), options);
    mount.set_typ(Some(typ.to_owned())).set_source(Some(typ.into()));
    mount
}

/// Puts everything in its place; the container's root is this process's.
pub(crate) fn unstage(staged: &Staged) -> Result<(), String> {
    if staged.whole {
        take_whole_place().map_err(|error| format!("cannot put the mount of {DEV} in its place: {error}"))?;
    }
    staged.single.iter().try_for_each(|(from, to)| {
        take_place(from, to)
            .map_err(|error| format!("cannot put the mount of {} in its place: {error}", to.display()))
    })
}

fn take_whole_place() -> io::Result<()> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, STAGE, flags)?;
    umount2(DEV, MntFlags::MNT_DETACH)?;
    move_mount(tree, "", CWD, DEV, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

fn take_place(from: &Path, to: &Path) -> io::Result<()> {
    let is_directory = fs::metadata(from)?.is_dir();
    let found = fs::symlink_metadata(to)?;
    if found.is_symlink() || is_directory && !found.is_dir() {
        fs::remove_file(to)?;
        if is_directory {
            fs::create_dir(to)?;
        } else {
            fs::File::create(to)?;
        }
    }
    let nothing: Option<&str> = None;
    mount(Some(from), to, nothing, MsFlags::MS_MOVE, nothing)?;
    if is_directory { fs::remove_dir(from) } else { fs::remove_file(from) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn staged(mounts: &Value, devices: &Value) -> (Vec<String>, Staged) {
        let value = json!({ "ociVersion": "1.0.2", "mounts": mounts, "linux": { "devices": devices } });
        let mut spec: Spec = serde_json::from_value(value).unwrap();
        furnish(&mut spec);
        let staged = stage(&mut spec);
        let shown = |mount: &Mount| {
            let options = mount.options().clone().unwrap_or_default().join(",");
            format!("{} {} {options}", mount.destination().display(), mount.typ().clone().unwrap_or_default())
        };
        (spec.mounts().iter().flatten().map(shown).collect(), staged)
    }

    #[test]
    fn ordinary_dev_needs_nothing() {
        let mounts = json!([
            { "destination": "/proc", "type": "proc" },
            { "destination": "/dev", "type": "tmpfs", "options": ["mode=755"] },
            { "destination": "/dev/pts", "type": "devpts" },
            { "destination": "/dev/fuse", "type": "bind", "source": "/x" },
        ]);
        let (shown, staged) = staged(&mounts, &json!([]));
        assert_eq!(staged, Staged::default());
        assert_eq!(shown, ["/proc proc ", "/dev tmpfs mode=755", "/dev/pts devpts ", "/dev/fuse bind "]);
    }

    #[test]
    fn bind_mount_of_dev_is_mounted_aside_with_what_lies_below() {
        let mounts = json!([
            { "destination": "/dev", "type": "tmpfs" },
            { "destination": "/dev/pts", "type": "devpts" },
            { "destination": "/dev", "type": "bind", "source": "/v", "options": ["rbind", "ro"] },
            { "destination": "/dev/shm", "type": "tmpfs" },
            { "destination": "/devices", "type": "tmpfs" },
        ]);
        let (shown, staged) = staged(&mounts, &json!([]));
        assert!(staged.whole);
        let expected = [
            "/dev tmpfs nosuid,mode=755,ro",
            "/dev/.vmrun bind rbind",
            "/dev/.vmrun/shm tmpfs ",
            "/devices tmpfs ",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn mounts_over_what_is_made_are_mounted_beside_it() {
        let mounts = json!([
            { "destination": "/dev", "type": "tmpfs" },
            { "destination": "/dev/random", "type": "bind", "source": "/v" },
            { "destination": "/dev/own", "type": "bind", "source": "/w" },
            { "destination": "/dev/other", "type": "bind", "source": "/w" },
        ]);
        let device = json!({ "path": "/dev/own", "type": "c", "major": 10, "minor": 229 });
        let (shown, staged) = staged(&mounts, &json!([device, device]));
        assert_eq!(shown[1..], ["/dev/.vmrun-1 bind ", "/dev/.vmrun-2 bind ", "/dev/other bind "]);
        let pair = |from: &str, to: &str| (PathBuf::from(from), PathBuf::from(to));
        let expected = [pair("/dev/.vmrun-1", "/dev/random"), pair("/dev/.vmrun-2", "/dev/own")];
        assert_eq!((staged.whole, staged.single.as_slice()), (false, expected.as_slice()));
    }

    #[test]
    fn device_is_made_once() {
        let device = |minor: u32| json!({ "path": "/dev/own", "type": "c", "major": 10, "minor": minor });
        let value =
            json!({ "ociVersion": "1.0.2", "mounts": [], "linux": { "devices": [device(1), device(2)] } });
        let mut spec: Spec = serde_json::from_value(value).unwrap();
        stage(&mut spec);
        let devices = spec.linux().as_ref().unwrap().devices().clone().unwrap();
        assert_eq!(devices.iter().map(LinuxDevice::minor).collect::<Vec<_>>(), [1]);
    }
}
