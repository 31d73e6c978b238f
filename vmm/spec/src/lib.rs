//! Plain data that the host side's crates hand to each other: no I/O, no
//! project dependencies, no behaviour beyond what the data itself implies.

mod device;
mod host;
mod launch;
mod machine;
mod slot;

pub use device::{DeviceChange, DeviceSpec, Handles, NetSpec, RateSpec, ShareSpec, VsockSpec};
pub use host::{
    Hook, HostCgroup, HostHooks, HostLimit, HostPlan, IdMap, IdRange, MountChange, NetworkNamespace,
    Propagation, ScopePlan, View, ViewMount, Volume, VolumeKind,
};
pub use launch::{FailureReport, LauncherMessage, MonitorMessage};
pub use machine::{Image, MachineSpec};
pub use slot::{NicSlot, NoSuchSlot};
