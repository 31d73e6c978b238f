//! Capabilities: what a process keeps of them.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use super::words;

/// Makes what is permitted effective again, which a change of the user takes away.
pub(super) fn make_effective() -> rustix::io::Result<()> {
    let now = capabilities(None)?;
    if now.effective == now.permitted {
        return Ok(());
    }
    set_capabilities(None, CapabilitySets { effective: now.permitted, ..now })
}

/// Keeps those of `kept` and no others. Sets that it does not mention stay, but for the bounding set, which is
/// empty then.
pub(in crate::container) fn keep_only(kept: &LinuxCapabilities) -> Result<(), String> {
    keep(kept).map_err(|error| format!("process.capabilities: cannot keep these alone: {}", words(error)))
}

fn keep(kept: &LinuxCapabilities) -> rustix::io::Result<()> {
    drop_from_bounding(kept.bounding().as_ref().map_or(CapabilitySet::empty(), set))?;
    let now = capabilities(None)?;
    let given = |given: &Option<Capabilities>, now| given.as_ref().map_or(now, set);
    let permitted = given(kept.permitted(), now.permitted);
    let wanted = CapabilitySets {
        // What was effective before the user was changed is what is permitted.
        effective: given(kept.effective(), now.permitted & permitted),
        permitted,
        inheritable: given(kept.inheritable(), now.inheritable),
    };
    set_capabilities(None, wanted)?;
    kept.ambient().as_ref().map_or(Ok(()), raise_ambient)
}

/// The kernel says where its list ends.
fn drop_from_bounding(kept: CapabilitySet) -> rustix::io::Result<()> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Err(rustix::io::Errno::INVAL) => break,
            dropped => dropped?,
        }
    }
    Ok(())
}

/// As with runc one that cannot be raised is left out: it has to be permitted and inheritable.
fn raise_ambient(wanted: &Capabilities) -> rustix::io::Result<()> {
    clear_ambient_capability_set()?;
    for one in set(wanted).iter() {
        let _ = configure_capability_in_ambient_set(one, true);
    }
    Ok(())
}

fn set(capabilities: &Capabilities) -> CapabilitySet {
    capabilities.iter().map(flag).fold(CapabilitySet::empty(), |all, one| all | one)
}

fn flag(capability: &Capability) -> CapabilitySet {
    match capability {
        Capability::AuditControl => CapabilitySet::AUDIT_CONTROL,
        Capability::AuditRead => CapabilitySet::AUDIT_READ,
        Capability::AuditWrite => CapabilitySet::AUDIT_WRITE,
        Capability::BlockSuspend => CapabilitySet::BLOCK_SUSPEND,
        Capability::Bpf => CapabilitySet::BPF,
        Capability::CheckpointRestore => CapabilitySet::CHECKPOINT_RESTORE,
        Capability::Chown => CapabilitySet::CHOWN,
        Capability::DacOverride => CapabilitySet::DAC_OVERRIDE,
        Capability::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
        Capability::Fowner => CapabilitySet::FOWNER,
        Capability::Fsetid => CapabilitySet::FSETID,
        Capability::IpcLock => CapabilitySet::IPC_LOCK,
        Capability::IpcOwner => CapabilitySet::IPC_OWNER,
        Capability::Kill => CapabilitySet::KILL,
        Capability::Lease => CapabilitySet::LEASE,
        Capability::LinuxImmutable => CapabilitySet::LINUX_IMMUTABLE,
        Capability::MacAdmin => CapabilitySet::MAC_ADMIN,
        Capability::MacOverride => CapabilitySet::MAC_OVERRIDE,
        Capability::Mknod => CapabilitySet::MKNOD,
        Capability::NetAdmin => CapabilitySet::NET_ADMIN,
        Capability::NetBindService => CapabilitySet::NET_BIND_SERVICE,
        Capability::NetBroadcast => CapabilitySet::NET_BROADCAST,
        Capability::NetRaw => CapabilitySet::NET_RAW,
        Capability::Perfmon => CapabilitySet::PERFMON,
        Capability::Setgid => CapabilitySet::SETGID,
        Capability::Setfcap => CapabilitySet::SETFCAP,
        Capability::Setpcap => CapabilitySet::SETPCAP,
        Capability::Setuid => CapabilitySet::SETUID,
        Capability::SysAdmin => CapabilitySet::SYS_ADMIN,
        Capability::SysBoot => CapabilitySet::SYS_BOOT,
        Capability::SysChroot => CapabilitySet::SYS_CHROOT,
        Capability::SysModule => CapabilitySet::SYS_MODULE,
        Capability::SysNice => CapabilitySet::SYS_NICE,
        Capability::SysPacct => CapabilitySet::SYS_PACCT,
        Capability::SysPtrace => CapabilitySet::SYS_PTRACE,
        Capability::SysRawio => CapabilitySet::SYS_RAWIO,
        Capability::SysResource => CapabilitySet::SYS_RESOURCE,
        Capability::SysTime => CapabilitySet::SYS_TIME,
        Capability::SysTtyConfig => CapabilitySet::SYS_TTY_CONFIG,
        Capability::Syslog => CapabilitySet::SYSLOG,
        Capability::WakeAlarm => CapabilitySet::WAKE_ALARM,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn names_stand_for_the_kernels_bits() {
        let named = |names: Value| set(&serde_json::from_value(names).unwrap()).bits();
        assert_eq!(named(json!(["CAP_CHOWN", "CAP_KILL", "CAP_CHECKPOINT_RESTORE"])), 1 | 1 << 5 | 1 << 40);
        assert_eq!(named(json!([])), 0);
    }
}
