//! The state of a vCPU.
#![allow(unsafe_code)]

use kvm_bindings::{
    CpuId, Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::SnapshotError;
use crate::error::KvmError;

/// What a vCPU is besides its CPUID, which follows from the host and its number.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VcpuState {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Box<kvm_xsave>,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    /// Those that the guest has changed, in the order in which they are to be set.
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    tsc_khz: Option<u32>,
    /// What the host's processor and its microcode promise, beside CPUID.
    promises: Vec<kvm_msr_entry>,
}

/// In cycles: an hour or more.
const FAR: u64 = 1 << 44;

const TSC: u32 = 0x10;
const TSC_DEADLINE: u32 = 0x6e0;

/// KVM's registers by which a guest has the time of its boot written: to set one writes it again, and the old
/// numbers of both of KVM's clocks, which mean the same as the new ones (Documentation/virt/kvm/x86/msr.rst).
const NOT_KEPT: [u32; 3] = [0x11, 0x12, 0x4b56_4d00];

/// `IA32_ARCH_CAPABILITIES` and `IA32_BIOS_SIGN_ID`: a kernel has chosen by them against which of the processor's faults it
/// guards.
const PROMISES: [u32; 2] = [0x10a, 0x8b];

/// Whether the register is left as a new vCPU has it.
pub(super) fn is_not_kept(msr: u32) -> bool {
    NOT_KEPT.contains(&msr)
}

impl VcpuState {
    /// Of a vCPU that runs nowhere, whose registers were `fresh` before it first did.
    pub(super) fn save(
        vcpu: &mut VcpuFd,
        msrs: &[u32],
        fresh: &[kvm_msr_entry],
    ) -> Result<Self, SnapshotError> {
        finish_access(vcpu)?;
        let act = "tell a vCPU's state";
        // In this order: the first one makes KVM take pending events into account.
        let mp_state = vcpu.get_mp_state().map_err(KvmError::call(act))?;
        let regs = vcpu.get_regs().map_err(KvmError::call(act))?;
        let sregs = vcpu.get_sregs().map_err(KvmError::call(act))?;
        let xsave = Box::new(vcpu.get_xsave().map_err(KvmError::call(act))?);
        let xcrs = vcpu.get_xcrs().map_err(KvmError::call(act))?;
        let debug_regs = vcpu.get_debug_regs().map_err(KvmError::call(act))?;
        let lapic = vcpu.get_lapic().map_err(KvmError::call(act))?;
        let msrs = changed(&read_msrs(vcpu, msrs)?, fresh);
        let promises = read_msrs(vcpu, &PROMISES)?;
        let events = vcpu.get_vcpu_events().map_err(KvmError::call(act))?;
        // Not every host can tell.
        let tsc_khz = vcpu.get_tsc_khz().ok();
        Ok(Self { mp_state, regs, sregs, xsave, xcrs, debug_regs, lapic, msrs, events, tsc_khz, promises })
    }

    /// Makes a new vCPU, which has this CPUID, go on where this one was. The first one's time is that of all.
    pub(crate) fn restore(&self, vcpu: &VcpuFd, cpuid: &CpuId, is_first: bool) -> Result<(), SnapshotError> {
        let act = "set a vCPU's state";
        if read_msrs(vcpu, &PROMISES)? != self.promises {
            return Err(SnapshotError::Foreign("its processor, or the microcode of that"));
        }
        if let Some(khz) = self.tsc_khz
            && vcpu.get_tsc_khz().ok() != Some(khz)
        {
            vcpu.set_tsc_khz(khz)
                .map_err(KvmError::call("run a vCPU's time stamp counter at a saved rate"))?;
        }
        vcpu.set_mp_state(self.mp_state).map_err(KvmError::call(act))?;
        vcpu.set_regs(&self.regs).map_err(KvmError::call(act))?;
        vcpu.set_sregs(&system_registers(self.sregs, cpuid)).map_err(KvmError::call(act))?;
        vcpu.set_xcrs(&self.xcrs).map_err(KvmError::call(act))?;
        // SAFETY: the call reads 4096 bytes, which is what the type has, unless the process has asked for
        // dynamic features of the guest's, which no part of this one does.
        unsafe { vcpu.set_xsave(&self.xsave) }.map_err(KvmError::call(act))?;
        vcpu.set_debug_regs(&self.debug_regs).map_err(KvmError::call(act))?;
        // It has the timer's mode, which the deadline among the registers is for.
        vcpu.set_lapic(&self.lapic).map_err(KvmError::call(act))?;
        self.restore_msrs(vcpu, is_first)?;
        vcpu.set_vcpu_events(&self.events).map_err(KvmError::call(act))?;
        Ok(())
    }

