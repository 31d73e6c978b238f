//! An OCI bundle and the host's facts become a sandbox plan.
//!
//! ```text
//!   directory ──Bundle::load──▶ Bundle ─┐
//!   host ─────────────────────▶ Facts  ─┼─plan()─▶ SandboxPlan { machine, guest, host }
//!   command line ─────────────▶ Options ┘
//! ```
//!
//! [`Bundle::load`] reads; everything behind it is a pure function of its
//! arguments: the same bundle, facts and options give the same plan.

mod authority;
mod beyond;
mod boot_request;
mod bundle;
mod cgroup;
mod cpu_affinity;
mod cpu_list;
mod cpuset;
mod destination;
mod devices;
mod disks;
mod exec;
mod file_systems;
mod free_memory;
mod guest;
mod hooks;
mod host_limits;
mod id_map;
mod left_out;
mod letters;
mod mount_attributes;
mod mount_options;
mod network;
mod rates;
mod refuse;
mod resources;
mod rlimits;
mod root_image;
mod settings;
mod size;
mod socket_user;
mod unified;
mod user_namespace;
mod user_network;
mod validate;
mod values;
mod vm;
mod volume_cache;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use oci_spec::runtime::{PosixRlimit, Process};
use serde::{Deserialize, Serialize};
use vmrun_proto::{
    ConsoleSize, ContainerPlan, MARK_PORT, MARK_VARIABLE, ProcessIo, SHARE_MOUNT, SHARE_TAG, Share,
    VOLUMES_DIR,
};
use vmrun_spec::{
    Authority, DeviceSpec, HostPlan, Image, MachineSpec, NetworkNamespace, ShareSpec, UserNetwork,
    VolumeKind, VsockSpec,
};

pub use beyond::beyond;
pub use boot_request::{Asked, BootRequest, boot_request};
pub use bundle::{Bundle, BundleError};
pub use cgroup::expand as expand_slice;
pub use cpuset::{in_the_guest, names_processors, online_processors, processors};
pub use disks::{DiskIdentity, disk_sources};
pub use exec::{ProcessChanges, changed, exec, inherit, load_process};
pub use file_systems::kernel_mount_points;
pub use host_limits::{Machine, host_limits, need_no_cgroup, without_the_hosts};
pub use letters::put_right as put_names_right;
pub use mount_options::MOUNT_OPTIONS;
pub use network::{foreign_interfaces, network_namespace};
pub use resources::check_resources;
pub use settings::{KERNEL_SETTINGS, NETWORK_SETTINGS, Promises, for_the_guest, refuses_memory};
pub use user_network::{
    NAME_SERVER, NetworkChoice, NetworkTextError, add_network_namespace, mount_resolv_conf, published_port,
    resolv_conf, user_network,
};
pub use validate::PlanError;
pub use volumes::bind_sources;

/// Everything that one sandbox needs, as plain data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxPlan {
    /// The virtual machine.
    pub machine: MachineSpec,
    /// What the agent makes in it.
    pub guest: ContainerPlan,
    /// What the host prepares for it.
    pub host: HostPlan,
}

/// What the plan has to know about the host.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// CPUs that the caller may use.
    pub cpus: u32,
    /// The numbers of those that are online, where the configuration names some.
    pub online: BTreeSet<u32>,
    /// The caller's limits, which a process inherits that the configuration gives none.
    pub rlimits: Vec<PosixRlimit>,
    /// The caller's `oom_score_adj`, likewise.
    pub oom_score_adj: i32,
    /// Those of [`NETWORK_SETTINGS`] that the host's kernel has.
    pub settings: BTreeMap<String, String>,
    /// The owners that a mount shows may be mapped: only root may do that.
    pub may_map_ids: bool,
    /// What the sources of bind mounts are; a missing one is not in the map.
    pub sources: BTreeMap<PathBuf, VolumeKind>,
    /// What is behind the names of [`disk_sources`]; one that leads nowhere is not in the map.
    pub disks: BTreeMap<PathBuf, DiskIdentity>,
    /// What is in the root file system where proc or sysfs is to be mounted, if it is no directory.
    pub not_directories: BTreeMap<PathBuf, &'static str>,
    /// Interfaces of the caller's network, or the host's, where that is to be the container's.
    pub interfaces: Vec<String>,
}

/// What the command line and the store decide.
#[derive(Clone, Debug)]
pub struct Options {
    /// Container id.
    pub id: String,
    /// The container's directory in the store.
    pub directory: PathBuf,
    /// `--vcpus`.
    pub vcpus: Option<u32>,
    /// `--memory`, in MiB.
    pub memory_mib: Option<u32>,
    /// The guest kernel.
    pub kernel: Image,
    /// The boot image.
    pub initramfs: Image,
    /// `--kernel-param`.
    pub kernel_params: Vec<String>,
    /// `--systemd-cgroup`: how the configuration's cgroup path is to be read.
    pub systemd_cgroup: bool,
    /// The caller wants to hear how the program is (`sd_notify(3)`).
    pub notify: bool,
    /// `--network user`, as [`user_network`] has it.
    pub user_network: Option<UserNetwork>,
    /// The guest is to say how far it has come, for a timeline.
    pub timeline: bool,
    /// Size of the terminal that the program will be shown on.
    pub console_size: Option<ConsoleSize>,
}

/// The version of the OCI runtime specification that configurations are read by.
pub const SPEC_VERSION: &str = "1.2.1";

/// Context id of a sandbox's guest: each VM has its own link, so one number does for all.
const GUEST_CID: u32 = 3;

/// File name of the vsock device's Unix socket. It is relative to the monitor's
/// working directory, which is the container's: a socket's path has at most 107
/// bytes, and engines choose roots that leave no room.
pub const VSOCK_SOCKET: &str = "vsock.sock";

