//! The limits of the container's cgroup on the host.
//!
//! That cgroup holds the whole machine, so a limit is set there as it stands where it means the same
//! for the machine as for the container, with room for the machine where it does not, and not at all
//! where it would harm:
//!
//! | limit | on the host |
//! |---|---|
//! | CPU weight, idle, CPUs, memory nodes | as it stands |
//! | CPU quota and burst | as they stand, once the container is made: the guest boots as fast as it can |
//! | processes | as it stands, but never less than the monitor's own threads |
//! | memory | the machine's memory and [`monitor_mib`]: the guest's limit is always reached first |
//! | memory reservation, swap | as they stand |
//! | block I/O | as it stands; what names a device holds here alone, for the guest has none |
//! | `memory.high`, huge pages, devices | not here: the machine gives no memory back, and the rest is the guest's |

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDevice,
};
use vmrun_spec::HostLimit;

use crate::size::around;
use crate::unified;
use crate::validate::PlanError;

/// The machine as far as limits depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Its CPUs.
    pub vcpus: u8,
    /// Its memory in MiB.
    pub memory_mib: u32,
}

/// Threads of the monitor besides one for each vCPU, and processes that it starts, with some to spare.
const MONITOR_TASKS: u64 = 16;

/// What the monitor and the host's kernel need for a machine besides its memory: page tables, devices,
/// what is on its way between guest and files. Files that the host caches for it give way by themselves.
const MONITOR_MIB: u64 = 32;

/// The host's page tables and KVM's take 16 bytes for each page of 4096.
const PAGE_TABLE_SHARE: u64 = 256;

/// In this scale of cgroup v1 shares of CPU time are given.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// The largest weight of cgroup v2.
const MAX_WEIGHT: u32 = 10_000;

const NO_CGROUP: &str = "only a cgroup on the host holds it, and the container has none; leave the field out";

/// The limits for a container's cgroup in the order in which they are set.
pub fn host_limits(resources: &LinuxResources, machine: Machine) -> Vec<HostLimit> {
    let mut limits = Limits(Vec::new());
    resources.cpu().iter().for_each(|cpu| limits.cpu(cpu));
    resources.memory().iter().for_each(|memory| limits.memory(memory, machine));
    resources.pids().iter().for_each(|pids| limits.pids(pids, machine));
    resources.block_io().iter().for_each(|io| limits.block_io(io));
    let unified: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    unified.into_iter().for_each(|(file, value)| limits.unified(file, value, machine));
    limits.0
}

/// The same resources without those limits that the host alone holds.
pub fn without_the_hosts(resources: &LinuxResources) -> LinuxResources {
    let mut resources = resources.clone();
    if let Some(mut io) = resources.block_io().clone() {
        io.set_weight_device(None).set_throttle_read_bps_device(None).set_throttle_write_bps_device(None);
        io.set_throttle_read_iops_device(None).set_throttle_write_iops_device(None);
        resources.set_block_io(Some(io));
    }
    if let Some(mut unified) = resources.unified().clone() {
        unified.retain(|file, _| !is_io(file));
        resources.set_unified(Some(unified));
    }
    resources
}

/// Refuses what only a cgroup on the host can hold, where the container has none.
///
/// # Errors
/// A [`PlanError`] that names the field.
pub fn need_no_cgroup(limits: &[HostLimit]) -> Result<(), PlanError> {
    match limits.iter().find(|limit| limit.host_only) {
        Some(limit) => Err(PlanError::Unsupported { field: limit.field.clone(), why: NO_CGROUP }),
        None => Ok(()),
    }
}

/// What the monitor and the host take for a machine of that size.
///
/// A file that the guest remembers costs it some 1.2 KiB, and the host as much again: the inode and
/// the directory entry that the file server's descriptor pins, which do not give way as they do for a
/// plain container. So a guest full of them has its like on the host.
fn monitor_mib(machine_mib: u64) -> u64 {
    let pinned = machine_mib;
    MONITOR_MIB.saturating_add(machine_mib / PAGE_TABLE_SHARE).saturating_add(pinned)
}

struct Limits(Vec<HostLimit>);

