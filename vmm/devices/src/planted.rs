//! Holes for tests of the walls behind the first one: what the guest says here is done.
//!
//! Only with the feature `planted-holes`, which only a development build can have. `tests/hostile/planted.py` drives it.
//!
//! ```text
//!   what the guest asks for, in its memory, little-endian:
//!      0  16 bytes of zeros, in which a device finds nothing to do
//!     16  MAGIC
//!     24  a system call's number, and its six arguments
//!     80  which of those are guest addresses, a bit for each
//!     88  what the kernel answers; negative, an error number
//! ```
//!
//! It is found at the beginning of any chain of a queue's, and made by the thread that takes the chain; or its address is written
//! to [`PORT`], and a vCPU's thread makes it. Besides, the file server does not look at names ([`CHECKS_NAMES`]).
#![allow(unsafe_code)]

use std::io;
use std::sync::OnceLock;

use libc::{BPF_K, BPF_RET, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS};
use seccompiler::BpfProgram;
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemory};

use crate::memory::Memory;

#[cfg(not(debug_assertions))]
compile_error!(
    "the feature planted-holes is for development builds, whose holes nobody takes for a release's"
);

/// The file server does what a guest says of any path.
pub(crate) const CHECKS_NAMES: bool = false;

/// The port to which the address of a call is written, 4 bytes.
const PORT: u16 = 0x5e0;
const MAGIC: u64 = u64::from_le_bytes(*b"A HOLE!\n");
const MAGIC_AT: u64 = 16;
const CALL_AT: u64 = 24;
const ADDRESSES_AT: u64 = 80;
const ANSWER_AT: u64 = 88;

/// What the environment says of the walls behind.
const WALLS: &str = "VMRUN_PLANTED_WALLS";
/// An error number of no system call's.
const NOT_ON_THE_LIST: u32 = 4000;

/// The memory of the guest behind the port.
static MEMORY: OnceLock<Memory> = OnceLock::new();

/// There are none: what a call does then is what the walls are for.
pub(crate) fn walls_are_down() -> bool {
    std::env::var_os(WALLS).is_some_and(|walls| walls == "down")
}

/// Where a filter is only to tell, a call that would end the process fails with an error number of its own: many can be tried then.
pub(crate) fn soften(program: &mut BpfProgram) {
    if std::env::var_os(WALLS).is_none_or(|walls| walls != "told") {
        return;
    }
    let ends = program.iter_mut().filter(|step| u32::from(step.code) == BPF_RET | BPF_K);
    for step in ends.filter(|step| step.k == SECCOMP_RET_KILL_PROCESS) {
        step.k = SECCOMP_RET_ERRNO | NOT_ON_THE_LIST;
    }
}

/// Makes the call that this chain begins with, if it does.
pub(crate) fn take(memory: &Memory, chain: &DescriptorChain<&Memory>) {
    if let Some(first) = chain.clone().next() {
        make(memory, first.addr().0);
    }
}

/// The guest's memory, of which a port's number tells nothing.
pub fn know(memory: &Memory) {
    // Of one machine a process.
    let _ = MEMORY.set(memory.clone());
}

/// Makes the call that is written to a port, if it is that one.
pub fn take_port(port: u16, data: &[u8]) {
    if let (PORT, Ok(address), Some(memory)) = (port, data.try_into(), MEMORY.get()) {
        make(memory, u32::from_le_bytes(address).into());
    }
}

fn make(memory: &Memory, at: u64) {
    let word = |offset: u64| memory.read_obj::<u64>(GuestAddress(at.saturating_add(offset))).unwrap_or(0);
    if word(MAGIC_AT) != MAGIC {
        return;
    }
    let addresses = word(ADDRESSES_AT);
    let argument = |index: u64| match word(CALL_AT + 8 + index * 8) {
        // One that is outside its memory stays what it is: a hole has no manners.
        value if addresses >> index & 1 == 1 => memory
            .get_host_address(GuestAddress(value))
            .map_or(value, |address| address.expose_provenance() as u64),
        value => value,
    };
    let answer = system_call(word(CALL_AT), std::array::from_fn(|index| argument(index as u64)));
    // A guest that does not want it does not get it.
    let _ = memory.write_obj(answer, GuestAddress(at.saturating_add(ANSWER_AT)));
}

fn system_call(number: u64, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: there is none. Whatever the guest wants happens to this process, as to one that a guest has broken into; what
    // comes of it is the test's question, and no other program has this module.
    let answer = unsafe { libc::syscall(number.cast_signed(), a, b, c, d, e, f) };
    if answer == -1 { -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { answer }
}
