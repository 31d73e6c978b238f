//! What a further process of a container begins with.
//!
//! It is kept when the container is made: the specification wants later changes of the bundle
//! to have no effect, and an engine may have removed it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};
use vmrun_plan::SandboxPlan;

use super::StoreError;

/// Name of the file in a container's directory.
const EXEC_FILE: &str = "exec.json";

/// What `vmrun exec` and `vmrun update` need of the container's plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExecBase {
    /// The container's own process.
    pub(crate) process: Process,
    /// CPUs of the machine.
    pub(crate) vcpus: u8,
    /// Its memory in MiB.
    #[serde(default)]
    pub(crate) memory_mib: u32,
}

impl ExecBase {
    pub(crate) fn of(plan: &SandboxPlan) -> Self {
        let process = plan.guest.spec.process().clone().unwrap_or_default();
        Self { process, vcpus: plan.machine.vcpus, memory_mib: plan.machine.memory_mib }
    }

    /// Reads it from a container's directory.
    pub(crate) fn read(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(EXEC_FILE);
        let text = fs::read(&path).map_err(StoreError::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|source| StoreError::Parse { path, source })
    }

    /// Writes it there, before there is a state: whoever finds that finds this. After a crash of
    /// the host nothing runs in the container, so there is no need to wait for the disk.
    pub(super) fn write(&self, directory: &Path) -> Result<(), StoreError> {
        let path = directory.join(EXEC_FILE);
        let text = serde_json::to_vec(self).map_err(StoreError::Encode)?;
        // An environment holds secrets.
        let mut options = fs::OpenOptions::new();
        let made = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        made.and_then(|mut file| file.write_all(&text)).map_err(StoreError::io("write", &path))
    }
}

#[cfg(test)]
impl ExecBase {
    /// Of a container that has nothing special.
    pub(crate) fn plain() -> Self {
        Self { process: Process::default(), vcpus: 3, memory_mib: 256 }
    }
}