impl Limits {
    fn add(&mut self, file: &str, value: &impl ToString, field: &str) {
        self.0.push(HostLimit {
            file: file.to_owned(),
            value: value.to_string(),
            field: format!("linux.resources.{field}"),
            ..HostLimit::default()
        });
    }

    fn add_late(&mut self, file: &str, value: &impl ToString, field: &str) {
        self.add(file, value, field);
        self.0.last_mut().into_iter().for_each(|limit| limit.late = true);
    }

    fn add_host_only(&mut self, file: &str, value: &impl ToString, field: &str) {
        self.add(file, value, field);
        self.0.last_mut().into_iter().for_each(|limit| limit.host_only = true);
    }

    fn cpu(&mut self, cpu: &LinuxCpu) {
        if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
            self.add("cpu.weight", &weight(shares), "cpu.shares");
        }
        if let Some(idle) = cpu.idle() {
            self.add("cpu.idle", &idle, "cpu.idle");
        }
        let text = |list: &Option<String>| list.clone().filter(|list| !list.trim().is_empty());
        if let Some(list) = text(cpu.cpus()) {
            self.add("cpuset.cpus", &list, "cpu.cpus");
        }
        if let Some(list) = text(cpu.mems()) {
            self.add("cpuset.mems", &list, "cpu.mems");
        }
        let (quota, period) =
            (cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period > 0));
        if quota.is_some() || period.is_some() {
            let quota = quota.filter(|quota| *quota > 0).map_or("max".to_owned(), |quota| quota.to_string());
            let value = period.map_or(quota.clone(), |period| format!("{quota} {period}"));
            self.add_late("cpu.max", &value, "cpu.quota");
        }
        if let Some(burst) = cpu.burst() {
            self.add_late("cpu.max.burst", &burst, "cpu.burst");
        }
    }

    fn memory(&mut self, memory: &LinuxMemory, machine: Machine) {
        let limit = memory.limit().filter(|limit| *limit != 0);
        // Memory without a limit means swap without one, if nothing else is said: as runc does it.
        let swap = memory.swap().filter(|swap| *swap != 0).or(limit.filter(|limit| *limit < 0));
        // The OCI's number is the sum of both.
        if let Some(swap) = swap {
            match (swap, limit) {
                (..0, _) => self.add("memory.swap.max", &"max", "memory.swap"),
                (_, Some(limit @ 1..)) => {
                    self.add("memory.swap.max", &swap.saturating_sub(limit).max(0), "memory.swap");
                }
                // Without a limit of memory it is no number for swap alone.
                _ => {}
            }
        }
        if let Some(limit) = limit {
            self.add("memory.max", &memory_max(limit, machine), "memory.limit");
        }
        if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
            self.add("memory.low", &or_max(reservation), "memory.reservation");
        }
    }

    fn pids(&mut self, pids: &LinuxPids, machine: Machine) {
        if pids.limit() != 0 {
            self.add("pids.max", &pids_max(pids.limit(), machine), "pids.limit");
        }
    }

    fn block_io(&mut self, io: &LinuxBlockIo) {
        if let Some(weight) = io.weight().filter(|weight| *weight > 0) {
            let scaled = 1 + u64::from(weight).saturating_sub(10) * 9999 / 990;
            self.add("io.bfq.weight", &weight, "blockIO.weight");
            self.add("io.weight", &scaled, "blockIO.weight");
        }
        for device in io.weight_device().iter().flatten() {
            if let Some(weight) = device.weight() {
                let value = format!("{}:{} {weight}", device.major(), device.minor());
                self.add_host_only("io.bfq.weight", &value, "blockIO.weightDevice");
            }
        }
        self.throttle("rbps", io.throttle_read_bps_device(), "blockIO.throttleReadBpsDevice");
        self.throttle("wbps", io.throttle_write_bps_device(), "blockIO.throttleWriteBpsDevice");
        self.throttle("riops", io.throttle_read_iops_device(), "blockIO.throttleReadIOPSDevice");
        self.throttle("wiops", io.throttle_write_iops_device(), "blockIO.throttleWriteIOPSDevice");
    }

    fn throttle(&mut self, key: &str, devices: &Option<Vec<LinuxThrottleDevice>>, field: &str) {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
            self.add_host_only("io.max", &value, field);
        }
    }

    fn unified(&mut self, file: &str, value: &str, machine: Machine) {
        let field = format!("unified[{file:?}]");
        // What is no number is the kernel's to judge.
        let number =
            |number: Option<u64>| number.map_or_else(|| value.to_owned(), |number| number.to_string());
        match file {
            "cpu.max" | "cpu.max.burst" => self.add_late(file, &value, &field),
            "memory.max" => {
                let limit = unified::bytes(value.trim());
                self.add(file, &number(limit.map(|limit| room_for(limit, machine))), &field);
            }
            "memory.min" | "memory.low" | "memory.swap.max" => {
                self.add(file, &number(unified::bytes(value.trim())), &field);
            }
            "pids.max" => {
                let limit = unified::number(value.trim());
                self.add(file, &number(limit.map(|limit| limit.max(tasks_of(machine)))), &field);
            }
            "cpu.weight" | "cpu.weight.nice" | "cpu.idle" | "cpuset.cpus" | "cpuset.mems" => {
                self.add(file, &value, &field);
            }
            _ if is_io(file) => self.add_host_only(file, &value, &field),
            _ => {}
        }
    }
}

