//! A few thousand guest instructions in ring 0.

use std::time::Instant;

use kvm_bindings::{CpuId, KVM_EXIT_INTERNAL_ERROR};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress};
use vmrun_devices::Memory;

use crate::error::KvmError;
use crate::kvm;
use crate::kvm_run::internal_suberror;
use crate::vcpu::{Entry, guest_cpuid, set_boot_state, write_tables};

const CODE: u64 = 0x1_0000;
/// An empty XSAVE area: restoring it puts the FPU into its initial state.
const XSAVE_AREA: u64 = 0x1_1000;
const MEMORY_BYTES: usize = 0x2_0000;
const CR4_OSXSAVE: u64 = 1 << 18;

/// Port and value by which the code says that it is done.
const DONE_PORT: u16 = 0xf4;
const DONE: u8 = 0x2a;

/// Rounds of the loop; four instructions each.
const ROUNDS: u32 = 50_000;

/// The guest code, position-independent but for the XSAVE area's address.
#[rustfmt::skip]
fn code() -> Vec<u8> {
    let mut code = Vec::new();
    code.push(0xb9);                                      // mov ecx, ROUNDS
    code.extend(ROUNDS.to_le_bytes());
    code.extend([0xf3, 0x48, 0x0f, 0xb8, 0xc1]);          // again: popcnt rax, rcx
    code.extend([0x48, 0x01, 0xc3]);                      // add rbx, rax
    code.extend([0xff, 0xc9]);                            // dec ecx
    code.extend([0x75, 0xf4]);                            // jnz again
    code.extend([0x31, 0xd2]);                            // xor edx, edx
    code.extend([0xb8, 3, 0, 0, 0]);                      // mov eax, 3 (x87 and SSE)
    code.push(0xbf);                                      // mov edi, XSAVE_AREA
    code.extend(&XSAVE_AREA.to_le_bytes()[..4]);
    code.extend([0x0f, 0xae, 0x2f]);                      // xrstor [rdi]
    code.extend([0xb0, DONE]);                            // mov al, DONE
    code.extend([0xe6, DONE_PORT.to_le_bytes()[0]]);      // out DONE_PORT, al
    code.push(0xf4);                                      // hlt
    code
}

/// What the loop leaves in RBX.
fn expected_sum() -> u64 {
    (1..=ROUNDS).map(|round| u64::from(round.count_ones())).sum()
}

/// Why the probe did not come to its end.
#[derive(Debug)]
pub(super) enum ProbeError {
    /// A call to KVM failed.
    Kvm(KvmError),
    /// The guest code stopped; one clause that says why.
    Stopped(String),
}

impl From<KvmError> for ProbeError {
    fn from(error: KvmError) -> Self {
        Self::Kvm(error)
    }
}

/// Runs the code and returns its speed in millions of instructions a second.
pub(super) fn run_probe(kvm: &Kvm, supported: &CpuId) -> Result<f64, ProbeError> {
    let vm = kvm::create_vm(kvm, 1)?;
    let written = |_| KvmError::Capability("memory for a guest");
    let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])
        .map_err(|_| KvmError::Capability("memory for a guest"))?;
    kvm::set_memory(&vm, &memory)?;
    write_tables(&memory).map_err(written)?;
    memory.write_slice(&code(), GuestAddress(CODE)).map_err(written)?;

    let mut vcpu = vm.create_vcpu(0).map_err(KvmError::call("make a vCPU"))?;
    let cpuid = guest_cpuid(supported, 0, 1).map_err(|_| KvmError::Capability("room for CPUID entries"))?;
    vcpu.set_cpuid2(&cpuid).map_err(KvmError::call("set a vCPU's CPUID"))?;
    set_boot_state(&vcpu, Entry { rip: CODE, rsi: 0 })?;
    let mut sregs = vcpu.get_sregs().map_err(KvmError::call("read a vCPU's registers"))?;
    sregs.cr4 |= CR4_OSXSAVE;
    vcpu.set_sregs(&sregs).map_err(KvmError::call("give a vCPU the XSAVE instructions"))?;

    let start = Instant::now();
    finish(&mut vcpu)?;
    let seconds = start.elapsed().as_secs_f64();
    let sum = vcpu.get_regs().map_err(KvmError::call("read a vCPU's registers"))?.rbx;
    if sum != expected_sum() {
        return Err(ProbeError::Stopped("computes a wrong sum of popcnt results".to_owned()));
    }
    Ok(4.0 * f64::from(ROUNDS) / seconds / 1e6)
}

fn finish(vcpu: &mut VcpuFd) -> Result<(), ProbeError> {
    match vcpu.run() {
        Ok(VcpuExit::IoOut(DONE_PORT, [DONE])) => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(KvmError::call("run a vCPU")(error).into()),
    }
    let reason = vcpu.get_kvm_run().exit_reason;
    Err(ProbeError::Stopped(match reason {
        KVM_EXIT_INTERNAL_ERROR => stopped_at(vcpu),
        _ => format!("leaves it before its end (exit reason {reason})"),
    }))
}

/// KVM gave up at an instruction: name it.
fn stopped_at(vcpu: &mut VcpuFd) -> String {
    let suberror = internal_suberror(vcpu);
    let offset = vcpu.get_regs().ok().and_then(|regs| usize::try_from(regs.rip.checked_sub(CODE)?).ok());
    let code = code();
    let rest = offset.and_then(|offset| code.get(offset..)).unwrap_or_default();
    let instruction = match rest {
        [0xf3, 0x48, 0x0f, 0xb8, ..] => "the instruction popcnt in ring 0",
        [0x0f, 0xae, ..] => "the instruction xrstor in ring 0",
        _ => "guest code in ring 0",
    };
    format!("gives up at {instruction} (KVM_EXIT_INTERNAL_ERROR, suberror {suberror})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loop_jumps_back_to_popcnt() {
        let code = code();
        let popcnt = code.windows(2).position(|bytes| bytes == [0xf3, 0x48]).unwrap();
        let jump = code.windows(2).position(|bytes| bytes == [0x75, 0xf4]).unwrap();
        assert_eq!(jump + 2 - 12, popcnt);
    }
}
