//! What the host prepares for one sandbox.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::device::{NetworkRates, RateSpec};
use crate::network::UserNetwork;

/// Host resources of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPlan {
    /// The container's root file system, absolute.
    pub rootfs: PathBuf,
    /// Entry N appears in the shared tree as `volumes/N`.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// What those find who enter the monitor's mount namespace.
    #[serde(default)]
    pub view: View,
    /// The monitor's cgroup; where there is none to be had it stays in the caller's.
    pub cgroup: HostCgroup,
    /// That cgroup's limits.
    #[serde(default)]
    pub limits: Vec<HostLimit>,
    /// What the host's OOM killer adds to the monitor's badness; none leaves the caller's.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// Hooks that run on the host.
    #[serde(default)]
    pub hooks: HostHooks,
    /// The monitor's network namespace, which hooks and engines take for the container's.
    #[serde(default)]
    pub network: NetworkNamespace,
    /// The sandbox stands alone and reaches the caller's network; the monitor leaves that network itself.
    #[serde(default)]
    pub user_network: Option<UserNetwork>,
    /// What each of its network interfaces may carry.
    #[serde(default)]
    pub network_rates: NetworkRates,
    /// What the guest has free does not go back to the host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_memory: bool,
    /// The processors that the monitor may use; none for all that the caller may.
    #[serde(default)]
    pub cpus: BTreeSet<u32>,
    /// Entry N is the disk in slot N.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskPlan>,
    /// As whom the container connects to the sockets among the volumes, where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_user: Option<SocketUser>,
}

/// Numbers of the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketUser {
    /// Whom a service takes for its peer.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
    /// Modes of files do not keep it out (`CAP_DAC_OVERRIDE`).
    pub passes_modes: bool,
}

/// A disk of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskPlan {
    /// The field of the configuration that asks for it, for messages.
    pub field: String,
    /// What it is on.
    pub source: DiskSource,
    /// Nobody in the guest may write to it.
    pub read_only: bool,
    /// How much may be read and written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateSpec>,
}

/// What a disk is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskSource {
    /// A file, or a block device, that has this path.
    Path(PathBuf),
    /// The host's block device of this number.
    Device {
        /// Its driver's.
        major: u32,
        /// Its own.
        minor: u32,
    },
}

/// Where the container's cgroup on the host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostCgroup {
    /// Below the root of the hierarchy.
    Absolute(PathBuf),
    /// Below the parent of the caller's.
    BesideCaller(PathBuf),
    /// That of a scope, which systemd makes where it runs.
    Scope(ScopePlan),
}

/// A scope of systemd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopePlan {
    /// In which slice; none for the one that systemd has for the like.
    pub slice: Option<String>,
    /// Its full name.
    pub unit: String,
}

/// One limit of the container's cgroup on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostLimit {
    /// The control file.
    pub file: String,
    /// What is written.
    pub value: String,
    /// The field of the configuration that it stands in, for messages.
    pub field: String,
    /// The guest cannot hold it, so that it must hold here.
    pub host_only: bool,
    /// Not before the container is made: the guest boots as fast as it can.
    pub late: bool,
}

/// Where the monitor is started. The guest has a network of its own, whatever this is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkNamespace {
    /// In the caller's.
    #[default]
    Callers,
    /// In a new one.
    New,
    /// In the one that has this path.
    Named(PathBuf),
}

/// The container's file systems as far as the host has them, for engines that enter the mount
/// namespace of the container's process to reach its files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct View {
    /// The root file system may not be written to.
    pub readonly: bool,
    /// In the configuration's order.
    pub mounts: Vec<ViewMount>,
}

/// One mount of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewMount {
    /// Where it is in the container; absolute, links not followed.
    pub destination: PathBuf,
    /// Its number in [`HostPlan::volumes`]; none for what is mounted in the guest alone.
    pub volume: Option<usize>,
}

/// A bind mount's source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// What it is.
    pub kind: VolumeKind,
    /// Take along what is mounted below the source.
    pub recursive: bool,
    /// What the options change of the mount's attributes. The host holds them, too.
    #[serde(default)]
    pub attributes: MountChange,
    /// What they change of it and of all that is mounted below it, after that.
    #[serde(default)]
    pub below: MountChange,
    /// What becomes of mounts that are made on the host later.
    #[serde(default)]
    pub propagation: Propagation,
    /// Other owners than the file system's are seen through it.
    #[serde(default)]
    pub id_map: Option<IdMap>,
}

/// A change of a mount's attributes, in the bits of `mount_setattr(2)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountChange {
    /// These it gets.
    pub set: u64,
    /// These it loses before.
    pub clear: u64,
}

/// Whether mounts that the host makes below a volume's source appear in the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// They do.
    #[default]
    Slave,
    /// They do not, but below what is mounted in the volume.
    Private,
    /// They do not.
    RecursivelyPrivate,
}

/// How the owners of a volume's files are seen; others are seen as nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMap {
    /// The mount of the configuration that it stands in, for messages.
    pub field: String,
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
    /// For what is mounted below the source, too.
    pub recursive: bool,
}

/// Ids in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// The first one as the file system stores it.
    pub stored: u32,
    /// The same one as it is seen.
    pub seen: u32,
    /// How many.
    pub count: u32,
}

/// What a volume's mount point must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeKind {
    /// A directory.
    Directory,
    /// A file, FIFO, device node, or a socket of datagrams.
    File,
    /// Any other socket: who connects to it in the container is connected to who listens on the host.
    Socket,
}

/// OCI hooks that run on the host, in order; `startContainer` runs in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostHooks {
    /// `prestart` and `createRuntime`, in this order: when the container's namespaces on the
    /// host are there, and before the container is made in the guest. They run in the caller's.
    pub create_runtime: Vec<Hook>,
    /// After those, in the container's namespaces.
    pub create_container: Vec<Hook>,
    /// After the program has started; a failure ends the container.
    pub poststart: Vec<Hook>,
    /// After the container is gone; a failure is only reported.
    pub poststop: Vec<Hook>,
}

impl HostHooks {
    /// Whether the container is made only after some have run.
    pub fn precede_creation(&self) -> bool {
        !self.create_runtime.is_empty() || !self.create_container.is_empty()
    }
}

/// One program to run with the container's state on its standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The field of the configuration that it stands in, for messages.
    pub field: String,
    /// Absolute path.
    pub path: PathBuf,
    /// `argv`, the program's name included.
    #[serde(default)]
    pub args: Vec<String>,
    /// `KEY=value`; nothing else is in its environment. Without any list it has its caller's.
    #[serde(default)]
    pub env: Option<Vec<String>>,
    /// Seconds after which it is killed.
    #[serde(default)]
    pub timeout_s: Option<u64>,
}