/// Settings of block I/O name devices.
fn is_io(file: &str) -> bool {
    file.starts_with("io.")
}

fn or_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

/// Room for the machine that a limit makes, and for the one that there is, which may take all of its memory again.
fn memory_max(limit: i64, machine: Machine) -> String {
    u64::try_from(limit).map_or("max".to_owned(), |limit| room_for(limit, machine).to_string())
}

fn room_for(limit: u64, machine: Machine) -> u64 {
    let mib = around(limit).max(machine.memory_mib.into());
    mib.saturating_add(monitor_mib(mib)).saturating_mul(1 << 20)
}

fn pids_max(limit: i64, machine: Machine) -> String {
    u64::try_from(limit).map_or("max".to_owned(), |limit| limit.max(tasks_of(machine)).to_string())
}

/// What the monitor must be able to start.
fn tasks_of(machine: Machine) -> u64 {
    MONITOR_TASKS + u64::from(machine.vcpus)
}

/// Shares as a weight, as runc does from 1.3.2 on: the least, the usual and the most in one scale
/// are those in the other.
fn weight(shares: u64) -> u32 {
    if shares <= *SHARES.start() {
        return 1;
    }
    let shares = u32::try_from(shares.min(*SHARES.end())).unwrap_or(u32::MAX);
    let log = f64::from(shares).log2();
    let wanted = 10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0);
    (1..MAX_WEIGHT).find(|weight| f64::from(*weight) >= wanted).unwrap_or(MAX_WEIGHT)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MACHINE: Machine = Machine { vcpus: 2, memory_mib: 512 };

    fn written(resources: Value) -> Vec<(String, String)> {
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        let limits = host_limits(&resources, MACHINE).into_iter();
        limits.map(|limit| (limit.file, limit.value)).collect()
    }

    fn compare(resources: Value, wanted: &[(&str, &str)]) {
        let shown = resources.to_string();
        let wanted: Vec<_> =
            wanted.iter().map(|&(file, value)| (file.to_owned(), value.to_owned())).collect();
        assert_eq!(written(resources), wanted, "{shown}");
    }

    #[test]
    fn cpu_limits_are_the_same_on_the_host() {
        compare(
            json!({"cpu": {"shares": 2048, "quota": 50_000, "period": 100_000, "burst": 7, "cpus": "0-1", "mems": "0", "idle": 1}}),
            &[
                ("cpu.weight", "174"),
                ("cpu.idle", "1"),
                ("cpuset.cpus", "0-1"),
                ("cpuset.mems", "0"),
                ("cpu.max", "50000 100000"),
                ("cpu.max.burst", "7"),
            ],
        );
        compare(json!({"cpu": {"quota": -1, "period": 5000}}), &[("cpu.max", "max 5000")]);
        compare(json!({"cpu": {"quota": 5000}}), &[("cpu.max", "5000")]);
        compare(json!({"cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": ""}}), &[]);
    }

    #[test]
    fn shares_are_fitted_to_weights() {
        let weights = [0, 2, 512, 1024, 2048, 262_144, u64::MAX].map(weight);
        assert_eq!(weights, [1, 1, 59, 100, 174, 10_000, 10_000]);
    }

    #[test]
    fn memory_has_room_for_the_machine() {
        const MIB: u64 = 1 << 20;
        let max = |mib: u64| (mib * MIB).to_string();
        // The machine is the larger one; then the limit is.
        compare(json!({"memory": {"limit": 64 * MIB}}), &[("memory.max", &max(512 + 32 + 2 + 512))]);
        compare(json!({"memory": {"limit": 1024 * MIB}}), &[("memory.max", &max(1104 + 32 + 4 + 1104))]);
        compare(
            json!({"memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 9}}),
            &[("memory.swap.max", &max(32)), ("memory.max", &max(546 + 512)), ("memory.low", "9")],
        );
        compare(
            json!({"memory": {"limit": -1, "swap": -1, "reservation": -1}}),
            &[("memory.swap.max", "max"), ("memory.max", "max"), ("memory.low", "max")],
        );
        compare(json!({"memory": {"limit": 0, "swap": 7}}), &[]);
    }

    #[test]
    fn processes_are_never_fewer_than_the_monitors() {
        compare(json!({"pids": {"limit": 100}}), &[("pids.max", "100")]);
        compare(json!({"pids": {"limit": 5}}), &[("pids.max", "18")]);
        compare(json!({"pids": {"limit": -1}}), &[("pids.max", "max")]);
        compare(json!({"pids": {"limit": 0}}), &[]);
    }

    #[test]
    fn block_io_names_devices_of_the_host() {
        let device = json!([{"major": 8, "minor": 0, "rate": 5}, {"major": 8, "minor": 16, "rate": 0}]);
        let resources = json!({"blockIO": {"weight": 10, "weightDevice": [{"major": 8, "minor": 0, "weight": 7}], "throttleReadBpsDevice": device}});
        compare(
            resources.clone(),
            &[
                ("io.bfq.weight", "10"),
                ("io.weight", "1"),
                ("io.bfq.weight", "8:0 7"),
                ("io.max", "8:0 rbps=5"),
                ("io.max", "8:16 rbps=max"),
            ],
        );
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        let error = need_no_cgroup(&host_limits(&resources, MACHINE)).unwrap_err().to_string();
        assert!(
            error.starts_with("config.json: linux.resources.blockIO.weightDevice: not supported"),
            "{error}"
        );
        let left = without_the_hosts(&resources);
        need_no_cgroup(&host_limits(&left, MACHINE)).unwrap();
        assert_eq!(left.block_io().as_ref().unwrap().weight(), Some(10));
    }

    #[test]
    fn unified_settings_are_told_apart() {
        let unified = json!({"unified": {
            "cpu.max": "5000 100000", "memory.high": "1", "memory.max": "67108864", "memory.min": "4096",
            "pids.max": "max", "io.max": "8:0 rbps=1", "hugetlb.2MB.max": "0",
        }});
        compare(
            unified.clone(),
            &[
                ("cpu.max", "5000 100000"),
                ("io.max", "8:0 rbps=1"),
                ("memory.max", "1109393408"),
                ("memory.min", "4096"),
                ("pids.max", "max"),
            ],
        );
        let left = without_the_hosts(&serde_json::from_value(unified).unwrap());
        assert_eq!(left.unified().as_ref().unwrap().len(), 6);
    }

    #[test]
    fn unified_numbers_are_the_kernels_and_have_room_for_the_machine() {
        compare(
            json!({"unified": {"memory.max": "64M", "memory.low": "0x10", "memory.swap.max": "1K", "pids.max": "05\n"}}),
            &[
                ("memory.low", "16"),
                ("memory.max", "1109393408"),
                ("memory.swap.max", "1024"),
                ("pids.max", "18"),
            ],
        );
        compare(
            json!({"unified": {"memory.max": "max", "pids.max": "-1"}}),
            &[("memory.max", "max"), ("pids.max", "-1")],
        );
    }
}
