//! Where a guest stops before it has anything to do with its host, so that its machine can be saved: by a byte to an
//! I/O port, if it is asked to. A machine that is restored goes on behind that.

/// The I/O port; a PC has nothing there.
pub const CHECKPOINT_PORT: u16 = 0xea;

/// The variable in the agent's environment that asks for it: a parameter of the kernel's that it does not know
/// itself.
pub const CHECKPOINT_VARIABLE: &str = "VMRUN_CHECKPOINT";
