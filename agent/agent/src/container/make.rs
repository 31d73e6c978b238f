//! The maker: a short-lived child that makes one process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::{major, minor};
use nix::unistd::{Gid, Uid, fchown};
use oci_spec::runtime::{Mount, Process, Spec};
use vmrun_proto::{
    ConsoleSize, Disk, ErrorKind, ErrorReply, HostSocket, Network, ProcessIo, RootImage, Share, SharedMount,
    Stage,
};

use super::adapt::{self, Adapted};
use super::cgroup::Cgroup;
use super::copy_up;
use super::create::{Creation, create, words};
use super::destinations;
use super::devices::DevicePolicy;
use super::identity::host_user;
use super::inside::{self, Tasks};
use super::start_hooks::StartHooks;
use super::swap::Swap;
use super::{
    delegation, dev, disks, host_sockets, limits, limits_of_cgroup, notify, settings, shared_mounts, tmpfs,
    user_namespace,
};
use crate::report::{self, Report};
use crate::stdio::ChildStdio;
use crate::{descriptors, log, network, sys};

/// What to make.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    /// Container id.
    pub(crate) container: &'a str,
    /// The container's configuration.
    pub(crate) spec: &'a Spec,
    /// Init or one more.
    pub(crate) kind: Kind<'a>,
    /// A directory of this process's own.
    pub(crate) directory: &'a Path,
    /// The process's ends of its pipes.
    pub(crate) stdio: ChildStdio,
    /// Which streams it has.
    pub(crate) io: ProcessIo,
}

/// Which process of a container.
#[derive(Debug)]
pub(crate) enum Kind<'a> {
    /// The first one: the container is made with it.
    Init {
        /// Trees to mount first.
        shares: &'a [Share],
        /// Mounts in them with attributes of their own.
        mounts: &'a [SharedMount],
        /// Sockets of the host's among them, and the directory with what stands for them.
        sockets: (&'a [HostSocket], PathBuf),
        /// Disks of the host's.
        disks: &'a [Disk],
        /// The one that the root file system is on.
        root_image: Option<&'a RootImage>,
        /// The host's path of the bundle.
        bundle: &'a str,
        /// The directory with the socket on which its program says how it is.
        notify: Option<PathBuf>,
        /// Settings of the kernel.
        settings: &'a BTreeMap<String, String>,
        /// Its network, where that is more than loopback.
        network: Option<&'a Network>,
    },
    /// One more, which runs its program at once.
    Exec {
        /// The process.
        process: &'a Process,
        /// Pid of the container's init.
        init: i32,
        /// The cgroup below the container's that it is to be in.
        cgroup: Option<&'a Path>,
    },
}

/// Forks the maker, which reports on `far`.
pub(crate) fn start_maker(order: &Order<'_>, far: &OwnedFd) -> io::Result<()> {
    if sys::fork()?.is_some() {
        return Ok(());
    }
    let made = enter(order, far.as_fd()).and_then(|()| make(order));
    if let Err(error) = &made {
        report::send_failure(error.kind, error.stage, &error.message);
    }
    sys::exit_now(i32::from(made.is_err()))
}

fn failed(stage: Stage, message: impl Into<String>) -> ErrorReply {
    ErrorReply { kind: ErrorKind::Failed, stage, message: message.into() }
}

/// Leaves everything of the agent behind but the log and the report socket.
fn enter(order: &Order<'_>, far: BorrowedFd<'_>) -> Result<(), ErrorReply> {
    sys::reset_signals();
    report::become_sender(far);
    for (target, stream) in (0..).zip(&order.stdio.streams) {
        if let Some(stream) = stream {
            sys::duplicate_onto(stream.as_fd(), target)
                .map_err(|error| failed(Stage::Io, format!("cannot attach stream {target}: {error}")))?;
        }
    }
    let mut keep = vec![far.as_raw_fd()];
    keep.extend(log::descriptor().map(|log| log.as_raw_fd()));
    sys::close_all_but(&keep)
        .map_err(|error| failed(Stage::Create, format!("cannot close the agent's descriptors: {error}")))?;
    descriptors::restore_limit().map_err(|error| {
        failed(Stage::Create, format!("cannot restore the limit of descriptors: {error}"))
    })?;
    Ok(())
}

