//! `process.execCPUAffinity`: lists of CPUs, as `sched_setaffinity(2)` takes them. Some of a
//! list may be missing, as on a host, but not all.

use oci_spec::runtime::Process;

use crate::cpu_list;
use crate::validate::PlanError;

/// Refuses lists of which a machine with so many CPUs has none.
pub(crate) fn check(process: &Process, vcpus: u8) -> Result<(), PlanError> {
    let Some(affinity) = process.exec_cpu_affinity() else { return Ok(()) };
    for (name, list) in [("initial", affinity.initial()), ("final", affinity.cpu_affinity_final())] {
        if let Some(list) = list {
            check_list(list, vcpus)
                .map_err(|problem| PlanError::invalid(format!("process.execCPUAffinity.{name}"), problem))?;
        }
    }
    Ok(())
}

fn check_list(list: &str, vcpus: u8) -> Result<(), String> {
    let exists = cpu_list::parse(list)?.first().is_some_and(|first| *first < u32::from(vcpus));
    match (exists, vcpus) {
        (true, _) => Ok(()),
        (false, 1) => Err(format!("{list:?} names no CPU of the machine, which has CPU 0 only")),
        (false, _) => Err(format!("{list:?} names no CPU of the machine, which has 0 to {}", vcpus - 1)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn list_must_have_a_cpu_of_the_machine() {
        for good in ["0", "0-3", "3,0-1", " 1 , 2,", "2-900", "0,77"] {
            assert_eq!(check_list(good, 4), Ok(()), "{good:?}");
        }
        let table = [("4", "0 to 3"), ("5-6,9", "0 to 3"), ("", "no CPU"), ("2-1", "ends before")];
        for (bad, part) in table {
            let problem = check_list(bad, 4).unwrap_err();
            assert!(problem.contains(part), "{bad:?} gives {problem:?}");
        }
        assert!(check_list("1", 1).unwrap_err().contains("CPU 0 only"));
    }

    #[test]
    fn field_is_named() {
        for name in ["initial", "final"] {
            let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "execCPUAffinity": {name: "5"}});
            let error = check(&serde_json::from_value(process).unwrap(), 2).unwrap_err().to_string();
            assert!(error.starts_with(&format!("config.json: process.execCPUAffinity.{name}: ")), "{error}");
        }
    }
}
