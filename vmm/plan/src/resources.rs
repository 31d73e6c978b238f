//! Limits that a microVM cannot honour: what cgroup v2 or the guest does not have. A value that means "no limit" is no limit.

use oci_spec::runtime::LinuxResources;

use crate::unified;
use crate::validate::PlanError;

const CGROUP_V2: &str = "cgroup v2, which the guest has, knows no such limit; leave the field out";
const ONE_SWAPPINESS: &str =
    "cgroup v2, which the guest has, leaves all with the kernel's own 60; leave the field out";
const ONE_NODE: &str = "the guest has one memory node, which is 0; leave the field out";
const NO_ADAPTER: &str = "the guest has no such adapter; leave the field out";

/// Refuses limits that cannot be honoured, at the creation and later.
///
/// # Errors
/// A [`PlanError`] that names the field.
pub fn check_resources(resources: &LinuxResources) -> Result<(), PlanError> {
    let refused = [memory, cpu, block_io, adapters].into_iter().find_map(|find| find(resources));
    match refused {
        Some((field, why)) => Err(PlanError::Unsupported { field: format!("linux.resources.{field}"), why }),
        None => files(resources),
    }
}

/// Each names a file of the container's cgroup, and no other; memory nodes are as little the host's as in the
/// field of their own.
fn files(resources: &LinuxResources) -> Result<(), PlanError> {
    if unified::file(resources, unified::MEMORY_NODES).is_some_and(|nodes| !["", "0"].contains(&nodes)) {
        return Err(PlanError::Unsupported { field: unified::field(unified::MEMORY_NODES), why: ONE_NODE });
    }
    let mut names: Vec<_> = resources.unified().iter().flatten().map(|(name, _)| name).collect();
    names.sort();
    match names.into_iter().find(|name| name.is_empty() || name.contains('/')) {
        Some(name) => {
            Err(PlanError::invalid(unified::field(name), "is not the name of a file of the cgroup"))
        }
        None => Ok(()),
    }
}

type Refusal = Option<(&'static str, &'static str)>;

fn first(table: &[(&'static str, &'static str, bool)]) -> Refusal {
    table.iter().find(|(.., given)| *given).map(|(field, why, _)| (*field, *why))
}

fn memory(resources: &LinuxResources) -> Refusal {
    let memory = resources.memory().as_ref()?;
    let limited = |limit: Option<i64>| limit.is_some_and(|limit| limit > 0);
    first(&[
        ("memory.kernel", CGROUP_V2, limited(memory.kernel())),
        ("memory.kernelTCP", CGROUP_V2, limited(memory.kernel_tcp())),
        ("memory.swappiness", ONE_SWAPPINESS, memory.swappiness().is_some_and(|value| value != 60)),
        (
            "memory.useHierarchy",
            "cgroup v2, which the guest has, always counts what is below; leave the field out",
            memory.use_hierarchy() == Some(false),
        ),
        ("memory.disableOOMKiller", CGROUP_V2, memory.disable_oom_killer() == Some(true)),
        (
            "memory.checkBeforeUpdate",
            "the guest's kernel takes a limit and makes room for it; leave the field out",
            memory.check_before_update() == Some(true),
        ),
    ])
}

fn cpu(resources: &LinuxResources) -> Refusal {
    let cpu = resources.cpu().as_ref()?;
    let nodes = cpu.mems().as_deref().map(str::trim).filter(|nodes| !nodes.is_empty());
    first(&[
        ("cpu.mems", ONE_NODE, nodes.is_some_and(|nodes| nodes != "0")),
        ("cpu.realtimeRuntime", CGROUP_V2, cpu.realtime_runtime().is_some_and(|time| time > 0)),
        ("cpu.realtimePeriod", CGROUP_V2, cpu.realtime_period().is_some_and(|time| time > 0)),
    ])
}

fn block_io(resources: &LinuxResources) -> Refusal {
    let io = resources.block_io().as_ref()?;
    first(&[("blockIO.leafWeight", CGROUP_V2, io.leaf_weight().is_some_and(|weight| weight > 0))])
}

fn adapters(resources: &LinuxResources) -> Refusal {
    let network = resources.network().as_ref();
    let priorities = network.and_then(|network| network.priorities().as_ref());
    first(&[
        (
            "network.classID",
            CGROUP_V2,
            network.and_then(oci_spec::runtime::LinuxNetwork::class_id).is_some_and(|id| id > 0),
        ),
        ("network.priorities", CGROUP_V2, priorities.is_some_and(|list| !list.is_empty())),
        ("rdma", NO_ADAPTER, resources.rdma().as_ref().is_some_and(|limits| !limits.is_empty())),
    ])
}