fn make(order: &Order<'_>) -> Result<(), ErrorReply> {
    let invalid = |error: adapt::AdaptError| ErrorReply {
        kind: ErrorKind::InvalidConfig,
        stage: Stage::Request,
        message: error.to_string(),
    };
    let mut adapted = match &order.kind {
        Kind::Init { shares, mounts, sockets, disks, root_image, bundle, notify, settings, .. } => {
            settings::apply(settings);
            shares.iter().try_for_each(mount_share)?;
            host_sockets::put_over(sockets.0, &sockets.1)
                .map_err(|message| failed(Stage::Shares, message))?;
            shared_mounts::apply(mounts).map_err(|message| failed(Stage::Shares, message))?;
            shared_mounts::come_by(order.spec);
            let offered = notify.as_ref().map(|directory| notify::offer(order.spec, directory)).transpose();
            let offered = offered.map_err(|cause| {
                invalid(adapt::AdaptError::Build { what: "mount of the notification socket", cause })
            })?;
            let mut adapted = adapt::for_init(offered.as_ref().unwrap_or(order.spec)).map_err(invalid)?;
            disks::attach(&mut adapted.spec, order.spec, disks, *root_image)
                .map_err(|message| failed(Stage::Create, message))?;
            let hooks = StartHooks::take(&mut adapted.spec, order.container, bundle)
                .map_err(|message| failed(Stage::Create, message))?;
            Adapted { program: adapted.program.with_hooks(hooks), ..adapted }
        }
        Kind::Exec { process, init, .. } => adapt::for_exec(order.spec, process, *init).map_err(invalid)?,
    };
    let swap = take_swap(&mut adapted.spec);
    let rootfs = root_directory(&adapted.spec)?;
    let tasks = if matches!(order.kind, Kind::Init { .. }) {
        destinations::resolve(&mut adapted.spec, &rootfs);
        dev::furnish(&mut adapted.spec);
        let staged = dev::stage(&mut adapted.spec);
        copy_up::prepare(&mut adapted.spec, &rootfs, order.directory)
            .map_err(|message| failed(Stage::Create, message))?;
        tmpfs::keep_modes(&mut adapted.spec, &rootfs);
        inside::take(&mut adapted.spec, &rootfs, staged)
    } else {
        Tasks::default()
    };
    set_oom_score(&adapted.spec)?;
    adapted.spec.process().iter().try_for_each(limits::make_room).map_err(|error| {
        failed(Stage::Create, format!("cannot raise the limits to process.rlimits: {}", words(error)))
    })?;
    sys::set_dumpable(false)
        .map_err(|error| failed(Stage::Create, format!("cannot hide the process: {error}")))?;
    let network = match &order.kind {
        Kind::Init { network, .. } => *network,
        Kind::Exec { .. } => None,
    };
    let holder = user_namespace::prepare(&mut adapted.spec, network.is_some())
        .map_err(|error| failed(Stage::Create, format!("cannot make the user namespace: {error}")))?;
    let network_namespace = network
        .map(|network| {
            let holder = holder.as_ref().map(user_namespace::Holder::pid);
            network::make(&mut adapted.spec, network, holder)
        })
        .transpose()
        .map_err(|message| failed(Stage::Create, message))?;
    if matches!(order.kind, Kind::Init { .. }) {
        // Those of interfaces, too.
        settings_are_there(&adapted.spec)?;
    }
    create_process(order, adapted, (&rootfs, tasks), swap)?;
    drop((holder, network_namespace));
    Ok(())
}

