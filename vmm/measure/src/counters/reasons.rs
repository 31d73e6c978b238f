//! Why a processor leaves the guest.

use std::fs;

/// A reason that is worth a figure of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) name: &'static str,
    pub(super) codes: &'static [u32],
}

const fn reason(name: &'static str, codes: &'static [u32]) -> Reason {
    Reason { name, codes }
}

/// AMD64 Architecture Programmer's Manual, volume 2, appendix C.
const SVM: &[Reason] = &[
    reason("nested page fault", &[0x400]),
    reason("interrupt", &[0x60, 0x61, 0x64]),
    reason("cpuid", &[0x72]),
    reason("hlt", &[0x78]),
    reason("port I/O", &[0x7b]),
    reason("msr", &[0x7c]),
];

/// Intel Software Developer's Manual, volume 3, appendix C. MMIO is a misconfigured entry there (49).
const VMX: &[Reason] = &[
    reason("nested page fault", &[48, 49]),
    reason("interrupt", &[1, 7]),
    reason("cpuid", &[10]),
    reason("hlt", &[12]),
    reason("port I/O", &[30]),
    reason("msr", &[31, 32]),
];

/// Those of this machine's processors.
pub(super) fn here() -> &'static [Reason] {
    of(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

fn of(cpuinfo: &str) -> &'static [Reason] {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |wanted: &str| flags.split_whitespace().any(|flag| flag == wanted);
    if has("svm") {
        SVM
    } else if has("vmx") {
        VMX
    } else {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_those_of_the_processor() {
        assert_eq!(of("flags\t: fpu svm npt"), SVM);
        assert_eq!(of("flags\t: fpu vmx ept"), VMX);
        assert!(of("flags\t: fpu vmx_like").is_empty());
        assert!(of("").is_empty());
    }
}
