//! What the file server counts.

use std::collections::BTreeMap;

use vmrun_machine::Running;

/// What the device is called.
const FILE_SERVER: &str = "virtio-fs";

/// What the file server of `machine` has counted, but for what there was none of. Waits for nobody.
pub(super) fn file_figures(machine: &Running) -> BTreeMap<String, u64> {
    let servers = machine.counters().into_iter().filter(|device| device.device == FILE_SERVER);
    let counted = servers.flat_map(|server| server.figures).filter(|(_, count)| *count > 0);
    counted.map(|(name, count)| (name.to_owned(), count)).collect()
}
