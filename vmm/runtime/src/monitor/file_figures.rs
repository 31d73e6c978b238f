//! What the file server counts.

use std::collections::BTreeMap;

use crate::machine::Machine;

/// What the device is called.
const FILE_SERVER: &str = "virtio-fs";

/// What the file server of `machine` has counted, but for what there was none of.
pub(super) fn file_figures(machine: &Machine) -> BTreeMap<String, u64> {
    let servers = machine.counters().into_iter().filter(|device| device.device == FILE_SERVER);
    servers.flat_map(|server| server.figures).filter(|(_, count)| *count > 0).collect()
}
