//! `vmrun check`: can this host run a guest kernel, and if not, why?
//!
//! A `/dev/kvm` that opens is not enough. There are KVMs without hardware
//! virtualization that interpret guest kernel code: they are a hundred times too
//! slow and give up at instructions that every kernel uses. So the check runs a
//! few thousand guest instructions in ring 0, `popcnt` and `xrstor` among them,
//! and looks at the clock.

mod probe;

use std::arch::x86_64::__cpuid;
use std::fs;

use serde::Serialize;

use crate::error::KvmError;
use crate::kvm;
use probe::{ProbeError, run_probe};

/// Below this the host does not run guest kernel code on the processor: real
/// hardware is above 1000, an emulated one above 100, or 20 on a busy machine, and
/// an interpreter at 1.
const LEAST_MINSTR_PER_S: f64 = 5.0;

/// What the check found.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// A sandbox can run here.
    pub usable: bool,
    /// The class of the finding.
    pub verdict: Verdict,
    /// One sentence.
    pub reason: String,
    /// What to do, where something can be done.
    pub next_step: Option<String>,
    /// Millions of guest kernel instructions a second, where they could be measured.
    pub guest_minstr_per_s: Option<f64>,
}

/// Classes of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is well.
    Good,
    /// The host's kernel is too old.
    OldKernel,
    /// No `/dev/kvm`.
    Missing,
    /// No permission to open it.
    Forbidden,
    /// It lacks something that a machine needs.
    Incapable,
    /// It cannot run a kernel's code.
    CannotRunKernel,
    /// It runs a kernel's code by interpreting it.
    Slow,
}

const OTHER_HOST: &str = "use a host with hardware virtualization (Intel VT-x or AMD-V), or enable nested virtualization for this virtual machine";

const RELEASE: &str = "/proc/sys/kernel/osrelease";

/// The oldest kernel: attributes of mounts, which keep a guest to what it may write, came with it.
const OLDEST_KERNEL: (u32, u32) = (5, 12);

/// Looks at this host's kernel and KVM; takes milliseconds, on an interpreting KVM tenths of a second.
pub fn check() -> CheckReport {
    // Without the file there is no procfs, of which a run will complain.
    let release = fs::read_to_string(RELEASE).unwrap_or_default();
    if let Some(report) = of_release(release.trim()) {
        return report;
    }
    match kvm::open().and_then(|kvm| kvm::supported_cpuid(&kvm).map(|cpuid| (kvm, cpuid))) {
        Err(error) => of_kvm_error(&error),
        Ok((kvm, cpuid)) => match run_probe(&kvm, &cpuid) {
            Ok(speed) => of_speed(speed),
            Err(error) => of_probe_error(&error),
        },
    }
}

/// For the start of a machine: fails where a guest could not run, without
/// costing anything where the processor has hardware virtualization.
pub(crate) fn require_usable() -> Result<(), KvmError> {
    if processor_virtualizes() {
        return Ok(());
    }
    let report = check();
    if report.usable {
        return Ok(());
    }
    let next_step = report.next_step.map(|step| format!("; {step}")).unwrap_or_default();
    Err(KvmError::Unusable(format!("{}{next_step}", report.reason)))
}

/// The processor itself says that it has VT-x or AMD-V.
fn processor_virtualizes() -> bool {
    const VMX: u32 = 1 << 5;
    const SVM: u32 = 1 << 2;
    const EXTENDED: u32 = 0x8000_0001;
    __cpuid(1).ecx & VMX != 0 || (__cpuid(0x8000_0000).eax >= EXTENDED && __cpuid(EXTENDED).ecx & SVM != 0)
}

fn report(verdict: Verdict, reason: String, next_step: Option<&str>) -> CheckReport {
    CheckReport {
        usable: verdict == Verdict::Good,
        verdict,
        reason,
        next_step: next_step.map(str::to_owned),
        guest_minstr_per_s: None,
    }
}

/// A release that is too old. One that is no number is nobody's kernel, and left to itself.
fn of_release(release: &str) -> Option<CheckReport> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return None };
    if (major, minor) >= OLDEST_KERNEL {
        return None;
    }
    let (oldest, since) = OLDEST_KERNEL;
    let reason =
        format!("the host's kernel is Linux {release}, and a sandbox needs {oldest}.{since} or a newer one");
    Some(report(Verdict::OldKernel, reason, Some("use a host with a newer kernel")))
}

fn of_kvm_error(error: &KvmError) -> CheckReport {
    let verdict = match error {
        KvmError::Missing => Verdict::Missing,
        KvmError::Forbidden => Verdict::Forbidden,
        _ => Verdict::Incapable,
    };
    // These messages are "what is wrong; what to do".
    let text = error.to_string().replace("; run `vmrun check`", "");
    match text.split_once("; ") {
        Some((reason, next_step)) => report(verdict, reason.to_owned(), Some(next_step)),
        None => report(verdict, text, Some(OTHER_HOST)),
    }
}

fn of_probe_error(error: &ProbeError) -> CheckReport {
    let reason = match error {
        ProbeError::Kvm(error) => return of_kvm_error(error),
        ProbeError::Stopped(why) => format!(
            "/dev/kvm is there, but it interprets guest kernel code instead of running it on the processor, and {why}"
        ),
    };
    report(Verdict::CannotRunKernel, reason, Some(OTHER_HOST))
}

fn of_speed(speed: f64) -> CheckReport {
    let rounded = (speed * 10.0).round() / 10.0;
    let mut report = if speed < LEAST_MINSTR_PER_S {
        let reason = format!(
            "/dev/kvm is there, but it interprets guest kernel code at {rounded} million instructions a second where at least {LEAST_MINSTR_PER_S} are needed"
        );
        report(Verdict::Slow, reason, Some(OTHER_HOST))
    } else {
        report(Verdict::Good, "KVM runs guest kernel code on this host".to_owned(), None)
    };
    report.guest_minstr_per_s = Some(rounded);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kvm_error_has_its_verdict_and_a_next_step() {
        for (error, verdict) in [
            (KvmError::Missing, Verdict::Missing),
            (KvmError::Forbidden, Verdict::Forbidden),
            (KvmError::Version(11), Verdict::Incapable),
            (KvmError::Capability("x"), Verdict::Incapable),
        ] {
            let report = of_kvm_error(&error);
            assert_eq!((report.verdict, report.usable), (verdict, false));
            assert!(report.next_step.is_some_and(|step| !step.contains("vmrun check")), "{error}");
            assert!(!report.reason.contains(';'), "{}", report.reason);
        }
    }

    #[test]
    fn kernel_is_old_by_its_numbers() {
        for old in ["5.11.0", "5.10.0-28-amd64", "4.18.0-553.el8.x86_64"] {
            let report = of_release(old).unwrap();
            assert_eq!((report.verdict, report.usable), (Verdict::OldKernel, false));
            assert!(report.reason.contains(old) && report.reason.contains("5.12"), "{}", report.reason);
        }
        for good in ["5.12.0-rc1", "5.14.0-427.el9", "6.1.0-18-amd64", "10.0", "custom", "6"] {
            assert!(of_release(good).is_none(), "{good}");
        }
    }

    #[test]
    fn interpreted_code_is_too_slow_and_emulated_hardware_is_not() {
        assert_eq!(of_speed(1.1).verdict, Verdict::Slow);
        assert!(of_speed(400.0).usable);
    }
}
