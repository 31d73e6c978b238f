//! How big the machine is.
//!
//! | | 1st | 2nd | 3rd | 4th | else |
//! |---|---|---|---|---|---|
//! | vCPUs | `--vcpus` | `dev.vmrun.vcpus` | `vm.hwConfig.vcpus` | the lesser of the length of `cpu.cpus` and cpu quota / period, rounded up | 1 |
//! | memory | `--memory` | `dev.vmrun.memory` (MiB) | `vm.hwConfig.memory` (bytes) | memory limit + overhead | 256 MiB |
//!
//! A limit is one of `linux.resources` with a field of its own, or the same of its `unified`.
//! A size that somebody wrote down is taken or refused; one that is derived
//! from a limit is fitted to the host.

use oci_spec::runtime::LinuxResources;
use vmrun_spec::MachineSpec;

use crate::validate::PlanError;
use crate::{Bundle, Facts, Options, unified};

/// Annotation with the number of vCPUs.
pub(crate) const VCPUS_ANNOTATION: &str = "dev.vmrun.vcpus";

/// Annotation with the machine's memory in MiB.
pub(crate) const MEMORY_ANNOTATION: &str = "dev.vmrun.memory";

const DEFAULT_VCPUS: u32 = 1;
const DEFAULT_MEMORY_MIB: u32 = 256;

/// What kernel, agent and boot image take besides the container's limit.
const OVERHEAD_MIB: u64 = 64;

/// The kernel keeps 64 bytes for each page of 4096.
const PAGE_STRUCT_SHARE: u64 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) vcpus: u8,
    pub(crate) memory_mib: u32,
}

/// `cpuset` is the number of the host's CPUs that the configuration names.
pub(crate) fn size(
    bundle: &Bundle,
    facts: &Facts,
    options: &Options,
    cpuset: usize,
) -> Result<Size, PlanError> {
    Ok(Size { vcpus: vcpus(bundle, facts, options, cpuset)?, memory_mib: memory_mib(bundle, options)? })
}

/// What the options say, or what a machine has of which nothing is said.
pub(crate) fn asked_for(options: &Options) -> Result<Size, PlanError> {
    Ok(Size {
        vcpus: optional_vcpus(options)?.unwrap_or(u8::try_from(DEFAULT_VCPUS).unwrap_or(1)),
        memory_mib: optional_memory(options)?.unwrap_or(DEFAULT_MEMORY_MIB),
    })
}

fn bounded_vcpus(count: u32) -> Result<u8, String> {
    let fits = u8::try_from(count).ok().filter(|count| (1..=MachineSpec::MAX_VCPUS).contains(count));
    fits.ok_or_else(|| format!("{count} is not between 1 and {}", MachineSpec::MAX_VCPUS))
}

fn optional_vcpus(options: &Options) -> Result<Option<u8>, PlanError> {
    let bounded = options.vcpus.map(bounded_vcpus).transpose();
    bounded.map_err(|problem| PlanError::Option { option: "--vcpus", problem })
}

fn vcpus(bundle: &Bundle, facts: &Facts, options: &Options, cpuset: usize) -> Result<u8, PlanError> {
    let max = u32::from(MachineSpec::MAX_VCPUS);
    let bounded = bounded_vcpus;
    if let Some(count) = optional_vcpus(options)? {
        return Ok(count);
    }
    if let Some(count) = annotation(bundle, VCPUS_ANNOTATION)? {
        return bounded(count)
            .map_err(|problem| PlanError::invalid(annotation_field(VCPUS_ANNOTATION), problem));
    }
    if let Some(count) = bundle.vm.hw_config.vcpus {
        return bounded(count).map_err(|problem| PlanError::invalid("vm.hwConfig.vcpus", problem));
    }
    let quota = quota_vcpus(resources(bundle));
    if let Some(count) = u32::try_from(cpuset).ok().filter(|count| *count > 0) {
        // More than the quota can keep busy cost memory for nothing.
        return Ok(u8::try_from(count.min(quota.unwrap_or(max)).min(max)).unwrap_or(1));
    }
    let derived = quota.unwrap_or(DEFAULT_VCPUS);
    Ok(u8::try_from(derived.min(facts.cpus.max(1)).min(max)).unwrap_or(1))
}

fn quota_vcpus(resources: Option<&LinuxResources>) -> Option<u32> {
    let (quota, period) = unified::cpu_quota(resources?)?;
    u32::try_from(quota.div_ceil(period)).ok()
}

fn bounded_memory(mib: u64) -> Result<u32, String> {
    let min = MachineSpec::MIN_MEMORY_MIB;
    u32::try_from(mib)
        .ok()
        .filter(|mib| *mib >= min)
        .ok_or_else(|| format!("{mib} MiB: the guest does not boot with less than {min} MiB"))
}

fn optional_memory(options: &Options) -> Result<Option<u32>, PlanError> {
    let bounded = options.memory_mib.map(|mib| bounded_memory(mib.into())).transpose();
    bounded.map_err(|problem| PlanError::Option { option: "--memory", problem })
}

fn memory_mib(bundle: &Bundle, options: &Options) -> Result<u32, PlanError> {
    let bounded = bounded_memory;
    if let Some(mib) = optional_memory(options)? {
        return Ok(mib);
    }
    if let Some(mib) = annotation(bundle, MEMORY_ANNOTATION)? {
        return bounded(mib.into())
            .map_err(|problem| PlanError::invalid(annotation_field(MEMORY_ANNOTATION), problem));
    }
    if let Some(bytes) = bundle.vm.hw_config.memory {
        return bounded(bytes >> 20).map_err(|problem| PlanError::invalid("vm.hwConfig.memory", problem));
    }
    match resources(bundle).and_then(unified::memory_limit) {
        None => Ok(DEFAULT_MEMORY_MIB),
        Some(bytes) => {
            // A limit that no machine has means "no limit" to those who write it.
            Ok(u32::try_from(around(bytes))
                .ok()
                .filter(|mib| *mib <= MAX_DERIVED_MIB)
                .unwrap_or(DEFAULT_MEMORY_MIB))
        }
    }
}

/// The machine in MiB in which a container with that limit has all of it to itself.
pub(crate) fn around(limit: u64) -> u64 {
    let mib = limit.div_ceil(1 << 20);
    mib.saturating_add(OVERHEAD_MIB).saturating_add(mib / PAGE_STRUCT_SHARE)
}

/// 1 TiB: the largest limit that is taken as a wish for a machine of that size.
pub(crate) const MAX_DERIVED_MIB: u32 = 1 << 20;

fn resources(bundle: &Bundle) -> Option<&LinuxResources> {
    bundle.spec.linux().as_ref()?.resources().as_ref()
}

fn annotation(bundle: &Bundle, key: &str) -> Result<Option<u32>, PlanError> {
    let Some(text) = bundle.spec.annotations().as_ref().and_then(|annotations| annotations.get(key)) else {
        return Ok(None);
    };
    let number = text
        .parse()
        .map_err(|_| PlanError::invalid(annotation_field(key), format!("{text:?} is not a whole number")))?;
    Ok(Some(number))
}

fn annotation_field(key: &str) -> String {
    format!("annotations[{key:?}]")
}