    fn restore_msrs(&self, vcpu: &VcpuFd, vcpu_is_first: bool) -> Result<(), SnapshotError> {
        // KVM (before Linux 6.7) takes a time that is less than a second from the one that it expects for an attempt to
        // have counters run alike, and keeps its own. One that is far off first makes it believe the next.
        let far = self.msrs.iter().find(|entry| entry.index == TSC);
        let far = far.map(|entry| kvm_msr_entry { data: entry.data.wrapping_add(FAR), ..*entry });
        let others = if vcpu_is_first { far } else { None };
        let entries: Vec<_> = others.into_iter().chain(self.msrs.iter().copied()).collect();
        let msrs = Msrs::from_entries(&entries).map_err(|_| SnapshotError::Foreign("its registers"))?;
        let set = vcpu.set_msrs(&msrs).map_err(KvmError::call("set a vCPU's model-specific registers"))?;
        if set == entries.len() { Ok(()) } else { Err(SnapshotError::Foreign("a register that KVM refuses")) }
    }
}

/// KVM always tells that the task segment is busy, as Intel's processors need it. For AMD's it makes no difference;
/// only one that QEMU emulates (as of 7.2) takes a busy segment for none and refuses `in` and `out` to whoever
/// may use them.
fn system_registers(mut sregs: kvm_sregs, cpuid: &CpuId) -> kvm_sregs {
    const BUSY: u8 = 2;
    if is_amd(cpuid) {
        sregs.tr.type_ &= !BUSY;
    }
    sregs
}

/// Whether the vendor is AMD: "AuthenticAMD" begins with this word.
fn is_amd(cpuid: &CpuId) -> bool {
    let auth = u32::from_le_bytes(*b"Auth");
    cpuid.as_slice().iter().any(|entry| entry.function == 0 && entry.ebx == auth)
}

/// KVM finishes an access that the guest was in the middle of when it is entered the next time (KVM API, §5).
fn finish_access(vcpu: &mut VcpuFd) -> Result<(), SnapshotError> {
    vcpu.set_kvm_immediate_exit(1);
    let finished = match vcpu.run() {
        Err(error) if error.errno() == libc::EINTR => Ok(()),
        Err(error) => Err(KvmError::call("finish a vCPU's access")(error).into()),
        Ok(_) => Err(SnapshotError::Unfinished),
    };
    vcpu.set_kvm_immediate_exit(0);
    finished
}

/// Those of `msrs` that can be read.
pub(super) fn read_msrs(vcpu: &VcpuFd, msrs: &[u32]) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let mut left: Vec<_> = msrs.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
    let mut read = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let too_many = |_| KvmError::Capability("room for a vCPU's registers");
        let mut asked = Msrs::from_entries(&left).map_err(too_many)?;
        let count = vcpu.get_msrs(&mut asked).map_err(KvmError::call("tell a vCPU's registers"))?;
        read.extend(asked.as_slice().iter().take(count));
        // The one behind is one that this processor does not have.
        left.drain(..(count + 1).min(left.len()));
    }
    Ok(read)
}

/// What of `now` is not as it was, the time stamp counter in any case: in the order in which they can be set.
fn changed(now: &[kvm_msr_entry], fresh: &[kvm_msr_entry]) -> Vec<kvm_msr_entry> {
    let was = |index| fresh.iter().find(|entry| entry.index == index).map(|entry| entry.data);
    let mut changed: Vec<_> = now
        .iter()
        .copied()
        .filter(|entry| entry.index == TSC || was(entry.index) != Some(entry.data))
        .collect();
    // A timer that has gone off while the vCPU was looked at: its interrupt might be lost. One too many does no harm.
    let of = |index| now.iter().find(|entry| entry.index == index);
    if let (Some(tsc), Some(kvm_msr_entry { data: 0, .. })) = (of(TSC), of(TSC_DEADLINE)) {
        changed.retain(|entry| entry.index != TSC_DEADLINE);
        changed.push(kvm_msr_entry { index: TSC_DEADLINE, ..*tsc });
    }
    changed.sort_by_key(|entry| match entry.index {
        TSC => (0, 0),
        TSC_DEADLINE => (2, 0),
        index => (1, index),
    });
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_kept_that_have_changed_and_the_deadline_comes_last() {
        let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        let now = vec![
            entry(TSC_DEADLINE, 9),
            entry(0x277, 6),
            entry(0xc000_0082, 1),
            entry(0x174, 0),
            entry(TSC, 4),
        ];
        let fresh = [entry(TSC_DEADLINE, 0), entry(0x277, 7), entry(0xc000_0082, 1), entry(TSC, 4)];
        let kept = changed(&now, &fresh);
        assert_eq!(
            kept.iter().map(|entry| entry.index).collect::<Vec<_>>(),
            [TSC, 0x174, 0x277, TSC_DEADLINE]
        );
        let gone_off = changed(&[entry(TSC, 5), entry(TSC_DEADLINE, 0)], &[entry(TSC_DEADLINE, 0)]);
        assert_eq!(
            gone_off.iter().map(|entry| (entry.index, entry.data)).collect::<Vec<_>>(),
            [(TSC, 5), (TSC_DEADLINE, 5)]
        );
    }
}
