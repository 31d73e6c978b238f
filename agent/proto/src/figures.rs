//! What the host is told of a running container.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One process of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessInfo {
    /// Pid in the guest's root pid namespace, like all pids here.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Effective user, in the guest's root user namespace.
    pub uid: u32,
    /// CPU time in milliseconds.
    pub cpu_ms: u64,
    /// Milliseconds since it began.
    pub elapsed_ms: u64,
    /// Name of its terminal, `?` without one.
    pub terminal: String,
    /// Its arguments, cut where they are long.
    pub command: String,
    /// Pid in the container's pid namespace; 0 where it is not known.
    #[serde(skip_serializing_if = "is_default")]
    pub inner_pid: i32,
    /// The kernel's name for it.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// The fields of `/proc/PID/stat` behind the name: proc(5) counts the first of them as its third.
    #[serde(skip_serializing_if = "is_default")]
    pub stat: String,
    /// Lines of `/proc/PID/status`, by their names.
    #[serde(skip_serializing_if = "is_default")]
    pub status: BTreeMap<String, String>,
    /// Its resident memory in thousandths of the machine's.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_permille: u32,
}

/// Left out on the wire, as an older peer does.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Figures of a container's cgroup. What the kernel does not count is zero or absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerFigures {
    /// `cpu.stat`, times in microseconds.
    pub cpu: BTreeMap<String, u64>,
    /// `memory.stat`.
    pub memory: BTreeMap<String, u64>,
    /// `memory.events`.
    pub memory_events: BTreeMap<String, u64>,
    /// `memory.current`.
    pub memory_bytes: u64,
    /// `memory.peak`.
    pub memory_peak_bytes: u64,
    /// `memory.max`; `None` is no limit, here and below.
    pub memory_limit_bytes: Option<u64>,
    /// `memory.swap.current`.
    pub swap_bytes: u64,
    /// `memory.swap.max`.
    pub swap_limit_bytes: Option<u64>,
    /// `pids.current`.
    pub pids: u64,
    /// `pids.max`.
    pub pids_limit: Option<u64>,
    /// `hugetlb.SIZE.current` and `max` of `hugetlb.SIZE.events`, by their sizes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub huge_pages: BTreeMap<String, BTreeMap<String, u64>>,
    /// `io.stat`.
    pub io: Vec<DeviceFigures>,
    /// `cpu.pressure`, `memory.pressure` and `io.pressure`, by what is before the dot; where the kernel has them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pressure: BTreeMap<String, PressureFigures>,
    /// Its network interfaces but for loopback, in the kernel's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<InterfaceFigures>,
}

/// For how long tasks have waited for something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PressureFigures {
    /// One of them at least.
    pub some: PressureLine,
    /// All that were not idle, at the same time.
    pub full: PressureLine,
}

/// Shares of the time in hundredths of a percent, as the kernel tells them, and the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PressureLine {
    /// Of the last 10 s.
    pub avg10: u32,
    /// Of the last 60 s.
    pub avg60: u32,
    /// Of the last 300 s.
    pub avg300: u32,
    /// In microseconds.
    pub total: u64,
}

/// Figures of one network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceFigures {
    /// Its name in the container.
    pub name: String,
    /// What it has received.
    pub received: PacketFigures,
    /// What it has sent.
    pub sent: PacketFigures,
}

/// Figures of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PacketFigures {
    /// Bytes of frames.
    pub bytes: u64,
    /// Frames.
    pub packets: u64,
    /// Those that were wrong.
    pub errors: u64,
    /// Those for which there was no room.
    pub dropped: u64,
}

/// Figures of one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceFigures {
    /// Major device number.
    pub major: u64,
    /// Minor device number.
    pub minor: u64,
    /// `rbytes`, `wbytes`, `rios`, `wios`, …
    pub counts: BTreeMap<String, u64>,
}
