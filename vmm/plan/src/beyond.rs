//! Limits beyond the machine: they are set, and it is the machine that limits.

use oci_spec::runtime::LinuxResources;

use crate::host_limits::Machine;
use crate::size::MAX_DERIVED_MIB;
use crate::unified;

/// What the container does not get of these limits, a sentence for each.
pub fn beyond(resources: &LinuxResources, machine: Machine) -> Vec<String> {
    let more = "create the container anew for more";
    let processors = unified::cpu_quota(resources).map(|(quota, period)| quota.div_ceil(period));
    let processors = processors.filter(|wanted| *wanted > machine.vcpus.into()).map(|wanted| {
        let has = if machine.vcpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", machine.vcpus) };
        format!(
            "the limit is {wanted} CPUs' time, but the machine has {has} and its size does not change; {more}"
        )
    });
    let memory = unified::memory_limit(resources).map(|bytes| bytes >> 20);
    // Beyond that it is another word for no limit.
    let memory = memory.filter(|wanted| *wanted <= MAX_DERIVED_MIB.into());
    let memory = memory.filter(|wanted| *wanted > machine.memory_mib.into()).map(|wanted| {
        let has = machine.memory_mib;
        format!(
            "the limit is {wanted} MiB of memory, but the machine has {has} MiB and its size does not change; {more}"
        )
    });
    processors.into_iter().chain(memory).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(resources: Value) -> String {
        let machine = Machine { vcpus: 2, memory_mib: 256 };
        beyond(&serde_json::from_value(resources).unwrap(), machine).join("\n")
    }

    #[test]
    fn what_the_machine_has_is_not_told() {
        for within in [
            json!({}),
            json!({"cpu": {"quota": 200_000, "period": 100_000}, "memory": {"limit": 256 << 20}}),
            json!({"cpu": {"quota": -1}, "memory": {"limit": -1}}),
            json!({"memory": {"limit": 9_223_372_036_854_771_712_i64}}),
            json!({"unified": {"cpu.max": "max", "memory.max": "max"}}),
        ] {
            assert_eq!(told(within.clone()), "", "{within}");
        }
    }

    #[test]
    fn what_it_has_not_is_told_with_what_it_has() {
        let cpu = told(json!({"cpu": {"quota": 200_001, "period": 100_000}}));
        assert!(cpu.starts_with("the limit is 3 CPUs' time, but the machine has 2 CPUs"), "{cpu}");
        let both = told(json!({"unified": {"cpu.max": "50000 10000", "memory.max": "1G"}}));
        let (cpu, memory) = both.split_once('\n').unwrap();
        assert!(
            cpu.contains("5 CPUs' time")
                && memory.contains("1024 MiB of memory, but the machine has 256 MiB")
        );
    }
}
