//! Filters as the kernel reads them: classic BPF. Jumps say how many instructions they skip, and go forward.

/// One instruction of a filter, as the kernel reads it (`struct sock_filter`).
pub(crate) type Instruction = [u8; 8];

/// Offsets in what a filter sees of a call (`struct seccomp_data`).
pub(super) const CALL: u32 = 0;
pub(super) const ARCH: u32 = 4;

/// What instructions do (`linux/bpf_common.h`).
pub(super) const LOAD: u16 = 0x20;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_IF_EQUAL: u16 = 0x15;
pub(super) const JUMP_IF_GREATER: u16 = 0x25;
pub(super) const JUMP_IF_AT_LEAST: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

/// From here on calls of x86-64 are x32's, but for that of a tracer who wants none.
pub(super) const FIRST_OF_X32: u32 = 0x4000_0000;
pub(super) const NO_CALL: u32 = u32::MAX;

/// The architectures of the guest's programs (`AUDIT_ARCH_*` of `linux/audit.h`); x32 has the name of x86-64.
pub(super) const X86_64: u32 = 0xC000_003E;
pub(super) const X86: u32 = 0x4000_0003;

/// Each call meets the filter of its architecture; that of x86-64 knows what becomes of those that have none.
pub(super) fn joined(
    x86_64: &[Instruction],
    x32: Option<Vec<Instruction>>,
    x86: Option<Vec<Instruction>>,
) -> Vec<Instruction> {
    // From the last one on, since jumps go forward.
    let mut filter = x86_64.to_vec();
    if let Some(x32) = x32 {
        let choice = [
            instruction(LOAD, ARCH, [0, 0]),
            instruction(JUMP_IF_EQUAL, X86_64, [0, 4]),
            instruction(LOAD, CALL, [0, 0]),
            instruction(JUMP_IF_AT_LEAST, FIRST_OF_X32, [0, 2]),
            instruction(JUMP_IF_EQUAL, NO_CALL, [1, 0]),
            beyond(&filter),
        ];
        filter = [&choice, &*filter, &*x32].concat();
    }
    if let Some(x86) = x86 {
        let choice =
            [instruction(LOAD, ARCH, [0, 0]), instruction(JUMP_IF_EQUAL, X86, [0, 1]), beyond(&filter)];
        filter = [&choice, &*filter, &*x86].concat();
    }
    filter
}

/// A jump over all of them.
fn beyond(filter: &[Instruction]) -> Instruction {
    // Longer than the kernel takes is refused later.
    instruction(JUMP, u32::try_from(filter.len()).unwrap_or(u32::MAX), [0, 0])
}

/// If the call is of `arch`, and newer.
pub(super) fn refusal(arch: u32, newest: u32) -> [Instruction; 6] {
    [
        instruction(LOAD, ARCH, [0, 0]),
        instruction(JUMP_IF_EQUAL, arch, [0, 4]),
        instruction(LOAD, CALL, [0, 0]),
        instruction(JUMP_IF_GREATER, newest, [0, 2]),
        instruction(JUMP_IF_AT_LEAST, FIRST_OF_X32, [1, 0]),
        instruction(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs(), [0, 0]),
    ]
}

pub(super) fn instruction(code: u16, operand: u32, [if_true, if_false]: [u8; 2]) -> Instruction {
    let ([c0, c1], [o0, o1, o2, o3]) = (code.to_ne_bytes(), operand.to_ne_bytes());
    [c0, c1, if_true, if_false, o0, o1, o2, o3]
}