fn create_process(
    order: &Order<'_>,
    adapted: Adapted,
    (rootfs, tasks): (&Path, Tasks),
    swap: Option<Swap>,
) -> Result<(), ErrorReply> {
    let about = |message| failed(Stage::Create, message);
    let (mine, console) = order.io.terminal.then(console_pair).transpose()?.unzip();
    let is_init = matches!(order.kind, Kind::Init { .. });
    let cgroup = Cgroup::at(&cgroup_path(order)?);
    if is_init {
        cgroup.make().map_err(|error| about(format!("cannot make the cgroup: {}", words(error))))?;
        limits_of_cgroup::apply(&adapted.spec, &cgroup).map_err(about)?;
    }
    let creation = Creation {
        given: order.spec,
        spec: &adapted.spec,
        rootfs,
        program: adapted.program,
        tasks,
        cgroup: &cgroup,
        console,
        joins: !is_init,
    };
    let Some(made) = create(creation).map_err(about)? else { sys::exit_now(1) };
    let controlling_side = mine.map(|mine| take_terminal(&mine, order, &adapted.spec)).transpose()?;
    let pid = made.pid;
    if is_init {
        restrict_devices(&adapted.spec, &cgroup)?;
        swap.map_or(Ok(()), |swap| swap.apply(&cgroup))
            .map_err(|cause| about(format!("cannot apply resources.memory.swap: {cause}")))?;
        delegation::delegate(order.spec, &cgroup)
            .map_err(|error| about(format!("cannot give the cgroup to its user: {error}")))?;
    } else {
        made.go_on().map_err(about)?;
    }
    report::send(&Report::Made { pid }, controlling_side.as_ref().map(AsFd::as_fd))
        .map_err(|error| about(format!("cannot report the process: {error}")))
}

/// Where the process goes.
fn cgroup_path(order: &Order<'_>) -> Result<PathBuf, ErrorReply> {
    let path = adapt::cgroup_path(order.spec, order.container);
    let refused = |cause: String| failed(Stage::Create, cause);
    match order.kind {
        Kind::Init { .. } => Ok(path),
        Kind::Exec { cgroup: Some(below), .. } => Cgroup::at(&path).below_for_exec(below).map_err(refused),
        Kind::Exec { init, .. } => Cgroup::at(&path).for_exec(init).map_err(|error| {
            refused(format!("cannot find the cgroup of the container's processes: {error}"))
        }),
    }
}

fn mount_share(share: &Share) -> Result<(), ErrorReply> {
    let about = |what: &str, cause: String| {
        let message =
            format!("cannot {what} for the share {:?} at {:?}: {cause}", share.tag, share.mountpoint);
        failed(Stage::Shares, message)
    };
    let at = Path::new(&share.mountpoint);
    fs::create_dir_all(at).map_err(|error| about("make the directory", error.to_string()))?;
    let flags = if share.readonly { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let nothing: Option<&str> = None;
    mount(Some(share.tag.as_str()), at, Some("virtiofs"), flags, nothing)
        .map_err(|error| about("mount virtiofs", error.to_string()))?;
    read_far_ahead(at);
    Ok(())
}

/// A request to the host costs about as much as copying a few hundred KiB: what
/// is read in order, and what surrounds a page fault in a program, comes in
/// requests of the largest size that the protocol has.
fn read_far_ahead(at: &Path) {
    const KIB: &str = "1024";
    let written = fs::metadata(at).and_then(|metadata| {
        let (major, minor) = (major(metadata.dev()), minor(metadata.dev()));
        fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), KIB)
    });
    if let Err(error) = written {
        log::warn(format_args!("cannot let the share at {} read ahead: {error}", at.display()));
    }
}

fn root_directory(spec: &Spec) -> Result<PathBuf, ErrorReply> {
    let root = spec.root().as_ref().ok_or_else(|| failed(Stage::Create, "the configuration has no root"))?;
    let path = root.path();
    fs::canonicalize(path)
        .map_err(|error| failed(Stage::Create, format!("root file system {path:?}: {error}")))
}