/// File name of the guest's console log in the container's directory.
pub const CONSOLE_LOG: &str = "console.log";

/// Name of the shared tree's directory in the container's directory.
pub const SHARE_DIR: &str = "share";

/// The machine of a bundle that says nothing of its size.
///
/// # Errors
/// A size that was asked for cannot be.
pub fn bare_machine(options: &Options) -> Result<MachineSpec, PlanError> {
    Ok(machine(size::asked_for(options)?, options, Authority::default(), None))
}

fn machine(
    size: size::Size,
    options: &Options,
    authority: Authority,
    uncached: Option<String>,
) -> MachineSpec {
    // The kernel hands what it does not know to the agent, as a variable.
    let timeline: Vec<String> = options.timeline.then(|| format!("{MARK_VARIABLE}=1")).into_iter().collect();
    MachineSpec {
        vcpus: size.vcpus,
        memory_mib: size.memory_mib,
        kernel: options.kernel.clone(),
        initramfs: options.initramfs.clone(),
        cmdline: [&options.kernel_params[..], &timeline].concat(),
        console_log: options.directory.join(CONSOLE_LOG),
        mark_port: options.timeline.then_some(MARK_PORT),
        devices: vec![
            DeviceSpec::Vsock(VsockSpec { cid: GUEST_CID, socket: PathBuf::from(VSOCK_SOCKET) }),
            DeviceSpec::Rng,
            DeviceSpec::Fs(ShareSpec {
                tag: SHARE_TAG.to_owned(),
                directory: options.directory.join(SHARE_DIR),
                authority,
                uncached,
                quiet_closes: options.kernel == Image::Embedded,
            }),
        ],
    }
}

/// Plans the sandbox for a bundle.
///
/// # Errors
/// A [`PlanError`] that names the field which is invalid or cannot be honoured.
pub fn plan(bundle: &Bundle, facts: &Facts, options: &Options) -> Result<SandboxPlan, PlanError> {
    validate::validate(&bundle.spec)?;
    let cgroup = cgroup::host_cgroup(&bundle.spec, &options.id, options.systemd_cgroup)?;
    refuse::refuse(&bundle.spec, &bundle.vm)?;
    file_systems::check_mount_points(bundle, facts)?;
    network::not_the_hosts(&bundle.spec, &facts.interfaces)?;
    let resources = bundle.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let cpus = cpuset::processors(resources, &facts.online)?;
    let size = size::size(bundle, facts, options, cpus.len())?;
    bundle.spec.process().iter().try_for_each(|process| cpu_affinity::check(process, size.vcpus))?;
    let sized = Machine { vcpus: size.vcpus, memory_mib: size.memory_mib };
    let limits = resources.map(|resources| host_limits(resources, sized)).unwrap_or_default();
    let network_rates = rates::network_rates(bundle)?;
    let volumes = volumes::volumes(bundle, facts)?;
    let disks = disks::disks(bundle, facts)?;
    let (hooks, guest_hooks) = hooks::split(&bundle.spec)?;
    let (volumes, disks) = (&volumes, &disks);
    let spec = guest::Rewrite { bundle, facts, options, volumes, disks, cpus: &cpus, vcpus: size.vcpus };
    let spec = spec.done(guest_hooks);
    let has_sockets = volumes.planned.iter().any(|volume| volume.kind == VolumeKind::Socket);
    let uncached = volume_cache::is_off(bundle)?.then(|| VOLUMES_DIR.to_owned());
    let machine = machine(size, options, authority::authority(&bundle.spec), uncached);
    let io = process_io(bundle.spec.process().as_ref(), options.console_size);
    let shares =
        vec![Share { tag: SHARE_TAG.to_owned(), mountpoint: SHARE_MOUNT.to_owned(), readonly: false }];
    Ok(SandboxPlan {
        machine,
        guest: ContainerPlan {
            spec,
            shares,
            mounts: Vec::new(),
            io,
            bundle: bundle.dir.display().to_string(),
            settings: facts.settings.clone(),
            notify: options.notify,
            network: None,
            disks: disks.for_the_guest(),
            root_image: disks.root.clone(),
            sockets: volumes::sockets(volumes),
        },
        host: HostPlan {
            rootfs: bundle.rootfs.clone(),
            view: volumes::view(bundle, volumes),
            volumes: volumes.planned.clone(),
            cgroup,
            limits,
            oom_score_adj: bundle.spec.process().as_ref().and_then(Process::oom_score_adj),
            hooks,
            network: match options.user_network {
                // The monitor begins where the caller's network is.
                Some(_) => NetworkNamespace::Callers,
                None => network::network_namespace(&bundle.spec),
            },
            user_network: options.user_network.clone(),
            network_rates,
            keeps_memory: free_memory::is_kept(bundle)?,
            cpus,
            disks: disks.planned.clone(),
            socket_user: has_sockets.then(|| socket_user::socket_user(&bundle.spec)).transpose()?,
        },
    })
}

fn process_io(process: Option<&Process>, console_size: Option<ConsoleSize>) -> ProcessIo {
    if !process.and_then(Process::terminal).unwrap_or(false) {
        return ProcessIo { stdin: true, stdout: true, stderr: true, ..ProcessIo::default() };
    }
    let configured = process.and_then(Process::console_size).and_then(|size| {
        let rows = u16::try_from(size.height()).ok()?;
        let columns = u16::try_from(size.width()).ok()?;
        (rows > 0 && columns > 0).then_some(ConsoleSize { rows, columns })
    });
    ProcessIo { terminal: true, console_size: configured.or(console_size), ..ProcessIo::default() }
}

#[cfg(feature = "fuzzing")]
pub mod fuzz;
#[cfg(test)]
mod tests;
