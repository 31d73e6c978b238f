//! The state file's content.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vmrun_spec::Hook;

use crate::control;
use crate::host_cgroup::OwnCgroup;
use crate::process::{self, ProcessIdentity};
use crate::status::Status;
use crate::systemd::Scope;

/// What is remembered of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// [`State::SCHEMA`] of the writer.
    pub(crate) schema: u32,
    pub(crate) id: String,
    pub(crate) oci_version: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    /// RFC 3339.
    pub(crate) created: String,
    /// As last written: [`State::status_now`] tells the truth.
    pub(crate) status: Status,
    pub(crate) monitor: ProcessIdentity,
    /// The host's boot in which `monitor` lives.
    pub(crate) boot_id: String,
    /// File name of the monitor's control socket in the container's directory.
    pub(crate) control_socket: String,
    /// The version of what is spoken there. Who did not say had none.
    #[serde(default = "before_greetings")]
    pub(crate) control_version: u32,
    /// Set once the program has ended.
    #[serde(default)]
    pub(crate) exit_code: Option<u8>,
    /// The monitor's cgroup on the host, where it has one of its own.
    #[serde(default)]
    pub(crate) cgroup: Option<PathBuf>,
    /// The network namespace that it has joined, which may be there for longer.
    #[serde(default)]
    pub(crate) network: Option<PathBuf>,
    /// The scope that this cgroup is of, where systemd has made it.
    #[serde(default)]
    pub(crate) scope: Option<Scope>,
    /// Hooks to run when its program has started.
    #[serde(default)]
    pub(crate) poststart: Vec<Hook>,
    /// Hooks to run when the container is deleted.
    #[serde(default)]
    pub(crate) poststop: Vec<Hook>,
    /// Its program has a socket on which it says how it is.
    #[serde(default)]
    pub(crate) notifies: bool,
}

fn before_greetings() -> u32 {
    control::BEFORE_GREETINGS
}

/// What a state is made from, before there is a monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateSource {
    pub(crate) id: String,
    pub(crate) oci_version: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) created: String,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) network: Option<PathBuf>,
    pub(crate) scope: Option<Scope>,
    pub(crate) poststart: Vec<Hook>,
    pub(crate) poststop: Vec<Hook>,
    pub(crate) notifies: bool,
}

impl StateSource {
    pub(crate) fn own_cgroup(&self) -> Option<OwnCgroup<'_>> {
        OwnCgroup::of(self.cgroup.as_deref(), self.scope.as_ref())
    }

    pub(crate) fn state(&self, status: Status, monitor: ProcessIdentity) -> State {
        State {
            schema: State::SCHEMA,
            id: self.id.clone(),
            oci_version: self.oci_version.clone(),
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            annotations: self.annotations.clone(),
            created: self.created.clone(),
            status,
            monitor,
            boot_id: process::boot_id(),
            control_socket: super::CONTROL_SOCKET.to_owned(),
            control_version: control::VERSION,
            exit_code: None,
            cgroup: self.cgroup.clone(),
            network: self.network.clone(),
            scope: self.scope.clone(),
            poststart: self.poststart.clone(),
            poststop: self.poststop.clone(),
            notifies: self.notifies,
        }
    }
}

impl State {
    pub(crate) fn own_cgroup(&self) -> Option<OwnCgroup<'_>> {
        OwnCgroup::of(self.cgroup.as_deref(), self.scope.as_ref())
    }

    /// Grows when an older `vmrun` could misread the file.
    pub(crate) const SCHEMA: u32 = 1;

    /// The status, given that a monitor may have died without a word.
    pub(crate) fn status_now(&self) -> Status {
        if self.status == Status::Stopped || !self.monitor_lives() { Status::Stopped } else { self.status }
    }

    /// Whether its monitor runs.
    pub(crate) fn monitor_lives(&self) -> bool {
        self.boot_id == process::boot_id() && self.monitor.is_alive()
    }
}

#[cfg(test)]
impl StateSource {
    /// Of a container that has nothing special.
    pub(crate) fn plain(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            oci_version: "1.0.2".to_owned(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            annotations: BTreeMap::new(),
            created: crate::timestamp::now(),
            cgroup: None,
            network: None,
            scope: None,
            poststart: Vec::new(),
            poststop: Vec::new(),
            notifies: false,
        }
    }
}
