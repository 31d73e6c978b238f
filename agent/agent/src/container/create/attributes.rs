//! What the kernel keeps for a process besides its rights: priorities, limits, personality, processors.

use oci_spec::runtime::{
    IOPriorityClass, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler,
    Spec,
};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::words;
use crate::sys::{self, SchedulerAttributes};

/// `linux/personality.h`
const PER_LINUX: libc::c_ulong = 0;
const PER_LINUX32: libc::c_ulong = 8;

/// Sets those that come before everything else.
pub(super) fn set_priorities(process: &Process) -> Result<(), String> {
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        sys::set_io_priority(class, priority.priority())
            .map_err(|error| format!("process.ioPriority: cannot set it: {}", words(error)))?;
    }
    process.scheduler().as_ref().map_or(Ok(()), |scheduler| {
        sys::set_scheduler(&attributes_of(scheduler))
            .map_err(|error| format!("process.scheduler: cannot set it: {}", words(error)))
    })
}

fn attributes_of(scheduler: &Scheduler) -> SchedulerAttributes {
    let flags = scheduler.flags().iter().flatten().map(|flag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    });
    SchedulerAttributes {
        policy: match scheduler.policy() {
            LinuxSchedulerPolicy::SchedOther => 0,
            LinuxSchedulerPolicy::SchedFifo => 1,
            LinuxSchedulerPolicy::SchedRr => 2,
            LinuxSchedulerPolicy::SchedBatch => 3,
            LinuxSchedulerPolicy::SchedIso => 4,
            LinuxSchedulerPolicy::SchedIdle => 5,
            LinuxSchedulerPolicy::SchedDeadline => 6,
        },
        flags: flags.fold(0, |all, one| all | one),
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().unwrap_or(0).cast_unsigned(),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..SchedulerAttributes::default()
    }
}

pub(super) fn set_personality(spec: &Spec) -> Result<(), String> {
    let personality = spec.linux().as_ref().and_then(|linux| linux.personality().as_ref());
    let Some(personality) = personality else { return Ok(()) };
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err("linux.personality.flags: there are none yet; leave the field out".to_owned());
    }
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => PER_LINUX,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    };
    sys::set_personality(domain)
        .map_err(|error| format!("linux.personality: cannot take it: {}", words(error)))
}

pub(super) fn set_limits(process: &Process) -> Result<(), String> {
    process.rlimits().iter().flatten().try_for_each(|limit| {
        // The specification's types are in the order of the kernel's numbers.
        sys::set_limit(limit.typ() as u32, limit.soft(), limit.hard()).map_err(|error| {
            format!(
                "process.rlimits {} (soft {}, hard {}): cannot set one: {}",
                limit.typ(),
                limit.soft(),
                limit.hard(),
                words(error)
            )
        })
    })
}

pub(super) fn affinity_before_the_cgroup(spec: &Spec) -> Result<(), String> {
    let affinity = spec.process().as_ref().and_then(|process| process.exec_cpu_affinity().as_ref());
    let list = affinity.and_then(|affinity| affinity.initial().as_deref());
    list.map_or(Ok(()), |list| set_affinity("initial", list))
}

pub(super) fn affinity_in_the_cgroup(process: &Process) -> Result<(), String> {
    let affinity = process.exec_cpu_affinity().as_ref();
    let list = affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref());
    list.map_or(Ok(()), |list| set_affinity("final", list))
}

fn set_affinity(field: &str, list: &str) -> Result<(), String> {
    if list.is_empty() {
        return Ok(());
    }
    let about =
        |cause: String| format!("process.execCPUAffinity.{field} {list:?}: cannot run there: {cause}");
    let cpus = cpus(list).ok_or_else(|| about("it is no list of processors".to_owned()))?;
    sched_setaffinity(None, &cpus).map_err(|error| about(words(error)))
}

/// `0-3,7`
fn cpus(list: &str) -> Option<CpuSet> {
    let mut cpus = CpuSet::new();
    for part in list.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        (first..=last).for_each(|cpu| cpus.set(cpu));
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn list_of_processors() {
        let listed =
            |list: &str| cpus(list).map(|cpus| (0..16).filter(|cpu| cpus.is_set(*cpu)).collect::<Vec<_>>());
        assert_eq!(listed("0-2,7").unwrap(), [0, 1, 2, 7]);
        assert_eq!(listed("3").unwrap(), [3]);
        for wrong in ["", "x", "2-1", "0-99999999", "1,,2"] {
            assert_eq!(listed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn scheduler_in_the_kernels_numbers() {
        let given = json!({ "policy": "SCHED_RR", "priority": 5, "flags": ["SCHED_RESET_ON_FORK"] });
        let attributes = attributes_of(&serde_json::from_value(given).unwrap());
        assert_eq!((attributes.policy, attributes.priority, attributes.flags), (2, 5, 1));
    }
}
