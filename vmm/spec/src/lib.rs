//! Plain data that the host side's crates hand to each other: no I/O, no
//! project dependencies, no behaviour beyond what the data itself implies.

mod machine;

pub use machine::{Image, MachineSpec, ShareSpec, VsockSpec};
