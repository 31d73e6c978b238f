//! Values that the kernel would refuse without saying which one it means.

use oci_spec::runtime::{LinuxSchedulerPolicy, LinuxTimeOffset, PosixRlimit, Process, Scheduler, Spec};

use crate::validate::PlanError;

/// The longest host name and domain name.
const LONGEST_NAME: usize = 64;
/// The lowest of the priorities of an I/O class.
const LOWEST_IO_PRIORITY: i64 = 7;
const CLOCKS: &[&str] = &["monotonic", "boottime"];
const PROPAGATIONS: &[&str] =
    &["private", "rprivate", "rshared", "rslave", "runbindable", "shared", "slave", "unbindable"];

/// Checks those of the container as a whole.
pub(crate) fn check(spec: &Spec) -> Result<(), PlanError> {
    name("hostname", spec.hostname().as_deref())?;
    name("domainname", spec.domainname().as_deref())?;
    let Some(linux) = spec.linux() else { return Ok(()) };
    if let Some(given) = linux.rootfs_propagation().as_deref().filter(|given| !given.is_empty())
        && !PROPAGATIONS.contains(&given)
    {
        let problem = format!("{given:?} is not one of {}", PROPAGATIONS.join(", "));
        return Err(PlanError::invalid("linux.rootfsPropagation", problem));
    }
    let mut offsets: Vec<_> = linux.time_offsets().iter().flatten().collect();
    offsets.sort_by_key(|(clock, _)| clock.as_str());
    offsets.into_iter().try_for_each(|(clock, offset)| time_offset(clock, offset))
}

fn name(field: &str, name: Option<&str>) -> Result<(), PlanError> {
    match name.map_or(0, str::len) {
        0..=LONGEST_NAME => Ok(()),
        length => {
            let problem = format!("has {length} bytes; at most {LONGEST_NAME} are allowed");
            Err(PlanError::invalid(field, problem))
        }
    }
}

fn time_offset(clock: &str, offset: &LinuxTimeOffset) -> Result<(), PlanError> {
    let field = format!("linux.timeOffsets.{clock}");
    if !CLOCKS.contains(&clock) {
        return Err(PlanError::invalid(field, format!("is not one of the clocks {}", CLOCKS.join(", "))));
    }
    if offset.nanosecs().unwrap_or(0) >= 1_000_000_000 {
        return Err(PlanError::invalid(format!("{field}.nanosecs"), "is a second or more"));
    }
    Ok(())
}

/// Checks those of a process.
pub(crate) fn check_process(process: &Process) -> Result<(), PlanError> {
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        soft_is_not_above_hard(index, limit)?;
    }
    if let Some(score) = process.oom_score_adj().filter(|score| !(-1000..=1000).contains(score)) {
        let problem = format!("{score} is not from -1000 to 1000");
        return Err(PlanError::invalid("process.oomScoreAdj", problem));
    }
    if let Some(priority) = process.io_priority()
        && !(0..=LOWEST_IO_PRIORITY).contains(&priority.priority())
    {
        let problem = format!("{} is not from 0 to {LOWEST_IO_PRIORITY}", priority.priority());
        return Err(PlanError::invalid("process.ioPriority.priority", problem));
    }
    process.scheduler().as_ref().map_or(Ok(()), scheduler)
}

fn soft_is_not_above_hard(index: usize, limit: &PosixRlimit) -> Result<(), PlanError> {
    if limit.soft() <= limit.hard() {
        return Ok(());
    }
    let problem = format!("{} is above the hard limit {}", limit.soft(), limit.hard());
    Err(PlanError::invalid(format!("process.rlimits[{index}].soft"), problem))
}

