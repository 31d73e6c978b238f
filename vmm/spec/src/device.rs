//! The devices of a virtual machine: what they shall be, and what they work on.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One device. What it needs that is open already comes beside it, in [`Handles`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DeviceSpec {
    /// The link to the agent.
    Vsock(VsockSpec),
    /// Entropy.
    Rng,
    /// A directory of the host's.
    Fs(ShareSpec),
    /// A network interface.
    Net(NetSpec),
    /// Reports of what the guest has free.
    Balloon,
    /// A disk.
    Disk(DiskSpec),
}

/// What may be changed of a device while its driver has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChange {
    /// The link of a network interface goes up, or down.
    Link(bool),
}

/// Open descriptors that a device works on; each is the device's own, and closed with it.
#[derive(Debug, Default)]
pub struct Handles {
    /// What [`DeviceSpec::Net`] sends and receives frames on.
    pub frames: Option<Frames>,
    /// The file or block device that a [`DeviceSpec::Disk`] is on.
    pub disk: Option<OwnedFd>,
    /// Whom the guest reaches by [`DeviceSpec::Vsock`].
    pub host_port: Option<HostPort>,
}

/// The port of the host that a guest may connect to, once.
#[derive(Debug)]
pub struct HostPort {
    /// Its number.
    pub port: u32,
    /// The guest's connection, whose other end its owner reads.
    pub stream: UnixStream,
}

/// Where frames of Ethernet come from and go to; non-blocking.
#[derive(Debug)]
pub enum Frames {
    /// A tap with `IFF_NO_PI | IFF_VNET_HDR` and a header of 12 bytes, without offloads.
    Tap(OwnedFd),
    /// A stream socket. Each frame stands behind its length in 4 bytes, the highest first, as
    /// passt and QEMU's `-netdev stream` have it; there are no offloads.
    Stream(OwnedFd),
}

/// A virtio-vsock device (virtio 1.2, §5.10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockSpec {
    /// Context id of the guest, at least 3.
    pub cid: u32,
    /// Unix socket that the device listens on. A client writes `CONNECT <port>\n`
    /// and reads `OK <host port>\n`; then the bytes go to the guest's listener on
    /// that port. The guest itself reaches [`Handles::host_port`] and nobody else.
    pub socket: PathBuf,
}

/// A virtio-fs device (virtio 1.2, §5.11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareSpec {
    /// The tag by which the guest mounts it, at most 36 bytes.
    pub tag: String,
    /// The directory on the host.
    pub directory: PathBuf,
    /// What the guest may do there besides.
    #[serde(default)]
    pub authority: Authority,
    /// A directory in it of which the guest keeps nothing: it sees at once what others change there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncached: Option<String>,
    /// The guest's kernel tells of each close that ends locks, as the one inside vmrun does. Another need not be told of
    /// closes, and would keep its locks.
    #[serde(default)]
    pub quiet_closes: bool,
}

/// What the guest may do to files of a share besides what their owners may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authority {
    /// Make device nodes.
    pub device_nodes: bool,
    /// Give programs capabilities (`security.capability`).
    pub file_capabilities: bool,
    /// Set the kernel's other attributes (`trusted.*`, `security.*`).
    pub attributes: bool,
}

/// A virtio-net device (virtio 1.2, §5.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetSpec {
    /// Hardware address of the guest's interface.
    pub mac: [u8; 6],
    /// The MTU that the driver begins with, and the largest that it allows later. Without it the driver
    /// begins with 1500 and allows any: right where the MTU follows another interface's.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// How much the guest may receive.
    #[serde(default)]
    pub rx: Option<RateSpec>,
    /// How much the guest may send.
    #[serde(default)]
    pub tx: Option<RateSpec>,
}

/// A virtio-blk device (virtio 1.2, §5.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Its size; a rest that is no whole sector of 512 bytes is out of reach.
    pub bytes: u64,
    /// What the descriptor is.
    pub kind: DiskKind,
    /// The guest may not write to it.
    pub read_only: bool,
    /// What is read and written at least, a power of two from 512 on.
    pub block_bytes: u32,
    /// What the host's disk itself reads and writes at least, likewise.
    pub physical_block_bytes: u32,
    /// Its name for programs, at most 20 bytes.
    pub serial: String,
    /// How much may be read and written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateSpec>,
}

/// What a disk is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskKind {
    /// A regular file.
    File,
    /// A block device.
    Device,
}

/// What each network interface of a sandbox may carry, as the sandbox sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkRates {
    /// What it may receive.
    pub rx: Option<RateSpec>,
    /// What it may send.
    pub tx: Option<RateSpec>,
}

/// A limit of a rate. What is not given is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateSpec {
    /// Bytes of frames, or of a disk's data, a second.
    #[serde(default)]
    pub bytes: Option<NonZeroU64>,
    /// Frames, or requests to a disk, a second.
    #[serde(default)]
    pub packets: Option<NonZeroU64>,
}