/// One that is missing is named before there is anything to undo.
fn settings_are_there(spec: &Spec) -> Result<(), ErrorReply> {
    let settings = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    let mut names: Vec<_> = settings.into_iter().flatten().map(|(name, _)| name).collect();
    names.sort();
    let is_missing = |name: &&String| {
        let path: PathBuf = name.replace('.', "/").split('/').collect();
        !Path::new("/proc/sys").join(path).exists()
    };
    match names.into_iter().find(is_missing) {
        Some(name) => {
            let message =
                format!("linux.sysctl[{name:?}]: the guest's kernel has no such setting; leave it out");
            Err(failed(Stage::Create, message))
        }
        None => Ok(()),
    }
}

/// The score is inherited by what the maker makes.
fn set_oom_score(spec: &Spec) -> Result<(), ErrorReply> {
    let Some(score) = spec.process().as_ref().and_then(Process::oom_score_adj) else { return Ok(()) };
    fs::write("/proc/self/oom_score_adj", score.to_string())
        .map_err(|error| failed(Stage::Create, format!("cannot set oomScoreAdj {score}: {}", words(error))))
}

fn console_pair() -> Result<(OwnedFd, OwnedFd), ErrorReply> {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|error| failed(Stage::Io, format!("cannot make the console socket: {error}")))
}

/// Takes the controlling side of the terminal that the container has made,
/// gives it its size and its user.
fn take_terminal(socket: &OwnedFd, order: &Order<'_>, spec: &Spec) -> Result<OwnedFd, ErrorReply> {
    let about = |what: &str, cause: String| failed(Stage::Io, format!("cannot {what} the terminal: {cause}"));
    let mut name = [0; 64];
    let (_, descriptor) = sys::receive_with_descriptor(socket.as_fd(), &mut name)
        .map_err(|error| about("receive", error.to_string()))?;
    let side = descriptor.ok_or_else(|| about("receive", "no descriptor came".to_owned()))?;
    let process = spec.process().as_ref();
    if let Some(size) = order.io.console_size.or_else(|| process.and_then(configured_size)) {
        sys::set_window_size(side.as_fd(), size).map_err(|error| about("size", error.to_string()))?;
    }
    let user = process.map_or(0, |process| process.user().uid());
    let peer = sys::terminal_peer(side.as_fd()).map_err(|error| about("open", error.to_string()))?;
    fchown(&peer, Some(Uid::from_raw(host_user(order.spec, user))), None::<Gid>)
        .map_err(|error| about("give the user", error.to_string()))?;
    Ok(side)
}

fn configured_size(process: &Process) -> Option<ConsoleSize> {
    let size = process.console_size()?;
    let clamp = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    Some(ConsoleSize { rows: clamp(size.height()), columns: clamp(size.width()) })
}

fn restrict_devices(spec: &Spec, cgroup: &Cgroup) -> Result<(), ErrorReply> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let rules = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    if rules.is_empty() {
        return Ok(());
    }
    let attach = || {
        let directory = File::open(cgroup.directory())?;
        sys::attach_device_program(directory.as_fd(), &DevicePolicy::new(rules).program())
    };
    attach().map_err(|error| failed(Stage::Create, format!("cannot apply resources.devices: {error}")))
}

/// What is left to write of the limit of swap when the container is made.
fn take_swap(spec: &mut Spec) -> Option<Swap> {
    let mut linux = spec.linux().clone()?;
    let (resources, swap) = Swap::take_out(linux.resources().as_ref()?);
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    Some(swap)
}

/// The last word on it counts.
pub(super) fn says_readonly(mount: &Mount) -> bool {
    let mut words = mount.options().iter().flatten().rev();
    words.find(|option| matches!(option.as_str(), "ro" | "rw")).is_some_and(|option| option == "ro")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn last_of_ro_and_rw_counts() {
        let says = |options: serde_json::Value| {
            let mount = json!({ "destination": "/dev", "options": options });
            says_readonly(&serde_json::from_value(mount).unwrap())
        };
        assert!(says(json!(["nosuid", "ro"])) && says(json!(["rw", "ro", "mode=755"])));
        assert!(!says(json!(["ro", "rw"])) && !says(json!([])) && !says(json!(null)));
    }
}
