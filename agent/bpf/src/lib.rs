//! Small programs for the kernel's BPF machine (`bpf(2)`): put together here, loaded, and attached.
//! The monitor sorts frames with one, the agent steers packets to its sockets with another.

mod assembler;
mod system;

pub use assembler::{Assembler, Helper, Instruction, Label, Register, Size};
pub use system::{Kind, SocketMap, attach_to_namespace, load};
