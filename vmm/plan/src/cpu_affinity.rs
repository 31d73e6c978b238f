//! `process.execCPUAffinity`: lists of CPUs, as `sched_setaffinity(2)` takes them. Some of a
//! list may be missing, as on a host, but not all.

use oci_spec::runtime::Process;

use crate::validate::PlanError;

/// What the agent's set of CPUs has room for.
const MOST_CPUS: u32 = 1024;

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

/// A list as `cpuset(7)` has it: `0-3,7`.
fn check_list(list: &str, vcpus: u8) -> Result<(), String> {
    let mut exists = false;
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else {
            return Err(format!("{part:?} is no CPU and no range of them"));
        };
        if first > last {
            return Err(format!("{part:?} ends before it begins"));
        }
        if last >= MOST_CPUS {
            return Err(format!("{part:?} goes beyond CPU {}", MOST_CPUS - 1));
        }
        exists |= first < u32::from(vcpus);
    }
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
        let table = [
            ("4", "0 to 3"),
            ("5-6,9", "0 to 3"),
            ("", "no CPU"),
            ("2-1", "ends before"),
            ("0-1024", "beyond CPU 1023"),
            ("x", "no range"),
            ("-1", "no range"),
        ];
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
