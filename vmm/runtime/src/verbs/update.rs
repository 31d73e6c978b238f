//! `vmrun update`.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use serde_json::Value;
use vmrun_plan::{Machine, PlanError};
use vmrun_spec::HostLimit;

use crate::control::{self, ControlReply, ControlRequest};
use crate::error::Error;
use crate::host_cgroup;
use crate::launch::LaunchError;
use crate::launch::facts::online_processors;
use crate::log;
use crate::processors;
use crate::status::Act;
use crate::store::{Entry, ExecBase, State, Store};

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

/// Changes the limits that are given, and no others. Warns of those that the machine has not.
///
/// # Errors
/// The limits are none, the container has ended or is paused, or the guest refuses them.
pub fn update(store: &Store, id: &str, limits: &Limits) -> Result<(), Error> {
    let (entry, state) = super::find_for(store, id, Act::Update)?;
    let value = match limits {
        Limits::File(path) => read(path)?,
        Limits::Value(value) => value.clone(),
    };
    let mut resources: Box<LinuxResources> =
        serde_json::from_value(given(value)).map_err(LimitsError::Parse)?;
    vmrun_plan::check_resources(&resources).map_err(LimitsError::Refused)?;
    if let Some(swap) = swap_alone(&resources) {
        complete(&mut resources, swap, limit_in_force(&entry, &state)?)?;
    }
    let base = ExecBase::read(entry.directory())?;
    let machine = Machine { vcpus: base.vcpus, memory_mib: base.memory_mib };
    let in_force = with_cpu_time_in_force(&resources, state.cgroup.as_deref());
    let on_host = on_host(&in_force, machine, state.cgroup.as_deref())?;
    let online = online_processors(Some(&resources))?;
    let processors = vmrun_plan::processors(Some(&resources), &online).map_err(LimitsError::Refused)?;
    let in_guest = vmrun_plan::without_the_hosts(&resources);
    let in_guest = vmrun_plan::in_the_guest(&in_guest, &processors, base.vcpus);
    // The host may refuse, and the guest has not been asked then. What the guest refuses is taken back.
    let before = host_cgroup::in_force(state.own_cgroup(), &on_host);
    let set = || {
        host_cgroup::change(state.own_cgroup(), &on_host)?;
        if !processors.is_empty() {
            processors::move_to(state.monitor.pid, &processors).map_err(LaunchError::Processors)?;
        }
        control::ask(&entry, &state, &ControlRequest::Update(Box::new(in_guest))).map(drop)
    };
    let done: Result<(), Error> = set();
    match &done {
        Ok(()) => vmrun_plan::beyond(&in_force, machine).iter().for_each(|warning| log::warn(warning)),
        Err(_) => host_cgroup::put_back(state.own_cgroup(), &before),
    }
    done
}

/// A limit of swap that comes without one of memory, of which it would be a part.
fn swap_alone(resources: &LinuxResources) -> Option<i64> {
    let memory = resources.memory().as_ref()?;
    memory.swap().filter(|swap| *swap > 0 && memory.limit().is_none())
}

/// The container's limit of memory.
fn limit_in_force(entry: &Entry, state: &State) -> Result<Option<i64>, Error> {
    let reply = control::ask(entry, state, &ControlRequest::Figures)?;
    let ControlReply::Figures(figures) = reply else { return Ok(None) };
    Ok(figures.container.memory_limit_bytes.and_then(|bytes| i64::try_from(bytes).ok()))
}

/// Adds the limit of memory that holds, as runc does, whose number for swap is the sum of both.
fn complete(resources: &mut LinuxResources, swap: i64, limit: Option<i64>) -> Result<(), LimitsError> {
    let refuse = |problem: &str| {
        let field = "linux.resources.memory.swap".to_owned();
        LimitsError::Refused(PlanError::Invalid { field, problem: problem.to_owned() })
    };
    let limit = limit.ok_or_else(|| refuse("unable to set swap limit without memory limit"))?;
    if swap < limit {
        return Err(refuse("memory+swap limit should be >= memory limit"));
    }
    if let Some(mut memory) = resources.memory().as_ref().copied() {
        memory.set_limit(Some(limit));
        resources.set_memory(Some(memory));
    }
    Ok(())
}

/// Another period is for the same quota, and another quota for the same period.
fn with_cpu_time_in_force(resources: &LinuxResources, cgroup: Option<&Path>) -> LinuxResources {
    let mut resources = resources.clone();
    let Some(mut cpu) = resources.cpu().clone() else { return resources };
    if cpu.quota().is_some() == cpu.period().is_some() {
        return resources;
    }
    let directory = cgroup.and_then(host_cgroup::on_this_host);
    if let Some((quota, period)) = directory.as_deref().and_then(host_cgroup::cpu_time_in_force) {
        let (quota, period) = (cpu.quota().or(Some(quota)), cpu.period().or(Some(period)));
        cpu.set_quota(quota).set_period(period);
        resources.set_cpu(Some(cpu));
    }
    resources
}

/// What changes in the container's cgroup on the host.
fn on_host(
    resources: &LinuxResources,
    machine: Machine,
    cgroup: Option<&Path>,
) -> Result<Vec<HostLimit>, LimitsError> {
    let mut limits = vmrun_plan::host_limits(resources, machine);
    if cgroup.and_then(host_cgroup::on_this_host).is_none() {
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
    let mut value = serde_json::from_slice(&text).map_err(LimitsError::Parse)?;
    vmrun_plan::put_names_right(&mut value).map_err(|field| {
        let problem = "is there twice, in other letters; leave one out".to_owned();
        LimitsError::Refused(PlanError::Invalid { field, problem })
    })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{complete, given, swap_alone};

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
    #[test]
    fn swap_alone_is_a_part_of_the_memory_that_is_in_force() {
        let mut resources = serde_json::from_value(json!({"memory": {"swap": 100}})).unwrap();
        assert_eq!(swap_alone(&resources), Some(100));
        assert!(
            complete(&mut resources, 100, None).unwrap_err().to_string().contains("without memory limit")
        );
        assert!(
            complete(&mut resources, 100, Some(101)).unwrap_err().to_string().contains(">= memory limit")
        );
        complete(&mut resources, 100, Some(60)).unwrap();
        assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(60));
        assert_eq!(swap_alone(&resources), None);
        let lifted = serde_json::from_value(json!({"memory": {"swap": -1}})).unwrap();
        assert_eq!(swap_alone(&lifted), None);
    }
}
