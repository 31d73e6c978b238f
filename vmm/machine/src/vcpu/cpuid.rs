//! What the guest's CPUs say of themselves.
//!
//! The base is what KVM supports on this host. On top: each CPU's own number and
//! a topology of one socket with one thread a core; the hypervisor bit and the
//! TSC-deadline timer, which KVM emulates without listing it; and no nested
//! virtualization and no performance counters: the guest has no use for them and
//! each is attack surface and start-up work.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Leaf 1 ECX.
mod leaf1_ecx {
    pub(super) const VMX: u32 = 1 << 5;
    pub(super) const TSC_DEADLINE: u32 = 1 << 24;
    pub(super) const HYPERVISOR: u32 = 1 << 31;
}

/// Leaf 1 EDX: several logical processors in the package.
const HTT: u32 = 1 << 28;
/// Leaf 6 EAX: the APIC timer runs in every power state.
const ARAT: u32 = 1 << 2;
/// Leaf 0x8000_0001 ECX.
const SVM: u32 = 1 << 2;
const PERF_CTR_EXT: u32 = 1 << 23 | 1 << 24 | 1 << 28;

/// The CPUID of CPU `id` of `count`, from what KVM supports.
pub(crate) fn guest_cpuid(supported: &CpuId, id: u8, count: u8) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let mut entries: Vec<_> = supported.as_slice().iter().map(|entry| adapt(*entry, id, count)).collect();
    // KVM lists leaf 6 only where the host has it; the guest needs its ARAT bit
    // to trust the APIC timer.
    if !entries.iter().any(|entry| entry.function == 6) {
        entries.push(kvm_cpuid_entry2 { function: 6, eax: ARAT, ..Default::default() });
    }
    CpuId::from_entries(&entries)
}

fn adapt(mut entry: kvm_cpuid_entry2, id: u8, count: u8) -> kvm_cpuid_entry2 {
    let cpu = u32::from(id);
    let cpus = u32::from(count);
    match entry.function {
        1 => {
            entry.ebx = entry.ebx & 0xffff | cpus << 16 | cpu << 24;
            entry.ecx = (entry.ecx & !leaf1_ecx::VMX) | leaf1_ecx::TSC_DEADLINE | leaf1_ecx::HYPERVISOR;
            entry.edx = if count > 1 { entry.edx | HTT } else { entry.edx & !HTT };
        }
        // Intel cache leaf: cores in the package, and no cache shared beyond it.
        4 if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level < 3 { 0 } else { cpus - 1 };
            entry.eax = entry.eax & 0x3fff | sharing << 14 | (cpus - 1).min(63) << 26;
        }
        6 => entry.eax |= ARAT,
        0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        0xb | 0x1f => topology(&mut entry, cpu, cpus),
        0x8000_0001 => entry.ecx &= !(SVM | PERF_CTR_EXT),
        0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | id_bits(cpus) << 12 | (cpus - 1),
        // AMD: SVM features, performance monitoring.
        0x8000_000a | 0x8000_0022 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        // AMD topology: APIC id, core id with one thread a core, one node.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (cpu, cpu, 0),
        _ => {}
    }
    entry
}

/// Extended topology: level 0 is the thread, level 1 the core.
fn topology(entry: &mut kvm_cpuid_entry2, cpu: u32, cpus: u32) {
    const SMT: u32 = 1;
    const CORE: u32 = 2;
    let level = entry.index;
    (entry.eax, entry.ebx, entry.ecx) = match level {
        0 => (0, 1, SMT << 8),
        1 => (id_bits(cpus), cpus, CORE << 8 | 1),
        _ => (0, 0, level & 0xff),
    };
    entry.edx = cpu;
}

/// Bits of an APIC id that tell `cpus` CPUs apart.
fn id_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        }
    }

    #[test]
    fn nested_virtualization_and_counters_are_hidden() {
        assert_eq!(adapt(leaf(1, 0), 0, 1).ecx & leaf1_ecx::VMX, 0);
        assert_eq!(adapt(leaf(0x8000_0001, 0), 0, 1).ecx & SVM, 0);
        assert_eq!(adapt(leaf(0xa, 0), 0, 1).eax, 0);
    }

    #[test]
    fn each_cpu_has_its_number_in_every_leaf() {
        for id in [0, 1, 5] {
            assert_eq!(adapt(leaf(1, 0), id, 6).ebx >> 24, u32::from(id));
            assert_eq!(adapt(leaf(0xb, 0), id, 6).edx, u32::from(id));
            assert_eq!(adapt(leaf(0x8000_001e, 0), id, 6).eax, u32::from(id));
        }
    }

    #[test]
    fn six_cores_need_three_id_bits() {
        let core = adapt(leaf(0xb, 1), 0, 6);
        assert_eq!((core.eax, core.ebx), (3, 6));
        assert_eq!(adapt(leaf(0x8000_0008, 0), 0, 6).ecx & 0xf0ff, 3 << 12 | 5);
        assert_eq!(id_bits(1), 0);
    }

    #[test]
    fn timer_leaf_is_added_where_the_host_has_none() {
        let supported = CpuId::from_entries(&[leaf(1, 0)]).unwrap();
        let cpuid = guest_cpuid(&supported, 0, 1).unwrap();
        assert!(cpuid.as_slice().iter().any(|entry| entry.function == 6 && entry.eax & ARAT != 0));
    }
}