/// A number that belongs to another policy would be ignored, or refused as a whole.
fn scheduler(scheduler: &Scheduler) -> Result<(), PlanError> {
    use LinuxSchedulerPolicy::{SchedBatch, SchedDeadline, SchedFifo, SchedOther, SchedRr};
    let policy = scheduler.policy();
    let given = |value: &Option<u64>| value.is_some_and(|value| value != 0);
    let refuse =
        |field: &str, problem: String| Err(PlanError::invalid(format!("process.scheduler.{field}"), problem));
    let nice = scheduler.nice().unwrap_or(0);
    if matches!(policy, SchedOther | SchedBatch) && !(-20..=19).contains(&nice) {
        return refuse("nice", format!("{nice} is not from -20 to 19"));
    }
    let priority = scheduler.priority().unwrap_or(0);
    let is_realtime = matches!(policy, SchedFifo | SchedRr);
    if is_realtime && !(1..=99).contains(&priority) {
        return refuse("priority", format!("{priority} is not from 1 to 99, which {policy} needs"));
    }
    if !is_realtime && priority != 0 {
        return refuse("priority", format!("is for SCHED_FIFO and SCHED_RR, not for {policy}"));
    }
    let deadlines = [
        ("runtime", scheduler.runtime()),
        ("deadline", scheduler.deadline()),
        ("period", scheduler.period()),
    ];
    match deadlines.into_iter().find(|(_, value)| given(value)) {
        Some((field, _)) if !matches!(policy, SchedDeadline) => {
            refuse(field, format!("is for SCHED_DEADLINE, not for {policy}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container(change: (&str, Value)) -> Result<(), PlanError> {
        let mut spec = json!({ "ociVersion": "1.0.2" });
        spec[change.0] = change.1;
        check(&serde_json::from_value(spec).unwrap())
    }

    fn process(change: (&str, Value)) -> Result<(), PlanError> {
        let mut process = json!({ "cwd": "/", "user": {} });
        process[change.0] = change.1;
        check_process(&serde_json::from_value(process).unwrap())
    }

    #[test]
    fn wrong_values_of_the_container_are_named() {
        let long = "h".repeat(65);
        for (field, value, expected) in [
            ("hostname", json!(long), "hostname"),
            ("domainname", json!(long), "domainname"),
            ("linux", json!({ "rootfsPropagation": "x" }), "linux.rootfsPropagation"),
            ("linux", json!({ "timeOffsets": { "tai": {} } }), "linux.timeOffsets.tai"),
            (
                "linux",
                json!({ "timeOffsets": { "boottime": { "nanosecs": 1_000_000_000 } } }),
                "linux.timeOffsets.boottime.nanosecs",
            ),
        ] {
            let error = container((field, value)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("config.json: {expected}: ")), "{error}");
        }
        container(("hostname", json!("h".repeat(64)))).unwrap();
        container(("linux", json!({ "rootfsPropagation": "rslave" }))).unwrap();
    }

    #[test]
    fn wrong_values_of_a_process_are_named() {
        let policy = |name: &str, more: Value| {
            let mut scheduler = json!({ "policy": name });
            scheduler.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            ("scheduler", scheduler)
        };
        for (change, expected) in [
            (("rlimits", json!([{ "type": "RLIMIT_CORE", "soft": 2, "hard": 1 }])), "rlimits[0].soft"),
            (("oomScoreAdj", json!(1001)), "oomScoreAdj"),
            (("ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 })), "ioPriority.priority"),
            (policy("SCHED_OTHER", json!({ "nice": 20 })), "scheduler.nice"),
            (policy("SCHED_BATCH", json!({ "priority": 1 })), "scheduler.priority"),
            (policy("SCHED_FIFO", json!({})), "scheduler.priority"),
            (policy("SCHED_RR", json!({ "priority": 1, "period": 5 })), "scheduler.period"),
        ] {
            let error = process(change).unwrap_err().to_string();
            assert!(error.starts_with(&format!("config.json: process.{expected}: ")), "{error}");
        }
        process(policy("SCHED_FIFO", json!({ "priority": 99 }))).unwrap();
        process(policy("SCHED_DEADLINE", json!({ "runtime": 1, "deadline": 2, "period": 3 }))).unwrap();
        process(policy("SCHED_OTHER", json!({ "nice": -20, "priority": 0 }))).unwrap();
    }
}
