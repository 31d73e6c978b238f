//! The configuration's `vm` section.
//!
//! Read apart from the rest, since the specification's `hwConfig` is younger
//! than the types of `oci-spec`, which also insist on `vm.kernel`.

use std::path::PathBuf;

use serde::Deserialize;

/// What is understood of `vm`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmSection {
    /// Sizes.
    pub hw_config: HwConfig,
    /// What to boot, if the host allows it.
    pub kernel: Option<KernelSection>,
    /// Only its presence matters: the host chooses, here and below.
    pub hypervisor: Option<serde_json::Value>,
    /// Likewise.
    pub image: Option<serde_json::Value>,
}

/// `vm.kernel`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct KernelSection {
    /// The kernel's file on the host.
    pub path: PathBuf,
    /// More kernel parameters.
    #[serde(default)]
    pub parameters: Vec<String>,
    /// The boot image's file on the host.
    pub initrd: Option<PathBuf>,
}

/// `vm.hwConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HwConfig {
    /// Number of vCPUs.
    pub vcpus: Option<u32>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Only its presence matters: the machine has no device tree.
    pub device_tree: Option<serde_json::Value>,
    /// Only its presence matters, here and below: no device of the host is passed through.
    pub dtdevs: Option<Vec<serde_json::Value>>,
    /// Likewise.
    pub iomems: Option<Vec<serde_json::Value>>,
    /// Likewise.
    pub irqs: Option<Vec<serde_json::Value>>,
}
