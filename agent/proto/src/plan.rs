//! What the guest is asked to run.

use std::collections::BTreeMap;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::mounts::SharedMount;
use crate::network::Network;
use crate::sockets::HostSocket;

/// One container as the guest shall run it.
///
/// `spec` is the bundle's configuration with every host path replaced by the
/// path of the same thing in the guest: `root.path` and the sources of bind
/// mounts lie under [`SHARE_MOUNT`](crate::SHARE_MOUNT), namespace paths of the
/// host are gone, host hooks are gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// The OCI configuration to apply in the guest.
    pub spec: Spec,
    /// virtio-fs trees to mount before the container is made.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// Mounts below them that have attributes of their own, or lie in a volume that takes along
    /// what is mounted below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<SharedMount>,
    /// stdio of the container's init process.
    pub io: ProcessIo,
    /// The host's path of the bundle, for hooks.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bundle: String,
    /// Give the program a socket on which it can say how it is (`sd_notify(3)`): see
    /// [`Event::Notified`](crate::Event).
    #[serde(default, skip_serializing_if = "is_false")]
    pub notify: bool,
    /// Settings of the guest's kernel, by their paths below `/proc/sys`: the host's. Those of
    /// `spec` come after them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// Interfaces beside loopback, and what belongs to them; none where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Box<Network>>,
    /// Disks that the host has plugged in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// The root file system is on a disk; else it is the directory that `spec` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_image: Option<RootImage>,
    /// Sockets among what is mounted: see [`Hello::Sockets`](crate::Hello).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<HostSocket>,
}

/// A root file system that is on a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootImage {
    /// The disk's [name](Disk::name).
    pub name: String,
    /// Its type.
    pub typ: String,
    /// Where what is changed of it goes.
    pub changes: Changes,
}

/// A layer over a root file system that nobody writes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Changes {
    /// There is none.
    Nowhere,
    /// In the machine's memory.
    Memory,
    /// On an ext4 disk.
    Disk {
        /// The disk's [name](Disk::name).
        name: String,
    },
}

/// A disk, which the agent finds in a slot of the machine, and how `spec` names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The name of its platform device.
    pub device: String,
    /// What the driver of its window is told: size, address, interrupt, number.
    pub announcement: String,
    /// The source of mounts that are of it, a path below [`DISKS_DIR`](crate::DISKS_DIR).
    pub name: String,
    /// Its device numbers on the host, major and minor, by which `linux.devices` and the rules for devices name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<(u32, u32)>,
}

/// A virtio-fs tree and where the agent mounts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Tag of the virtio-fs device (virtio 1.2, §5.11.4: at most 36 bytes).
    pub tag: String,
    /// Absolute path in the guest.
    pub mountpoint: String,
    /// Mount it read-only.
    #[serde(default)]
    pub readonly: bool,
}

/// Which stdio streams a process has. The host opens one stream connection for
/// each that is set; the others are `/dev/null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIo {
    /// A pseudo-terminal: one [`StreamKind::Terminal`](crate::StreamKind) stream and no other.
    #[serde(default)]
    pub terminal: bool,
    /// Standard input.
    #[serde(default)]
    pub stdin: bool,
    /// Standard output.
    #[serde(default)]
    pub stdout: bool,
    /// Standard error.
    #[serde(default)]
    pub stderr: bool,
    /// First size of the terminal.
    #[serde(default)]
    pub console_size: Option<ConsoleSize>,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_false(value: &bool) -> bool {
    !value
}
