//! The virtual machine that a sandbox runs in.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::DeviceSpec;

/// Everything that is needed to build and boot one virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSpec {
    /// Number of vCPUs, 1 to [`MachineSpec::MAX_VCPUS`].
    pub vcpus: u8,
    /// Guest memory in MiB, at least [`MachineSpec::MIN_MEMORY_MIB`].
    pub memory_mib: u32,
    /// The guest kernel: ELF `vmlinux` or `bzImage`.
    pub kernel: Image,
    /// The boot image: a cpio archive with the agent as `/init`.
    pub initramfs: Image,
    /// Kernel parameters behind the built-in ones; a later one wins.
    #[serde(default)]
    pub cmdline: Vec<String>,
    /// File that takes the guest's kernel log; made if missing, its size is capped.
    pub console_log: PathBuf,
    /// I/O port by which the guest says how far it has come: each byte that it writes there is stamped
    /// with the host's clock. None where nobody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark_port: Option<u16>,
    /// The devices that it boots with; the guest probes them in this order.
    pub devices: Vec<DeviceSpec>,
}

impl MachineSpec {
    /// vCPUs that the interrupt routing table (MP table, 8-bit APIC ids) has room for.
    pub const MAX_VCPUS: u8 = 64;

    /// Below this the kernel and the boot image do not fit and nothing could be reported.
    pub const MIN_MEMORY_MIB: u32 = 48;

    /// Guest memory in bytes.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mib) << 20
    }
}

/// Where a boot image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Image {
    /// The one inside the `vmrun` binary.
    Embedded,
    /// A file on the host.
    File(PathBuf),
}
