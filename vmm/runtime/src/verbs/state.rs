//! `vmrun state`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::error::Error;
use crate::status::Status;
use crate::store::{State, Store};

/// The state of a container as the OCI specification and runc show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OciState {
    /// Version of the specification.
    pub oci_version: String,
    /// Container id.
    pub id: String,
    /// The monitor's pid; 0 once stopped.
    pub pid: i32,
    /// Its state.
    pub status: Status,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// The root file system.
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    /// From the configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Whose container it is, as `#UID`, in a list; empty elsewhere, as with runc.
    pub owner: String,
}

impl OciState {
    pub(crate) fn of(state: &State) -> Self {
        let status = state.status_now();
        Self {
            oci_version: state.oci_version.clone(),
            id: state.id.clone(),
            pid: if status == Status::Stopped { 0 } else { state.monitor.pid },
            status,
            bundle: state.bundle.clone(),
            rootfs: state.rootfs.clone(),
            created: state.created.clone(),
            annotations: state.annotations.clone(),
            owner: String::new(),
        }
    }
}

/// The state of one container.
///
/// # Errors
/// There is no such container.
pub fn state(store: &Store, id: &str) -> Result<OciState, Error> {
    let (_, _, state) = super::find_with_state(store, id)?;
    Ok(OciState::of(&state))
}
