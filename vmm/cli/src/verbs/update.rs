//! `vmrun update`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use vmrun_runtime::{Error, Limits, Store};

/// Change the limits of a container
///
/// They hold in the guest: its machine keeps the size it was made with, and what is beyond it is warned of.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Name of the container
    id: String,

    /// File with the JSON of linux.resources; - is standard input
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,

    /// Weight of its CPU time, in cgroup v1's numbers: 2 to 262144
    #[arg(long, value_name = "N")]
    cpu_share: Option<u64>,

    /// Microseconds of CPU time in a period; -1 is no limit
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,

    /// Microseconds of a period
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,

    /// Microseconds of CPU time that may be saved up
    #[arg(long, value_name = "US")]
    cpu_burst: Option<u64>,

    /// CPUs, like 0-1,3
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,

    /// Memory nodes, like 0
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,

    /// 1 makes all its processes idle ones
    #[arg(long, value_name = "N")]
    cpu_idle: Option<i64>,

    /// Bytes of memory; -1 is no limit
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, value_parser = bytes)]
    memory: Option<i64>,

    /// Bytes of memory that are left to it when memory is short
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, value_parser = bytes)]
    memory_reservation: Option<i64>,

    /// Bytes of memory and swap together; -1 is no limit
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, value_parser = bytes)]
    memory_swap: Option<i64>,

    /// Number of processes; -1 is no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,

    /// Weight of its block I/O, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,

    /// Taken for runc's sake, without effect: cgroup v2 has no such limit
    #[arg(long, value_name = "BYTES", hide = true)]
    kernel_memory: Option<String>,

    /// Likewise
    #[arg(long, value_name = "BYTES", hide = true)]
    kernel_memory_tcp: Option<String>,

    /// Not supported: cgroup v2 has no such limit
    #[arg(long, value_name = "US", hide = true)]
    cpu_rt_period: Option<String>,

    /// Not supported: cgroup v2 has no such limit
    #[arg(long, value_name = "US", hide = true)]
    cpu_rt_runtime: Option<String>,

    /// Not supported: the container does not run on the host's CPUs
    #[arg(long, value_name = "SCHEMA", hide = true)]
    l3_cache_schema: Option<String>,

    /// Not supported: the container does not run on the host's CPUs
    #[arg(long, value_name = "SCHEMA", hide = true)]
    mem_bw_schema: Option<String>,
}

impl UpdateArgs {
    pub(crate) fn act(&self) -> String {
        format!("cannot update {:?}", self.id)
    }

    /// As `linux.resources` has them.
    fn limits(&self) -> Value {
        let mut limits = json!({
            "cpu": {
                "shares": self.cpu_share, "quota": self.cpu_quota, "period": self.cpu_period,
                "burst": self.cpu_burst, "cpus": self.cpuset_cpus, "mems": self.cpuset_mems, "idle": self.cpu_idle,
            },
            "memory": { "limit": self.memory, "reservation": self.memory_reservation, "swap": self.memory_swap },
            "pids": { "limit": self.pids_limit },
            "blockIO": { "weight": self.blkio_weight },
        });
        for section in limits.as_object_mut().into_iter().flat_map(|sections| sections.values_mut()) {
            if let Some(fields) = section.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
        }
        if let Some(sections) = limits.as_object_mut() {
            sections.retain(|_, section| section.as_object().is_some_and(|fields| !fields.is_empty()));
        }
        limits
    }
}

/// A number of bytes, or of K, M, G or T.
fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is not a number of bytes like 4096, 64M or -1");
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let units = [('k', 10), ('m', 20), ('g', 30), ('t', 40)];
    let (number, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((lower.strip_suffix(*unit)?, *shift)))
        .unwrap_or((lower, 0));
    let number: i64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|number| *number >= -1).ok_or_else(wrong)
}

pub(crate) fn update(store: &Store, args: &UpdateArgs) -> Result<u8, Error> {
    let old = "cgroup v2, which the guest has, knows no such limit";
    let host = "the container does not run on the host's CPUs";
    let refused = [
        (&args.cpu_rt_period, "--cpu-rt-period", old),
        (&args.cpu_rt_runtime, "--cpu-rt-runtime", old),
        (&args.l3_cache_schema, "--l3-cache-schema", host),
        (&args.mem_bw_schema, "--mem-bw-schema", host),
    ];
    if let Some((_, option, why)) = refused.into_iter().find(|(given, ..)| given.is_some()) {
        return Err(Error::Option { option, why });
    }
    let ignored =
        [(&args.kernel_memory, "--kernel-memory"), (&args.kernel_memory_tcp, "--kernel-memory-tcp")];
    for (_, option) in ignored.into_iter().filter(|(given, _)| given.is_some()) {
        vmrun_runtime::log::warn(&format!("Setting {option} is ignored: cgroup v2 knows no such limit"));
    }
    let limits = match &args.resources {
        Some(file) => Limits::File(file.clone()),
        None => Limits::Value(args.limits()),
    };
    vmrun_runtime::update(store, &args.id, &limits)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_runc_reads_them() {
        for (text, number) in [("4096", 4096), ("64M", 64 << 20), ("1gb", 1 << 30), ("-1", -1)] {
            assert_eq!(bytes(text), Ok(number), "{text}");
        }
        for wrong in ["", "x", "-2", "1e3", "9999999999T"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
