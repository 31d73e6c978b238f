//! `vmrun update`.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use serde_json::Value;
use vmrun_plan::{Machine, PlanError};
use vmrun_spec::HostLimit;

use crate::control::{self, ControlRequest};
use crate::error::Error;
use crate::host_cgroup;
use crate::launch::LaunchError;
use crate::launch::facts::online_processors;
use crate::processors;
use crate::status::Act;
use crate::store::{ExecBase, Store};

/// Where the new limits come from.
#[derive(Clone, Debug)]
pub enum Limits {
    /// A file with the JSON of `linux.resources`; `-` is standard input.
    File(PathBuf),
    /// Such a value.
    Value(Value),
}

/// Why limits are not understood.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// The file cannot be read.
    #[error("resources {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not hold resources.
    #[error("resources")]
    Parse(#[source] serde_json::Error),
    /// They cannot be honoured.
    #[error("{}", .0.field_and_problem())]
    Refused(PlanError),
}

/// Changes the limits that are given, and no others.
///
/// # Errors
/// The limits are none, the container has ended or is paused, or the guest refuses them.
pub fn update(store: &Store, id: &str, limits: &Limits) -> Result<(), Error> {
    let (entry, state) = super::find_for(store, id, Act::Update)?;
    let value = match limits {
        Limits::File(path) => read(path)?,
        Limits::Value(value) => value.clone(),
    };
    let resources: Box<LinuxResources> = serde_json::from_value(given(value)).map_err(LimitsError::Parse)?;
    vmrun_plan::check_resources(&resources).map_err(LimitsError::Refused)?;
    let base = ExecBase::read(entry.directory())?;
    let on_host = on_host(&resources, &base, state.cgroup.as_deref())?;
    let online = online_processors(Some(&resources))?;
    let processors = vmrun_plan::processors(Some(&resources), &online).map_err(LimitsError::Refused)?;
    let in_guest = vmrun_plan::without_the_hosts(&resources);
    let in_guest = vmrun_plan::in_the_guest(&in_guest, &processors, base.vcpus);
    // The host may refuse, and the guest has not been asked then.
    host_cgroup::change(state.own_cgroup(), &on_host)?;
    if !processors.is_empty() {
        processors::move_to(state.monitor.pid, &processors).map_err(LaunchError::Processors)?;
    }
    control::ask(&entry, &state, &ControlRequest::Update(Box::new(in_guest))).map(drop)
}

/// What changes in the container's cgroup on the host.
fn on_host(
    resources: &LinuxResources,
    base: &ExecBase,
    cgroup: Option<&Path>,
) -> Result<Vec<HostLimit>, LimitsError> {
    let mut resources = resources.clone();
    let directory = cgroup.and_then(host_cgroup::on_this_host);
    if let (Some(directory), Some(mut cpu)) = (&directory, resources.cpu().clone())
        && cpu.quota().is_none()
        && cpu.period().is_some()
    {
        // Another period for the same quota.
        cpu.set_quota(host_cgroup::current_quota(directory));
        resources.set_cpu(Some(cpu));
    }
    let machine = Machine { vcpus: base.vcpus, memory_mib: base.memory_mib };
    let mut limits = vmrun_plan::host_limits(&resources, machine);
    if directory.is_none() {
        vmrun_plan::need_no_cgroup(&limits).map_err(LimitsError::Refused)?;
    }
    // The container is made.
    limits.iter_mut().for_each(|limit| limit.late = false);
    Ok(limits)
}

/// Limits of which zero, or an empty list, says that they were not given: Docker always sends them.
const ZERO_IS_NONE: &[(&str, &[&str])] = &[
    ("memory", &["limit", "reservation", "swap", "kernel", "kernelTCP"]),
    ("cpu", &["shares", "quota", "period", "realtimeRuntime", "realtimePeriod", "cpus", "mems"]),
    ("blockIO", &["weight", "leafWeight"]),
    ("pids", &["limit"]),
];

/// The limits without those that runc would leave as they are.
fn given(mut limits: Value) -> Value {
    for (name, fields) in ZERO_IS_NONE {
        let Some(section) = limits.get_mut(name).and_then(Value::as_object_mut) else { continue };
        section.retain(|field, value| {
            !fields.contains(&field.as_str()) || !(*value == 0 || *value == "" || value.is_null())
        });
        if section.is_empty()
            && let Some(sections) = limits.as_object_mut()
        {
            sections.remove(*name);
        }
    }
    limits
}

fn read(path: &Path) -> Result<Value, LimitsError> {
    let failed = |source| LimitsError::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    if path.as_os_str() == "-" {
        io::stdin().read_to_end(&mut text).map_err(failed)?;
    } else {
        text = std::fs::read(path).map_err(failed)?;
    }
    serde_json::from_slice(&text).map_err(LimitsError::Parse)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::given;

    #[test]
    fn zeros_that_mean_nothing_are_left_out() {
        let sent = json!({
            "memory": {"limit": 48, "swap": 48, "reservation": 0, "kernel": 0},
            "cpu": {"shares": 0, "quota": 0, "period": 0, "burst": 0, "cpus": ""},
            "blockIO": {"weight": 0}, "pids": {"limit": -1},
        });
        let kept = json!({"memory": {"limit": 48, "swap": 48}, "cpu": {"burst": 0}, "pids": {"limit": -1}});
        assert_eq!(given(sent), kept);
        assert_eq!(given(json!("nonsense")), json!("nonsense"));
    }
}
