//! Plain data that the host side's crates hand to each other: no I/O, no
//! project dependencies, no behaviour beyond what the data itself implies.

mod device;
mod host;
mod launch;
mod machine;
mod network;
mod slot;
mod timeline;

pub use device::{
    Authority, DeviceChange, DeviceSpec, DiskKind, DiskSpec, Frames, Handles, HostPort, NetSpec,
    NetworkRates, RateSpec, ShareSpec, VsockSpec,
};
pub use host::{
    DiskPlan, DiskSource, Hook, HostCgroup, HostHooks, HostLimit, HostPlan, IdMap, IdRange, MountChange,
    NetworkNamespace, Propagation, ScopePlan, SocketUser, View, ViewMount, Volume, VolumeKind,
};
pub use launch::{FailureReport, LauncherMessage, MonitorMessage};
pub use machine::{Image, MachineSpec};
pub use network::{PortProtocol, PublishedPort, UserNetwork};
pub use slot::{BalloonSlot, DiskSlot, NicSlot, NoSuchSlot, Slot};
pub use timeline::{Lane, Mark, Phase, Timeline};
